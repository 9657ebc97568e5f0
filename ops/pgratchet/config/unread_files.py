"""Finds files and folders of variables that nothing reads, because their names are almost those that are read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

_FOLDERS = {"group_vars": "group", "host_vars": "target"}
_FOLDER_SIMILARITY = 0.88
_NAME_SIMILARITY = 0.8
_MOST_COMPARISONS = 20_000
"""Comparing more names than this would be noticed, at about 10 microseconds for two names."""


def notes(folder: Path, names: Mapping[str, Collection[str]], others: Callable[[], Collection[str]]) -> Iterator[str]:
    """A sentence for each file that was probably meant to be read.

    `names` are the groups and hosts of an environment, by their folder. `others` returns those of all environments, and
    is called only when a file may be meant for this one.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        is_other = path.name not in _FOLDERS and path.is_dir()
        if is_other and (near := _nearest(path.name, _FOLDERS, _FOLDER_SIMILARITY)):
            yield f"{path}/ is not read. Did you mean {near}?"
    for kind, noun in _FOLDERS.items():
        unread = dict(_unread(folder / kind, names[kind]))
        if not unread or len(unread) * len(names[kind]) > _MOST_COMPARISONS:
            continue
        similar = {name: near for name in unread if (near := _nearest(name, names[kind], _NAME_SIMILARITY))}
        known = others() if similar else ()
        for name, near in similar.items():
            if _nearest(name, known, _NAME_SIMILARITY) == near:  # not meant for another environment
                yield f'{unread[name]} is not read, because there is no {noun} "{name}". Did you mean {near}?'


def _unread(folder: Path, known: Collection[str]) -> Iterator[tuple[str, Path]]:
    """The files of a folder that belong to no group or host, by their names without the ending."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        name = path.name.removesuffix(path.suffix) if path.suffix in (".yml", ".yaml", ".json") else path.name
        if name not in known and not name.startswith("."):
            yield name, path


def _nearest(name: str, known: Collection[str], similarity: float) -> str:
    import difflib

    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=similarity)), "")
