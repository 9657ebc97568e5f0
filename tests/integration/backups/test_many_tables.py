"""A database with more tables and indexes than its server can lock at once."""

from __future__ import annotations

from contextlib import closing

import psycopg
import pytest

from pgratchet.backups.disk_store import DiskStore
from pgratchet.backups.pg_programs import find_programs
from tests.integration.backups.helpers import RestorableDatabase, backup_source_of, take, verify
from tests.servers.clusters import Cluster, Clusters

TABLES = 700


@pytest.fixture
def few_locks(clusters: Clusters) -> Cluster:
    """A server whose memory has locks for these tables, and not for their indexes too."""
    cluster = clusters.make("locks", max_connections="10", max_locks_per_transaction="20")
    cluster.database.run(
        f"DO $$ BEGIN FOR i IN 1..{TABLES} LOOP EXECUTE format('CREATE TABLE t%s (a int PRIMARY KEY, b int UNIQUE,"
        " c int UNIQUE)', i); IF i % 50 = 0 THEN COMMIT; END IF; END LOOP; END $$"
    )
    return cluster


def test_counting_needs_the_locks_of_few_tables_at_a_time(few_locks: Cluster, disk_store: DiskStore) -> None:
    database = few_locks.database
    together = "".join(f"SELECT count(*) FROM t{number};" for number in range(1, TABLES + 1))
    with closing(database.connect()) as session, pytest.raises(psycopg.errors.OutOfMemory):
        session.execute(f"BEGIN; {together}".encode())
    programs = find_programs(backup_source_of(database).server_version)
    manifest = take(backup_source_of(database), disk_store, programs)
    assert len(manifest.contents.tables) == TABLES
    verify(disk_store, manifest.backup_id, programs)


def test_such_a_database_is_restored_and_compared(few_locks: Cluster, disk_store: DiskStore) -> None:
    database = few_locks.database
    database.run("INSERT INTO t7 VALUES (1, 1, 1)")
    restorable = RestorableDatabase(database, disk_store, find_programs(backup_source_of(database).server_version))
    archive = restorable.back_up()
    database.run("DELETE FROM t7")
    restorable.restore(archive)
    assert database.rows("SELECT count(*) FROM t7") == [(1,)]
