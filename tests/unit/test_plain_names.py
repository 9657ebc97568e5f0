"""Plain words in the package: names that say what a value is, and docstrings that begin with a verb or a noun.

Each budget is the number that is left. It may only fall: lower it with the code.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pgratchet

PACKAGE = Path(pgratchet.__file__).parent
VAGUE = {
    *("given", "found", "made", "told", "kept", "held", "there", "said", "seen"),
    *("taken", "left", "gone", "asked", "meant", "wanted", "listed"),
}
OPENINGS = ("What ", "Whether ", "Who ", "Of ", "By ")
VAGUE_NAMES = 0
ROUNDABOUT_DOCSTRINGS = 0
REFERENCES_TO_FACTS = 0
FILES_OVER_400_LINES = 0
FUNCTIONS_OVER_40_LINES = 0

Node = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
TREES = {path: ast.parse(path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def names(tree: ast.AST) -> list[str]:
    """Parameters, and names that are assigned to."""
    return [
        node.arg if isinstance(node, ast.arg) else node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.arg) or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    ]


def docstrings(tree: ast.AST) -> list[str]:
    return [text for node in ast.walk(tree) if isinstance(node, Node) and (text := ast.get_docstring(node))]


def shown(places: list[str]) -> str:
    return f"{len(places)}, most in: " + ", ".join(f"{place} ({n})" for place, n in Counter(places).most_common(5))


def test_vague_names_are_within_the_budget() -> None:
    places = [path.name for path, tree in TREES.items() for name in names(tree) if name.strip("_") in VAGUE]
    assert len(places) <= VAGUE_NAMES, shown(places)


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    places = [path.name for path, tree in TREES.items() for text in docstrings(tree) if text.startswith(OPENINGS)]
    assert len(places) <= ROUNDABOUT_DOCSTRINGS, shown(places)


def test_nothing_refers_to_what_is_not_in_the_repository() -> None:
    """Older docstrings and comments referred to a list of facts that a reader of the repository does not have."""
    places = [path.name for path in TREES for _ in re.findall(r"\(facts\b", path.read_text("utf-8"))]
    assert len(places) <= REFERENCES_TO_FACTS, shown(places)


def test_files_and_functions_are_short() -> None:
    files = [path.name for path in TREES if path.read_text("utf-8").count("\n") > 400]
    assert len(files) <= FILES_OVER_400_LINES, shown(files)
    functions = [
        node.name
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno + 1 > 40
    ]
    assert len(functions) <= FUNCTIONS_OVER_40_LINES, shown(functions)
