"""Reads values from migrations that are Python files, which are parsed and not run."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

from pgratchet.adopt.tools.tool import read_file
from pgratchet.errors import ConfigurationError


def read_literals(path: Path) -> dict[str, object]:
    """Return the top-level names of a module and their values: None if a value is not a literal."""
    values: dict[str, object] = {}
    for node in _parse(path).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name):
                values[target.id] = _literal(node.value)
    return values


def literal_calls(path: Path, function: str, wrappers: Sequence[str] = ()) -> list[str] | None:
    """The first arguments of all calls of a function in a module.

    None when an argument is not a literal string, or when the module does more than to call this function, alone or as
    an argument of the functions `wrappers`.
    """
    nodes = list(ast.walk(_parse(path)))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    others = [call for call in calls if _name_of(call) not in (function, *wrappers)]
    if others or any(isinstance(node, _LOGIC) for node in nodes):
        return None
    arguments = [_literal(call.args[0]) if call.args else None for call in calls if _name_of(call) == function]
    strings = [argument for argument in arguments if isinstance(argument, str)]
    return strings if len(strings) == len(arguments) else None


_LOGIC = (ast.FunctionDef, ast.Lambda, ast.For, ast.While, ast.If, ast.comprehension)


def _name_of(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(read_file(path)[1])
    except SyntaxError as error:
        raise ConfigurationError(
            f"{path} is not valid Python",
            detail=f"Line {error.lineno}: {error.msg}.",
            hint="Fix the file, or move it out of the folder.",
        ) from error


def _literal(node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def names_in(value: object) -> list[str]:
    """Names from a literal: a string, several strings or None."""
    return [value] if isinstance(value, str) else [str(name) for name in value or ()]  # type: ignore[attr-defined]
