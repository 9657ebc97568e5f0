"""The estimated size of a backup, compared with real backups."""

from __future__ import annotations

from contextlib import closing

import psycopg
import pytest

from pgratchet import events
from pgratchet.backups import backup
from pgratchet.backups.backup import BackupOptions, BackupSource, estimated_size
from pgratchet.backups.disk_store import DiskStore
from pgratchet.backups.pg_programs import Programs
from pgratchet.backups.size_estimate import SizeEstimate
from pgratchet.database.data_size import read_data_size
from pgratchet.errors import BackupFailed
from tests.integration.backups.helpers import take
from tests.servers.databases import Database

TABLES = {
    "equal": "SELECT 1 AS a, 'x' AS b FROM generate_series(1, {rows})",
    "mixed": "SELECT n AS id, 'user' || n || '@example.com' AS email, now() - n * interval '1 min' AS at"
    " FROM generate_series(1, {rows}) AS n",
    "random": "SELECT sha512(n::text::bytea) AS a FROM generate_series(1, {rows}) AS n",
    "wide": "SELECT (SELECT string_agg(sha512((n * 1000 + i)::text::bytea), '') FROM generate_series(1, 100) AS i) AS a"
    " FROM generate_series(1, {rows} / 60) AS n",
    "indexed": "SELECT n AS id, 'user' || n || '@example.com' AS email FROM generate_series(1, {rows}) AS n",
}
"""Tables of about 1 MB for 10,000 rows, and how they compress: from almost nothing to not at all."""


def estimate_of(database: Database, store: DiskStore) -> SizeEstimate:
    with closing(database.connect()) as connection:
        return estimated_size(store, connection)


def create(database: Database, name: str, rows: int) -> None:
    database.run(f"CREATE TABLE big AS {TABLES[name].format(rows=rows)}")
    if name == "indexed":
        database.run("CREATE INDEX ON big (id); CREATE INDEX ON big (email); CREATE INDEX ON big (email, id)")


@pytest.mark.parametrize("name", TABLES)
def test_the_estimate_is_near_a_first_backup_of_one_megabyte(
    migrated: Database, backup_source: BackupSource, programs: Programs, disk_store: DiskStore, name: str
) -> None:
    create(migrated, name, 10_000)
    estimate = estimate_of(migrated, disk_store)
    size = take(backup_source, disk_store, programs).size
    assert estimate.lowest <= size + 3 * 4096  # in blocks
    assert size <= estimate.highest
    if name != "equal":
        assert 0.3 <= estimate.expected / size <= 8


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
@pytest.mark.parametrize("name", ["mixed", "random"])
def test_a_small_first_backup_says_nothing_about_fifty_megabytes(
    migrated: Database, backup_source: BackupSource, programs: Programs, disk_store: DiskStore, name: str
) -> None:
    take(backup_source, disk_store, programs)
    create(migrated, name, 500_000)
    estimate = estimate_of(migrated, disk_store)
    size = take(backup_source, disk_store, programs).size
    assert estimate.lowest <= size <= estimate.highest
    assert 0.3 <= estimate.expected / size <= 8
    # From now on, a backup like the last one is expected.
    assert 0.8 <= estimate_of(migrated, disk_store).expected / size <= 1.2


@pytest.mark.parametrize("statistics", ["ANALYZE big", "VACUUM ANALYZE big"])
def test_deleted_rows_do_not_count(migrated: Database, statistics: str) -> None:
    migrated.run("CREATE TABLE big AS SELECT n AS id, md5(n::text) AS m FROM generate_series(1, 20000) AS n")
    with closing(migrated.connect()) as connection:
        before = read_data_size(connection).heap
        connection.execute("DELETE FROM big WHERE id % 10 <> 0")
    migrated.run(statistics)
    with closing(migrated.connect()) as connection:
        assert read_data_size(connection).heap < before / 5


def test_a_table_that_is_locked_is_not_waited_for(migrated: Database, disk_store: DiskStore) -> None:
    create(migrated, "wide", 10_000)
    migrated.run("ANALYZE big")
    free = estimate_of(migrated, disk_store)
    with closing(migrated.connect()) as holder, holder.transaction():
        holder.execute("LOCK TABLE big")
        with closing(migrated.connect()) as connection:
            connection.execute("SET lock_timeout = '1ms'")
            locked = estimated_size(disk_store, connection)
            with pytest.raises(psycopg.errors.LockNotAvailable):
                connection.execute("SELECT pg_relation_size('big')")
    assert 0.5 <= locked.expected / free.expected <= 2


def test_only_a_backup_that_certainly_does_not_fit_is_refused(
    migrated: Database,
    backup_source: BackupSource,
    programs: Programs,
    disk_store: DiskStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create(migrated, "equal", 100_000)
    estimate = estimate_of(migrated, disk_store)
    before = migrated.fingerprint()
    monkeypatch.setattr(DiskStore, "free_space", lambda _: estimate.lowest - 1)
    with pytest.raises(BackupFailed, match="not enough space for a backup"):
        take(backup_source, disk_store, programs)
    assert (disk_store.ids(), migrated.fingerprint()) == ([], before)
    monkeypatch.setattr(DiskStore, "free_space", lambda _: estimate.lowest)
    emitted = list(backup.take(backup_source, disk_store, programs, BackupOptions()))
    assert events.SpaceLow(disk_store.location, estimate.lowest, estimate.expected) in emitted
    monkeypatch.setattr(DiskStore, "free_space", lambda _: estimate.expected)
    assert not any(
        isinstance(event, events.SpaceLow)
        for event in backup.take(backup_source, disk_store, programs, BackupOptions())
    )
