"""Drizzle: files by the journal or by folder, and rows."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pgratchet.adopt.tools import (
    drizzle,
    prisma,
)
from pgratchet.errors import ConfigurationError
from tests.unit.adopt.helpers import SQL, states, write


def journal(*entries: tuple[str, int]) -> str:
    import json

    return json.dumps({"entries": [{"idx": i, "tag": tag, "when": w} for i, (tag, w) in enumerate(entries)]})


def test_drizzle_files_are_read_by_the_journal(tmp_path: Path) -> None:
    text = (
        "create table a (i int)\n--> statement-breakpoint\ncreate table b (i int);--> statement-breakpoint\nselect 1;"
    )
    write(
        tmp_path,
        **{
            "meta/_journal.json": journal(("0000_one", 1700000000000), ("0001_two", 1700000001000)),
            "0000_one.sql": text,
            "0001_two.sql": SQL,
            "0002_not_in_it.sql": SQL,
        },
    )
    first, second = drizzle.files(tmp_path)
    assert first.up == "create table a (i int)\n;\ncreate table b (i int);\nselect 1;"
    assert (second.version, second.title) == ("0001", "two")
    digest = hashlib.sha256(text.encode()).hexdigest()
    raw = {"id": 1, "hash": digest, "created_at": 1700000000000}
    (row,) = drizzle.rows([raw], ())
    assert row.moment is None  # created_at is the journal's date
    assert states([first, second], [row]) == [("0000_one", "verified"), ("0001_two", "pending")]
    (row,) = drizzle.rows([{**raw, "created_at": 5}], ())
    assert states([first, second], [row])[0] == ("0000_one", "verified")  # by its hash, where the date was lost
    (row,) = drizzle.rows([{**raw, "hash": "0" * 64}], ())
    assert states([first, second], [row])[0] == ("0000_one", "changed")


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("stored", ["\n", "\r\n"])
def test_drizzle_and_prisma_checksums_accept_other_line_ends(tmp_path: Path, line_end: str, stored: str) -> None:
    text = "create table a (i int);\nselect 1;\n"
    write(tmp_path, **{"20240101000000_a/migration.sql": text.replace("\n", line_end)})
    digest = hashlib.sha256(text.replace("\n", stored).encode()).hexdigest()
    for tool in (drizzle, prisma):
        (migration,) = tool.files(tmp_path)
        assert digest in migration.checksums
        assert "\r" not in migration.up


def test_drizzle_1_0_rows_match_by_name_and_older_rows_by_second(tmp_path: Path) -> None:
    write(tmp_path, **{"20231114221320_a/migration.sql": SQL, "20231114221321_b/migration.sql": SQL + SQL})
    files = drizzle.files(tmp_path)
    digests = [hashlib.sha256(each.encode()).hexdigest() for each in (SQL, SQL + SQL)]
    old = {"id": 1, "hash": digests[0], "created_at": 1700000000123, "name": None, "applied_at": None}
    new = {
        "id": 2,
        "hash": digests[1],
        "created_at": 9,
        "name": "20231114221321_b",
        "applied_at": "2024-01-01T00:00:00Z",
    }
    rows = drizzle.rows([new, old], ())
    assert [row.moment for row in rows] == [None, "2024-01-01T00:00:00Z"]
    assert [state for _, state in states(files, rows)] == ["verified", "verified"]


@pytest.mark.parametrize(
    ("text", "is_sqlite"),
    [
        ("CREATE TABLE `a` (`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL);", True),
        ("create table a (id integer primary key autoincrement)", True),
        ("PRAGMA foreign_keys=ON;", True),
        ("create table a (t integer default (unixepoch()))", True),
        ("create table a (t text default '`'); -- a ` in a comment", False),
        (SQL, False),
    ],
)
def test_sql_that_only_sqlite_has_is_recognised(text: str, is_sqlite: bool) -> None:
    assert bool(drizzle.sqlite_obstacle(text)) == is_sqlite


def test_an_invalid_journal_and_a_missing_file_are_named(tmp_path: Path) -> None:
    write(tmp_path, **{"meta/_journal.json": "{}"})
    with pytest.raises(ConfigurationError, match="is not a journal of Drizzle"):
        drizzle.files(tmp_path)
    write(tmp_path, **{"meta/_journal.json": journal(("0000_one", 1))})
    with pytest.raises(ConfigurationError, match=r"0000_one\.sql does not exist"):
        drizzle.files(tmp_path)
