"""Finds the changesets of Liquibase in the order of the master changelog, with the conditions of the includes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pgratchet.adopt.tools.changelogs import SUFFIXES, Node, read_changelog
from pgratchet.adopt.tools.tool import read_file
from pgratchet.errors import ConfigurationError

_INCLUDES = ("include", "includeAll")
_CONDITIONS = ("contextfilter", "context", "labels")


@dataclass(frozen=True, slots=True)
class Changeset:
    """A changeset with its file and the path that its row has. `conditions` are sentences, those of includes first."""

    node: Node
    path: Path
    logical_path: str
    conditions: tuple[str, ...] = ()
    never: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)


def find_changesets(place: Path) -> list[Changeset]:
    """The changesets of a folder, or of a master changelog and what it includes, in Liquibase's order.

    Without a master changelog the order is that of the paths.
    """
    place = place.absolute()
    folder = place.parent if place.is_file() else place
    logs = {path: log for path in _changelog_paths(folder) if (log := read_changelog(path))}
    master = place if place.is_file() else _find_master(folder, logs)
    reader = _Reader(folder, logs)
    changesets = list(reader.read(master)) if master else []
    reason = f"The master changelog {master.name} does not include its file." if master else ""
    rest = [
        path for path in logs if path not in reader.files_read and (master is None or path.suffix.lower() == ".sql")
    ]
    for path in rest:
        changesets += reader.read(path, (reason,) if reason else ())
    return list({_identity(changeset): changeset for changeset in reversed(changesets)}.values())[::-1]


def _identity(changeset: Changeset) -> tuple[str, str, str]:
    attributes = changeset.node.attributes
    return attributes.get("author", ""), attributes["id"], changeset.logical_path


def _changelog_paths(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]


def _find_master(folder: Path, logs: Mapping[Path, Node]) -> Path | None:
    """The only changelog that includes others and that no other includes, in the folder or beside it."""
    beside = [path for path in sorted(folder.parent.glob("*.*")) if path.suffix in SUFFIXES[:-1] and path.is_file()]
    outer = {path: log for path in beside if (log := read_changelog(path)) and _reads_from(folder, path, log)}
    candidates = {path: log for path, log in {**logs, **outer}.items() if _includes(log)}
    included: set[Path] = set()
    for path, log in candidates.items():
        included.update(target for node in _includes(log) for target in _targets(node, path, folder) if target != path)
    masters = [path for path in candidates if path not in included]
    if len(masters) > 1:
        raise ConfigurationError(
            "more than one master changelog of Liquibase found",
            detail=f"They are {' and '.join(map(str, masters))}.",
            hint="Give the one that this database is updated with as --files=FILE.",
        )
    return masters[0] if masters else None


def _reads_from(folder: Path, path: Path, log: Node) -> bool:
    return any(folder in target.parents for node in _includes(log) for target in _targets(node, path, folder))


def _includes(log: Node) -> list[Node]:
    includes: list[Node] = []
    for node in log.children:
        includes += [node] if node.name in _INCLUDES else _includes(node) if node.name == "modifyChangeSets" else []
    return includes


def _targets(node: Node, path: Path, folder: Path) -> list[Path]:
    """The files that an include reads, in Liquibase's order."""
    if node.name == "include":
        target = resolve(node.attributes.get("file", ""), node, path, folder)
        return [target] if target and target.is_file() else []
    target = resolve(node.attributes.get("path", ""), node, path, folder)
    if target is None or not target.is_dir():
        return []
    least, most = int(node.attributes.get("mindepth", "0")), int(node.attributes.get("maxdepth", "999"))
    ending = node.attributes.get("endswithfilter", "")
    files = [file for file in _changelog_paths(target) if file.name.endswith(ending) and file != path]
    return [file for file in files if least <= len(file.relative_to(target).parts) <= most]


def resolve(name: str, node: Node, path: Path, folder: Path) -> Path | None:
    """The file or folder that a path in a changelog names: beside the changelog, or below a folder above ours."""
    name = name.replace("\\", "/").removeprefix("classpath:").lstrip("/")
    if node.attributes.get("relativetochangelogfile", "").lower() == "true":
        return path.parent / name if (path.parent / name).exists() else None
    bases = (folder, *folder.parents, path.parent, *path.parent.parents)
    return next((base / name for base in bases if (base / name).exists()), None)


