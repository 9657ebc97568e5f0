"""Finds the packaged templates and the packaged example: inside an installed package, or beside it in a clone."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent
_CLONE = _PACKAGE.parents[1]

STARTER = _PACKAGE / "starter"
"""The files that `pgratchet init` writes."""


def packaged_folder(name: str) -> Path:
    """The packaged folder `templates`, `sql` or `inventory`; the last two are those of the example."""
    installed = _PACKAGE / "data" / name
    return installed if installed.is_dir() else _CLONE / name
