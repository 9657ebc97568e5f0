"""Alembic: alembic_version, the heads alone; what is below them is found in the files, which are Python.

The files are read and not run. An applied one becomes a file without a statement, which keeps the order.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pgratchet.adopt.tools.tool import Raw, Tool, ToolMigration, ToolRow, by_dependence, named, read
from pgratchet.errors import ConfigurationError

_FILE = re.compile(r"[^_.].*\.py", re.DOTALL)


def files(folder: Path) -> Sequence[ToolMigration]:
    found = [(path, assigned(path)) for path, _ in named(folder, _FILE)]
    revisions = {str(each["revision"]): (path, each) for path, each in found if each.get("revision")}
    needs = {revision: _below(each) for revision, (_, each) in revisions.items()}
    return [_foreign(revisions[name][0], name, needs[name]) for name in by_dependence(needs, needs)]


def _foreign(path: Path, revision: str, below: Sequence[str]) -> ToolMigration:
    title = path.stem.removeprefix(f"{revision}_")
    return ToolMigration(path.stem, (revision,), "", title, obstacle="It is Python, not SQL.", needs=tuple(below))


def assigned(path: Path) -> dict[str, object]:
    """The names that a module binds to literals, by reading it."""
    try:
        tree = ast.parse(read(path)[1])
    except SyntaxError as error:
        raise ConfigurationError(
            f"{path} cannot be read as Python",
            detail=f"Line {error.lineno}: {error.msg}.",
            hint="Mend it, or take it out of the folder.",
        ) from error
    found: dict[str, object] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name):
                found[target.id] = _literal(node.value)
    return found


def _literal(node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _below(given: Mapping[str, object]) -> list[str]:
    """The revisions that one stands on."""
    found: list[str] = []
    for name in ("down_revision", "depends_on"):
        value = given.get(name)
        found += [value] if isinstance(value, str) else [str(each) for each in value or ()]  # type: ignore[attr-defined]
    return found


def rows(found: Sequence[Raw], given: Sequence[ToolMigration]) -> Sequence[ToolRow]:
    needs = {each.keys[0]: each.needs for each in given}
    heads = [str(raw["version_num"]) for raw in found]
    unknown = [head for head in heads if head not in needs]
    return [ToolRow((revision,)) for revision in [*unknown, *by_dependence(heads, needs)]]


TOOL = Tool(
    "alembic",
    "alembic_version",
    frozenset({"version_num"}),
    ("alembic/versions", "migrations/versions"),
    files,
    rows,
)
