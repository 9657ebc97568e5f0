"""Names the repeatables that are made from another tool's. Pure.

Repeatables run in order of their names, so names in the tool's order keep that order. A name is valid in a folder of
repeatables, and unique in file systems that ignore case.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from pgratchet.migrations import file_names

_FORMS = (("", "_"), ("r_", "_"), ("", "-"), ("r_", "-"))
"""Prefixes of names, and what is between words. 0010_view is the name of a versioned migration, r_0010_view is not."""
_TITLE_LIMIT = 80


def repeatable_names(titles: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Our names for repeatables with these titles, in the tool's order, and notes. They are numbered if need be."""
    for prefix, separator in _FORMS:
        names = [f"{prefix}{_slug(title, separator)}" for title in titles]
        if _are_valid(names) and all(name < following for name, following in pairwise(names)):
            return _in_folder(names), ()
    width = max(2, len(str(len(titles))))
    names = [f"r{number:0{width}}_{_slug(title, '_')}" for number, title in enumerate(titles, 1)]
    return _in_folder(names), (f"The repeatables are numbered from {names[0][: width + 1]}, to keep their order.",)


def _in_folder(names: Sequence[str]) -> list[str]:
    return [f"{file_names.REPEATABLE_FOLDER}/{name}" for name in names]


def _slug(title: str, separator: str) -> str:
    """The title with this separator between its words."""
    slug = re.sub(r"[^A-Za-z0-9.-]+", separator, title).strip("_.-")[:_TITLE_LIMIT].strip("_.-")
    return slug or "repeatable"


def _are_valid(names: Sequence[str]) -> bool:
    is_unique = len({name.lower() for name in names}) == len(names)
    return is_unique and not any(file_names.describe_repeatable_fault(f"{name}.sql") for name in names)
