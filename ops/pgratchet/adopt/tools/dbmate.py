"""dbmate: schema_migrations, a version a row and nothing to verify by. Rails has the same table, and other files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pgratchet.adopt.tools.tool import Raw, Tool, ToolMigration, ToolRow, named, read

_FILE = re.compile(r"(?P<version>\d+)_?(?P<title>.*)\.sql", re.DOTALL)
_UP = re.compile(r"--\s*migrate:up(?P<options>\s.*)?")
_DOWN = re.compile(r"--\s*migrate:down(\s.*)?")
_OPTION = re.compile(r"(?:^|\s)transaction:false(?:\s|$)")


def files(folder: Path) -> Sequence[ToolMigration]:
    found = [(path, match, read(path)[1]) for path, match in named(folder, _FILE)]
    return [_foreign(path, match, text) for path, match, text in found if re.search(rf"(?m)^{_UP.pattern}", text)]


def _foreign(path: Path, match: re.Match[str], text: str) -> ToolMigration:
    up, transactional = _up(text)
    return ToolMigration(path.stem, (match["version"],), match["version"], match["title"], up, transactional)


def _up(text: str) -> tuple[str, bool]:
    """The blocks of a file that go up, and whether they run in a transaction."""
    kept: list[str] = []
    inside, transactional = False, True
    for line in text.split("\n"):
        if match := _UP.fullmatch(line.rstrip()):
            inside = True
            transactional = transactional and not _OPTION.search(match["options"] or "")
        elif _DOWN.fullmatch(line.rstrip()):
            inside = False
        elif inside:
            kept.append(line)
    return "\n".join(kept), transactional


def rows(found: Sequence[Raw], _: Sequence[ToolMigration]) -> Sequence[ToolRow]:
    return [ToolRow((str(raw["version"]),)) for raw in found]


TOOL = Tool(
    "dbmate",
    "schema_migrations",
    frozenset({"version"}),
    ("db/migrations", "migrations"),
    files,
    rows,
    without=frozenset({"dirty"}),
)
