"""Reads values from migrations that are Python files, which are parsed and not run."""

from __future__ import annotations

import ast
from pathlib import Path

from pgratchet.adopt.tools.tool import read_file
from pgratchet.errors import ConfigurationError


def read_literals(path: Path) -> dict[str, object]:
    """Return the top-level names of a module and their values: None if a value is not a literal."""
    try:
        tree = ast.parse(read_file(path)[1])
    except SyntaxError as error:
        raise ConfigurationError(
            f"{path} cannot be read as Python",
            detail=f"Line {error.lineno}: {error.msg}.",
            hint="Fix it, or take it out of the folder.",
        ) from error
    values: dict[str, object] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name):
                values[target.id] = _literal(node.value)
    return values


def _literal(node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def names_in(value: object) -> list[str]:
    """Names from a literal: a string, several strings or None."""
    return [value] if isinstance(value, str) else [str(name) for name in value or ()]  # type: ignore[attr-defined]
