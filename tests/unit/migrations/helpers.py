"""Migrations, rows of the history and mistakes for the tests of this folder."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from pgratchet.errors import ConfigurationError
from pgratchet.migrations.files import Migration
from pgratchet.migrations.lexer import scan
from pgratchet.migrations.plan import HistoryRow
from pgratchet.migrations.statement import Statement

MOMENT = datetime(2025, 1, 11, 9, 30, tzinfo=timezone.utc)


def write(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        (folder / f"{name}.sql").write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def file(name: str, checksum: str = "c") -> Migration:
    return Migration(name, int(name.partition("_")[0]), checksum, f"{name}.sql")


def row(name: str, checksum: str = "c", *, finished: bool = True) -> HistoryRow:
    return HistoryRow(name, checksum, MOMENT if finished else None, 1)


def stopped(name: str, done: int, begun: int | None = None, *, checksum: str = "c") -> HistoryRow:
    """The row of a file without a transaction that stopped between its statements."""
    return HistoryRow(name, checksum, None, None, statements_done=done, statement_begun=begun)


def mistakes(caught: pytest.ExceptionInfo[ConfigurationError]) -> list[str]:
    return caught.value.detail.splitlines()


def only_statement(text: str) -> Statement:
    (statement,) = [piece for piece in scan(text.encode()) if isinstance(piece, Statement)]
    return statement
