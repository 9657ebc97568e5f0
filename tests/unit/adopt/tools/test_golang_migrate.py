"""golang-migrate: files and the one row."""

from __future__ import annotations

from pathlib import Path

from pgratchet.adopt.tools import (
    golang_migrate,
)
from tests.unit.adopt.helpers import states, ups, write


def test_golang_migrate_files_and_the_single_row_are_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "000010_b.up.sql": "create index concurrently i on t (a);",
            "000009_a.up.sql": "BEGIN;\nselect 1;\nCOMMIT;\n",
            "000009_a.down.sql": "x",
        },
    )
    files = golang_migrate.files(tmp_path)
    assert ups(files) == [
        ("000009", "BEGIN; select 1; COMMIT;", True),
        ("000010", "create index concurrently i on t (a);", False),
    ]
    for version, dirty, expected in (
        (9, False, ["claimed", "pending"]),
        (10, False, ["claimed", "claimed"]),
        (10, True, ["claimed", "failed"]),
        (11, False, ["claimed", "claimed", "no file"]),
        (-1, False, ["pending", "pending"]),
    ):
        rows = golang_migrate.rows([{"version": version, "dirty": dirty}], files)
        assert [state for _, state in states(files, rows)] == expected, (version, dirty)
    assert golang_migrate.rows([], files) == []
