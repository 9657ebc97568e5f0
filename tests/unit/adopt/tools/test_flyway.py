"""Flyway: files, checksums and rows."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest

from pgratchet.adopt.tools import (
    flyway,
)
from tests.unit.adopt.helpers import SQL, states, write


def test_flyway_checksum_is_a_signed_crc32_of_the_lines() -> None:
    lines = zlib.crc32(b"create table a (i int);select 1; ")
    expected = lines - (1 << 32) if lines >= 1 << 31 else lines
    for end in ("\n", "\r\n", "\r"):
        for start in ("", "\ufeff"):
            for last in ("", end):
                text = f"{start}create table a (i int);{end}select 1; {last}"
                assert flyway.checksum(text.encode()) == expected
    checksums = [flyway.checksum(f"select {n};".encode()) for n in range(20)]
    assert min(checksums) < 0 < max(checksums)
    assert all(-(1 << 31) <= each < 1 << 31 for each in checksums)
    assert flyway.checksum(b"select 1;") != flyway.checksum(b"select 1; ")


def flyway_row(rank: int, version: str | None, kind: str = "SQL", **columns: Any) -> dict[str, Any]:
    raw = {"installed_rank": rank, "version": version, "description": "x", "type": kind, "checksum": None}
    return {**raw, "success": True, "installed_on": "2024-01-01T00:00:00", "execution_time": 5, **columns}


def test_flyway_files_are_read_by_name_and_settings(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "V1__one.sql": SQL,
            "V1_1__two.sql": SQL,
            "sub/V10__ten.sql": "create index concurrently i on t (a);",
            "V2__conf.sql": "select 1;",
            "V2__conf.sql.conf": "executeInTransaction=false\n",
            "V3__placeholder.sql": "select '${x}';",
            "R__view.sql": "create view v as select 1;",
            "U1__undo.sql": "drop table t;",
        },
    )
    files = flyway.files(tmp_path)
    assert [each.name for each in files] == [
        "V1__one",
        "V1_1__two",
        "V2__conf",
        "V3__placeholder",
        "V10__ten",
        "R__view",
    ]
    assert [each.transactional for each in files] == [True, True, False, True, False, True]
    assert files[3].obstacle == "It has the placeholder ${x}."
    assert [each.repeatable for each in files] == [False, False, False, False, False, True]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([flyway_row(1, "1")], ["claimed", "pending"]),
        ([flyway_row(1, "1.0"), flyway_row(2, "2")], ["claimed", "claimed"]),
        ([flyway_row(1, "1"), flyway_row(2, "2", success=False)], ["claimed", "failed"]),
        ([flyway_row(1, "1"), flyway_row(2, "2"), flyway_row(3, "2", "UNDO_SQL")], ["claimed", "rolled back"]),
        ([flyway_row(1, "1"), flyway_row(2, "1", "UNDO_SQL"), flyway_row(3, "1")], ["claimed", "pending"]),
        ([flyway_row(1, "1"), flyway_row(2, "2"), flyway_row(3, "2", "DELETE")], ["claimed", "rolled back"]),
        ([flyway_row(1, "1", "BASELINE"), flyway_row(2, "2")], ["excluded", "claimed"]),
        ([flyway_row(0, None, "SCHEMA"), flyway_row(1, "1")], ["claimed", "pending"]),
        ([flyway_row(1, "1", checksum=7)], ["changed", "pending"]),
        ([flyway_row(1, "3", "SQL")], ["pending", "pending", "no file"]),
    ],
)
def test_flyway_rows_give_the_state_of_each_file(
    tmp_path: Path, rows: list[dict[str, Any]], expected: list[str]
) -> None:
    write(tmp_path, **{"V1__a.sql": SQL, "V2__b.sql": SQL})
    files = flyway.files(tmp_path)
    assert [state for _, state in states(files, flyway.rows(rows, files))] == expected
