"""Backups that fail: nothing incomplete is listed, and older backups stay. Each fault is shown to have happened."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from pgratchet import events
from pgratchet.backups import backup, listing, pg_programs
from pgratchet.backups.backup import BackupOptions, BackupSource
from pgratchet.backups.disk_store import DiskStore
from pgratchet.backups.pg_programs import Programs
from pgratchet.backups.snapshot import open_snapshot
from pgratchet.backups.table_progress import TableProgress
from pgratchet.errors import BackupFailed
from tests.faults.small_disk import small_disk
from tests.integration.backups.helpers import fake_programs, manifest_of, take, verify
from tests.servers.databases import Database


def test_a_backup_that_fails_leaves_nothing(
    backup_source: BackupSource, programs: Programs, disk_store: DiskStore
) -> None:
    @contextmanager
    def broken() -> Iterator[dict[str, str]]:
        yield {"PGSERVICEFILE": "/nowhere", "PGSERVICE": "x"}

    with pytest.raises(BackupFailed, match="pg_dump failed") as caught:
        take(replace(backup_source, client_environment=broken), disk_store, programs)
    assert "ended with status 1" in caught.value.detail
    assert disk_store.ids() == []
    assert list(disk_store.root.iterdir()) == []


def test_a_dump_waits_for_a_lock_for_a_limited_time_and_is_retried_once(
    migrated: Database,
    backup_source: BackupSource,
    programs: Programs,
    disk_store: DiskStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pg_programs, "LOCK_WAIT", "200ms")
    with migrated.connect() as holder:
        holder.execute("BEGIN; LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        taking = backup.take(backup_source, disk_store, programs, BackupOptions())
        for event in taking:
            if isinstance(event, events.BackupRetried):
                assert "timeout" in event.reason
                holder.rollback()
                break
        manifest = manifest_of(taking, disk_store)
    assert listing.list_backups(disk_store)[0].manifest == manifest
    with migrated.connect() as holder:
        holder.execute("BEGIN; LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(BackupFailed, match="pg_dump failed"):
            take(backup_source, disk_store, programs)
        holder.rollback()
    assert len(disk_store.ids()) == 1


def test_ddl_during_a_parallel_dump_never_reduces_a_backup_silently(
    migrated: Database, backup_source: BackupSource, programs: Programs, disk_store: DiskStore
) -> None:
    migrated.run("CREATE TABLE a AS SELECT generate_series(1, 20000) n; CREATE TABLE b AS TABLE a")
    stop, tried = threading.Event(), list[int]()

    def alter() -> None:
        with migrated.connect() as session:
            session.execute("SET lock_timeout = 50")
            while not stop.is_set():
                tried.append(1)
                with suppress(psycopg.errors.LockNotAvailable):
                    session.execute("ALTER TABLE a ADD COLUMN IF NOT EXISTS x int; ALTER TABLE a DROP COLUMN x")

    thread = threading.Thread(target=alter)
    thread.start()
    try:
        for _ in range(3):
            manifest = take(backup_source, disk_store, programs, jobs=3, parallel_from=0)
            assert manifest.contents.tables["public.a"] == manifest.contents.tables["public.b"] == 20000
            assert verify(disk_store, manifest.backup_id, programs) == manifest
    finally:
        stop.set()
        thread.join()
    assert tried


def test_a_killed_pg_dump_leaves_nothing(
    backup_source: BackupSource, tmp_path: Path, programs: Programs, disk_store: DiskStore
) -> None:
    killed = fake_programs(programs, tmp_path / "bin", "printf PGDMP-half\nkill -9 $$\n")
    with pytest.raises(BackupFailed, match="pg_dump failed") as caught:
        take(backup_source, disk_store, killed)
    assert "status -9" in caught.value.detail
    assert list(disk_store.root.iterdir()) == []


def test_an_incomplete_dump_with_status_0_is_detected_by_reading_it(
    backup_source: BackupSource, tmp_path: Path, programs: Programs, disk_store: DiskStore
) -> None:
    """Such a pg_dump ends with status 0 and half an archive."""
    lying = f'REAL "$@" > "{tmp_path}/whole"\nhead -c 9000 "{tmp_path}/whole"\n'
    with pytest.raises(BackupFailed, match="pg_restore failed"):
        take(backup_source, disk_store, fake_programs(programs, tmp_path / "bin", lying))
    assert (tmp_path / "whole").stat().st_size > 9000
    assert list(disk_store.root.iterdir()) == []


def test_a_full_disk_is_named_before_anything_is_written(
    backup_source: BackupSource, programs: Programs, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "small", "8k") as small:
        with pytest.raises(BackupFailed, match="not enough space for a backup") as caught:
            take(backup_source, DiskStore(small), programs)
        assert "are free" in caught.value.detail
        assert list(small.iterdir()) == []


def test_a_disk_that_fills_up_during_a_backup_loses_no_older_backup(
    migrated: Database, backup_source: BackupSource, programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "small", "500k") as small:
        bucket_store = DiskStore(small)
        first = take(backup_source, bucket_store, programs)
        migrated.run("CREATE TABLE bytes AS SELECT sha256(n::text::bytea) FROM generate_series(1, 20000) n")
        monkeypatch.setattr(DiskStore, "free_space", lambda _: None)  # as where someone else fills it
        with pytest.raises(BackupFailed) as caught:
            take(backup_source, bucket_store, programs)
        assert "No space left" in str(caught.value)
        (entry,) = listing.list_backups(bucket_store)
        assert entry.manifest == first
        assert verify(bucket_store, first.backup_id, programs) == first
        assert list(small.iterdir()) == [small / first.backup_id]


def test_counting_ends_when_the_dump_fails(migrated: Database, backup_source: BackupSource) -> None:
    migrated.run("CREATE VIEW v AS SELECT pg_sleep(60)::text")
    with open_snapshot(backup_source.connect) as snapshot:
        slow = replace(snapshot, sizes={"public.v": 0})
        started = time.monotonic()
        with pytest.raises(RuntimeError), backup._counting(slow, backup_source.history, {}, TableProgress({}, 1)):
            raise RuntimeError
    assert time.monotonic() - started < 20
