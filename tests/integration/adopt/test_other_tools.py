"""The histories of the real tools have the tables and rows that `invoke adopt` expects."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.other_tools import OTHER_TOOLS, OtherTool
from tests.other_tools.node import Drizzle, Drizzle1
from tests.other_tools.python import Yoyo
from tests.other_tools.sample import CONTENT, LABELS, SAMPLE
from tests.servers.databases import Database

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


@pytest.mark.parametrize("mover", OTHER_TOOLS, ids=lambda mover: mover.label)
def test_the_tool_applies_the_sample_and_records_it_in_the_expected_table(
    mover: OtherTool, database: Database, tmp_path: Path
) -> None:
    mover.lay_out(tmp_path, SAMPLE)
    mover.migrate(tmp_path, database)
    assert database.rows(CONTENT) == LABELS
    assert {table: dict(columns_of(database, table)) for table in mover.history} == mover.history
    if mover.checksum:
        (table,) = mover.history
        files = (tmp_path / mover.files).rglob("*.sql")
        recorded = {each for (each,) in database.rows(f"SELECT {mover.checksum} FROM {table}")}
        assert recorded == {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def columns_of(database: Database, table: str) -> list[tuple[str, str]]:
    return [(str(name), str(kind)) for name, kind in database.rows(_COLUMNS, table)]


def test_the_hash_of_yoyo_is_of_the_name_only(database: Database, tmp_path: Path) -> None:
    Yoyo().lay_out(tmp_path, SAMPLE)
    Yoyo().migrate(tmp_path, database)
    rows = database.rows("SELECT migration_id, migration_hash FROM _yoyo_migration")
    assert len(rows) == len(SAMPLE)
    assert all(recorded == hashlib.sha256(str(name).encode()).hexdigest() for name, recorded in rows)


def test_drizzle_1_records_no_time_for_migrations_of_drizzle_0(database: Database, tmp_path: Path) -> None:
    for mover, steps in ((Drizzle(), SAMPLE[:2]), (Drizzle1(), SAMPLE)):
        mover.lay_out(tmp_path / mover.label, steps)
        mover.migrate(tmp_path / mover.label, database)
    rows = database.rows("SELECT name, applied_at IS NULL FROM drizzle.__drizzle_migrations ORDER BY id")
    assert rows == [
        ("20240101000100_create_items", True),
        ("20240101000200_label_items", True),
        ("20240101000300_index_prices", False),
    ]


_COLUMNS = """\
SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
"""
