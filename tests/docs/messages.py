"""The catalogue of the errors: `python -m tests.docs.messages` prints each message, detail and hint by exit code.

The texts are read from the source. What is filled in when the error is raised is shown as its name in angle brackets.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pgratchet import errors
from tests import ROOT

PACKAGE = ROOT / "ops" / "pgratchet"


@dataclass(frozen=True)
class Entry:
    """One error as it is raised at one place of the source."""

    file: Path
    line: int
    exit_code: int
    message: str
    detail: str = ""
    hint: str = ""

    @property
    def where(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}"

    def __str__(self) -> str:
        parts = [f"[{self.exit_code}] {self.message}"]
        parts += [f"{name}: {text}" for name, text in (("DETAIL", self.detail), ("HINT", self.hint)) if text]
        return "\n    ".join(parts) + f"\n    ({self.where})"


def catalogue() -> list[Entry]:
    """Every error, by exit code and message."""
    entries = [entry for file in PACKAGE.rglob("*.py") for entry in _entries(file)]
    return sorted(entries, key=lambda entry: (entry.exit_code, entry.message, entry.where))


def _entries(file: Path) -> Iterator[Entry]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            kind = getattr(errors, node.func.id, None)
            if isinstance(kind, type) and issubclass(kind, errors.RatchetError) and node.args:
                texts = {word.arg: text(word.value) for word in node.keywords if word.arg in ("detail", "hint")}
                yield Entry(file, node.lineno, kind.exit_code, text(node.args[0]), **texts)


def text(node: ast.expr) -> str:
    """The text of an expression, with names in angle brackets for what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(text(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text(node.left) + text(node.right)
    if isinstance(node, ast.IfExp):
        return f"{text(node.body)}|{text(node.orelse)}"
    if isinstance(node, ast.FormattedValue):
        return text(node.value) if isinstance(node.value, ast.IfExp) else f"<{ast.unparse(node.value)}>"
    return f"<{ast.unparse(node)}>"


def main() -> None:
    for entry in catalogue():
        print(entry)  # noqa: T201


if __name__ == "__main__":
    main()
