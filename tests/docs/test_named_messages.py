"""The messages that tables of the manual name are those of the tool: each part between dots is in its source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests import ROOT
from tests.docs.pages import all_pages, page_name

_CODE = re.compile(r"`([^`]+)`")
_FILLED_IN = re.compile(r'\.\.\.|"shop"|\bprod\b')
"""What stands in a page for a value that the message is filled with."""


@cache
def _texts() -> tuple[str, ...]:
    """Every text in the source, without what is filled in."""
    files = (ROOT / "ops" / "pgratchet").rglob("*.py")
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8"))))
    return tuple(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def _messages(page: Path) -> Iterator[str]:
    """The code in the column `message` of each table."""
    column: int | None = None
    for line in page.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")] if line.startswith("|") else []
        if not cells:
            column = None
        elif column is None:
            column = cells.index("message") if "message" in cells else -1
        elif column >= 0:
            yield from _CODE.findall(cells[column])


def _unknown(message: str) -> list[str]:
    """The parts of a message that are nowhere in the source."""
    parts = [part.strip(" ,") for part in _FILLED_IN.split(message)]
    return [part for part in parts if part and not any(part in text for text in _texts())]


@pytest.mark.parametrize("page", all_pages(), ids=page_name)
def test_the_messages_that_a_page_names_exist(page: Path) -> None:
    assert not [message for message in _messages(page) if _unknown(message)]


def test_a_message_that_was_reworded_is_found() -> None:
    assert _unknown("there is no room for a backup in ...")
    assert not _unknown("not enough space for a backup in ...")


def test_the_tables_of_messages_are_read() -> None:
    assert "another run holds the migration lock" in list(_messages(ROOT / "docs" / "backups.md"))
