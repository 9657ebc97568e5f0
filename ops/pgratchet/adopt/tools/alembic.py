"""Alembic: the table alembic_version holds only the heads. The revisions below a head are read from the files.

Files are Python. They are parsed, not run. An applied revision becomes a file without statements, to keep its
place in the order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pgratchet.adopt.tools.python_files import names_in, read_literals
from pgratchet.adopt.tools.tool import (
    JsonRow,
    Tool,
    ToolMigration,
    ToolRow,
    find_files,
    sort_by_dependency,
)

_FILE = re.compile(r"[^_.].*\.py", re.DOTALL)


def files(folder: Path) -> Sequence[ToolMigration]:
    modules = [(path, read_literals(path)) for path, _ in find_files(folder, _FILE)]
    revisions = {str(names["revision"]): (path, names) for path, names in modules if names.get("revision")}
    dependencies = {revision: _dependencies(names) for revision, (_, names) in revisions.items()}
    order = sort_by_dependency(dependencies, dependencies)
    return [_migration(revisions[revision][0], revision, dependencies[revision]) for revision in order]


def _migration(path: Path, revision: str, dependencies: Sequence[str]) -> ToolMigration:
    return ToolMigration(
        path.stem,
        (revision,),
        version="",
        title=path.stem.removeprefix(f"{revision}_"),
        obstacle="It is Python, not SQL.",
        depends_on=tuple(dependencies),
        paths=(path,),
    )


def _dependencies(values: Mapping[str, object]) -> list[str]:
    return [name for key in ("down_revision", "depends_on") for name in names_in(values.get(key))]


def rows(json_rows: Sequence[JsonRow], migrations: Sequence[ToolMigration]) -> Sequence[ToolRow]:
    dependencies = {migration.keys[0]: migration.depends_on for migration in migrations}
    heads = [str(row["version_num"]) for row in json_rows]
    unknown = [head for head in heads if head not in dependencies]
    return [ToolRow((revision,)) for revision in [*unknown, *sort_by_dependency(heads, dependencies)]]


TOOL = Tool(
    "alembic",
    "alembic_version",
    frozenset({"version_num"}),
    ("alembic/versions", "migrations/versions"),
    files,
    rows,
    companions=re.compile(r"[_.].*", re.DOTALL),
    suffixes=(".py",),
)
