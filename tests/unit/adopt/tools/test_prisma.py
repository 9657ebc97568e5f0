"""Prisma: rows and checksums."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from pgratchet.adopt.tools import (
    prisma,
)
from tests.unit.adopt.helpers import SQL, states, write


def prisma_row(name: str, started: str, finished: str | None = "f", rolled: str | None = None) -> dict[str, Any]:
    raw = {"migration_name": name, "started_at": started, "finished_at": finished, "rolled_back_at": rolled}
    return {**raw, "checksum": hashlib.sha256(SQL.encode()).hexdigest()}


@pytest.mark.parametrize(
    ("rows", "state"),
    [
        ([], "pending"),
        ([prisma_row("1_a", "1")], "verified"),
        ([prisma_row("1_a", "1", None)], "failed"),
        ([prisma_row("1_a", "1", None, "r")], "rolled back"),
        ([prisma_row("1_a", "2"), prisma_row("1_a", "1", None, "r")], "verified"),
        ([prisma_row("1_a", "1", None, "r"), prisma_row("1_a", "2", None)], "failed"),
        ([{**prisma_row("1_a", "1"), "checksum": "0"}], "changed"),
    ],
)
def test_prisma_rows_give_the_state_of_a_file(tmp_path: Path, rows: list[dict[str, Any]], state: str) -> None:
    write(tmp_path, **{"1_a/migration.sql": SQL, "migration_lock.toml": ""})
    files = prisma.files(tmp_path)
    assert [actual for _, actual in states(files, prisma.rows(rows, files))] == [state]


def test_prisma_checksums_without_leading_zeros_are_accepted(tmp_path: Path) -> None:
    write(tmp_path, **{"1_a/migration.sql": SQL})
    old = "".join(f"{byte:x}" for byte in hashlib.sha256(SQL.encode()).digest())
    assert old in prisma.files(tmp_path)[0].checksums