class _Reader:
    """Reads a changelog and what it includes. `files_read` are the files that were read."""

    def __init__(self, folder: Path, logs: Mapping[Path, Node]) -> None:
        self.files_read: set[Path] = set()
        self._folder = folder
        self._logs = logs
        self._properties: dict[str, str] = {}

    def read(
        self, path: Path, conditions: Sequence[str] = (), never: str = "", logical: str = ""
    ) -> Iterator[Changeset]:
        """The changesets of a changelog in its order; `conditions` and `never` are those of its include."""
        if path in self.files_read:
            return
        self.files_read.add(path)
        log = self._logs.get(path) or read_changelog(path)
        if log is None:
            yield self._raw(path, conditions, never)
            return
        logical = logical or log.attributes.get("logicalfilepath", "")
        outer = (*conditions, *_conditions(log, f"the changelog {path.name}"))
        for node in log.children:
            yield from self._read_node(node, path, outer, never, logical)

    def _read_node(
        self, node: Node, path: Path, conditions: Sequence[str], never: str, logical: str
    ) -> Iterator[Changeset]:
        if node.name == "changeSet":
            own = (*conditions, *_conditions(node, "the changeset"))
            name = node.attributes.get("logicalfilepath") or logical or self._relative(path)
            if node.attributes.get("id"):
                yield Changeset(node, path, name, own, never or _never(node), self._properties)
        elif node.name in _INCLUDES:
            name = node.attributes.get("file") or node.attributes.get("path", "")
            own = (*conditions, *_conditions(node, f"the {node.name} of {name} in {path.name}"))
            ignored = f"The {node.name} of {name} in {path.name} has ignore=true." if _is_ignored(node) else ""
            for target in _targets(node, path, self._folder):
                yield from self.read(target, own, never or ignored, node.attributes.get("logicalfilepath", ""))
        elif node.name == "modifyChangeSets":
            for child in node.children:
                yield from self._read_node(child, path, conditions, never, logical)
        elif node.name == "property" and is_for_postgresql(node.attributes.get("dbms", "")):
            self._properties.setdefault(node.attributes.get("name", ""), node.attributes.get("value", ""))

    def _raw(self, path: Path, conditions: Sequence[str], never: str) -> Changeset:
        """An SQL file without changesets is one changeset (SqlChangeLogParser.java)."""
        node = Node("changeSet", {"id": "raw", "author": "includeAll"}, (), read_file(path)[1])
        return Changeset(node, path, self._relative(path), tuple(conditions), never, self._properties)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix() if self._folder in path.parents else path.name


def _conditions(node: Node, where: str) -> tuple[str, ...]:
    """A sentence for a context and one for labels. `contextFilter` is the newer name of `context`."""
    values = {name: value for name in _CONDITIONS if (value := node.attributes.get(name, "").strip())}
    if "contextfilter" in values:
        values["context"] = values.pop("contextfilter")
    nouns = {"context": "context", "labels": "labels"}
    return tuple(f'Liquibase runs it by the {nouns[name]} "{value}" of {where}.' for name, value in values.items())


def _never(node: Node) -> str:
    if not is_for_postgresql(node.attributes.get("dbms", "")):
        return f"It is for other databases: dbms={node.attributes['dbms']}."
    return "It has ignore=true." if _is_ignored(node) else ""


def _is_ignored(node: Node) -> bool:
    return node.attributes.get("ignore", "").lower() == "true"


def is_for_postgresql(dbms: str) -> bool:
    """Return whether Liquibase would run a changeset here. A changeset only for other databases has no row."""
    names = {name.strip().lower() for name in dbms.split(",") if name.strip()}
    included = {name for name in names if not name.startswith("!")}
    return (
        "!postgresql" not in names
        and "none" not in names
        and (not included or not included.isdisjoint({"postgresql", "all"}))
    )
