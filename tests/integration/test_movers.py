"""What the real tools leave behind: the facts that `invoke adopt` rests on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.conftest import Database
from tests.movers import MOVERS, Mover
from tests.movers.node import Drizzle, Drizzle1, Prisma
from tests.movers.python import Yoyo
from tests.movers.sample import BROKEN, CONTENT, LABELS, SAMPLE

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


@pytest.mark.parametrize("mover", MOVERS, ids=lambda mover: mover.label)
def test_the_tool_applies_the_sample_and_keeps_its_history_where_we_look(
    mover: Mover, database: Database, tmp_path: Path
) -> None:
    mover.lay_out(tmp_path, SAMPLE)
    mover.migrate(tmp_path, database)
    assert database.rows(CONTENT) == LABELS
    found = {table: [f"{name} {kind}" for name, kind in database.rows(_COLUMNS, table)] for table in mover.history}
    assert found == {table: [f"{n} {t}" for n, t in columns.items()] for table, columns in mover.history.items()}


@pytest.mark.parametrize("mover", [Drizzle(), Drizzle1(), Prisma()], ids=lambda mover: mover.label)
def test_checksums_are_of_a_whole_file(mover: Mover, database: Database, tmp_path: Path) -> None:
    mover.lay_out(tmp_path, SAMPLE)
    mover.migrate(tmp_path, database)
    (table,) = mover.history
    column = "hash" if "hash" in mover.history[table] else "checksum"
    recorded = {each for (each,) in database.rows(f"SELECT {column} FROM {table}")}
    files = (tmp_path / mover.files).rglob("*.sql")
    assert recorded == {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_yoyos_hash_is_of_the_name_alone(database: Database, tmp_path: Path) -> None:
    Yoyo().lay_out(tmp_path, SAMPLE)
    Yoyo().migrate(tmp_path, database)
    found = database.rows("SELECT migration_id, migration_hash FROM _yoyo_migration")
    assert len(found) == len(SAMPLE)
    assert all(recorded == hashlib.sha256(str(name).encode()).hexdigest() for name, recorded in found)


def test_drizzle_1_has_no_moment_for_what_drizzle_0_applied(database: Database, tmp_path: Path) -> None:
    for mover, steps in ((Drizzle(), SAMPLE[:2]), (Drizzle1(), SAMPLE)):
        mover.lay_out(tmp_path / mover.label, steps)
        mover.migrate(tmp_path / mover.label, database)
    found = database.rows("SELECT name, applied_at IS NULL FROM drizzle.__drizzle_migrations ORDER BY id")
    assert found == [
        ("20240101000100_create_items", True),
        ("20240101000200_label_items", True),
        ("20240101000300_index_prices", False),
    ]


def test_drizzle_0_passes_over_what_is_dated_before_the_newest_without_a_word(
    database: Database, tmp_path: Path
) -> None:
    first, late, newest = SAMPLE
    for steps in ((first, newest), (first, late, newest)):
        Drizzle().lay_out(tmp_path, steps)
        Drizzle().migrate(tmp_path, database)
    assert database.rows("SELECT count(*) FROM drizzle.__drizzle_migrations") == [(2,)]
    assert database.rows("SELECT to_regclass('labels')") == [(None,)]


def test_prisma_leaves_a_row_without_an_end_where_a_file_fails(database: Database, tmp_path: Path) -> None:
    Prisma().lay_out(tmp_path, [*SAMPLE, BROKEN])
    with pytest.raises(AssertionError, match="division by zero"):
        Prisma().migrate(tmp_path, database)
    unfinished = "SELECT migration_name, rolled_back_at FROM _prisma_migrations WHERE finished_at IS NULL"
    assert database.rows(unfinished) == [("20240101000400_break_off", None)]


_COLUMNS = """\
SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
