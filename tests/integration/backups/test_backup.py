"""Backups on real servers with real pg_dump and pg_restore; every fault is shown to be one first."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import psycopg
import pytest

from pgratchet import embedded, events
from pgratchet.backups import backup, external, listing, manifest, pg_programs, retention, verification
from pgratchet.backups.backup import BackupOptions, BackupSource
from pgratchet.backups.disk_store import DiskStore
from pgratchet.backups.manifest import Manifest
from pgratchet.backups.pg_programs import Programs
from pgratchet.backups.retention import Retention
from pgratchet.backups.snapshot import open_snapshot
from pgratchet.backups.store import Store
from pgratchet.errors import BackupFailed
from pgratchet.operations.backups import take_backup
from pgratchet.operations.base import Machine
from tests.integration.conftest import source_of
from tests.requirements import require, skip_without
from tests.servers.databases import Database


def take(source: BackupSource, store: DiskStore, programs: Programs, **options: object) -> Manifest:
    return manifest_of(backup.take(source, store, programs, BackupOptions(**options)), store)  # type: ignore[arg-type]


def manifest_of(stream: Iterable[events.Event], store: Store) -> Manifest:
    """The manifest of the backup that the last event names."""
    *_, event = stream
    assert isinstance(event, events.BackupTaken)
    return listing.require_manifest(listing.inspect_backup(store, event.backup_id))


def verify(store: DiskStore, backup_id: str, programs: Programs) -> Manifest:
    entry = listing.inspect_backup(store, backup_id)
    list(verification.verify(entry, store, programs))
    return listing.require_manifest(entry)


def test_a_backup_says_what_was_there(
    migrated: Database, source: BackupSource, programs: Programs, kept: DiskStore
) -> None:
    migrated.run('CREATE TABLE "odd \'one" (x int); INSERT INTO "odd \'one" SELECT generate_series(1, 7)')
    migrated.run("CREATE EXTENSION citext; SELECT lo_create(4711)")
    made = take(source, kept, programs, label="before 1.4", keep=True)
    (listed,) = listing.list_backups(kept)
    assert listed.manifest == made
    assert made.contents.tables["public.app_state"] == 2
    assert made.contents.tables['public."odd \'one"'] == 7
    assert made.contents.large_objects == 1
    assert set(made.contents.extensions) == {"citext", "plpgsql"}
    assert list(made.contents.history) == ["001_initial_schema"]
    assert (made.database.name, made.server_version) == (migrated.name, source.server_version)
    assert (made.label, made.keep, made.archive) == ("before 1.4", True, "custom")
    folder = kept.root / made.backup_id
    assert oct(folder.stat().st_mode & 0o777) == "0o700"
    assert sorted(path.name for path in folder.iterdir()) == ["database.dump", "globals.sql", "manifest.json"]
    assert verify(kept, made.backup_id, programs) == made


def test_the_globals_hold_no_password(
    migrated: Database, source: BackupSource, programs: Programs, kept: DiskStore
) -> None:
    role = f"{migrated.name}_role"
    migrated.run(f"CREATE ROLE {role} LOGIN PASSWORD 'planted canary'; GRANT SELECT ON jobs TO {role}")
    try:
        hashes = migrated.rows("SELECT rolpassword FROM pg_authid WHERE rolname = %s", role)
        made = take(source, kept, programs)
        text = (kept.root / made.backup_id / "globals.sql").read_text()
        assert f"CREATE ROLE {role};" in text
        assert str(hashes[0][0]).startswith(("SCRAM-SHA-256", "md5"))
        assert str(hashes[0][0]) not in text
        assert "planted canary" not in text
        assert role in made.contents.roles
    finally:
        migrated.run(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_the_counts_are_those_of_the_dump_though_others_write(
    migrated: Database, source: BackupSource, programs: Programs, kept: DiskStore
) -> None:
    migrated.run("CREATE TABLE busy (x int)")
    stop = threading.Event()

    def write() -> None:
        with migrated.connect() as session:
            while not stop.is_set():
                session.execute("INSERT INTO busy SELECT generate_series(1, 50)")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        made = take(source, kept, programs)
    finally:
        stop.set()
        thread.join()
    counted = made.contents.tables["public.busy"]
    dump = kept.root / made.backup_id / "database.dump"
    rows = subprocess.run(
        [programs.path("pg_restore"), "--data-only", "--table=busy", "--file=-", str(dump)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    dumped = rows.index("\\.") - next(n for n, line in enumerate(rows) if line.startswith("COPY")) - 1
    assert counted == dumped
    assert migrated.rows("SELECT count(*) FROM busy")[0][0] > counted, "others wrote meanwhile"  # type: ignore[operator]


def test_a_large_database_is_dumped_by_several_workers(
    migrated: Database, source: BackupSource, programs: Programs, kept: DiskStore
) -> None:
    migrated.run("CREATE TABLE more AS SELECT generate_series(1, 500) AS n")
    made = take(source, kept, programs, jobs=2, parallel_from=0)
    assert made.archive == "directory"
    assert "database/toc.dat" in made.files
    assert verify(kept, made.backup_id, programs) == made
    data = next(path for path in sorted((kept.root / made.backup_id / "database").iterdir()) if path.name[0].isdigit())
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    (listed,) = listing.list_backups(kept)
    assert "SHA-256" in listed.problem


def test_zstd_where_the_client_has_it_and_gzip_else(programs: Programs, tmp_path: Path) -> None:
    said = subprocess.run(
        [programs.path("pg_dump"), "--compress=zstd", "--host=/nonexistent"], capture_output=True, text=True
    )
    has = programs.major >= 16 and "build does not support" not in said.stderr
    assert programs.compression() == ("zstd" if has else "gzip")
    fake = tmp_path / "pg_dump"
    fake.write_text("#!/bin/sh\necho 'pg_dump: error: connection failed' >&2\nexit 1\n")
    fake.chmod(0o755)
    assert Programs(tmp_path, "18.0").compression() == "zstd"
    assert Programs(tmp_path, "15.0").compression() == "gzip"


def candidates(monkeypatch: pytest.MonkeyPatch, folder: Path, *versions: str) -> None:
    """Programs that say they are of these versions, and no others."""
    monkeypatch.setenv("PATH", str(folder / "nothing"))
    monkeypatch.setattr(pg_programs, "_DEBIAN", folder)
    for version in versions:
        programs = folder / version / "bin"
        programs.mkdir(parents=True)
        for name in ("pg_dump", "pg_restore"):
            (programs / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
            (programs / name).chmod(0o755)


@pytest.mark.parametrize(
    ("server", "reads", "versions", "chosen"),
    [
        (150003, None, ("14.1", "15.2", "16.9", "18.6"), "15.2"),
        (150003, None, ("15.2", "15.11"), "15.11"),
        (150003, None, ("14.1", "16.9", "18.6"), "16.9"),
        (150003, None, ("14.1", "18.6"), None),
        (180000, None, ("17.1",), None),
        (170000, None, ("18.6",), "18.6"),
        (None, "16.1", ("15.2", "16.0", "18.6"), "16.0"),
        (None, "15.1", ("18.6",), "18.6"),
        (150003, "16.1", ("15.2", "16.0"), "16.0"),
        (150003, "18.1", ("15.2", "18.6"), None),
    ],
)
def test_the_programs_are_those_that_both_sides_take(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    server: int | None,
    reads: str | None,
    versions: tuple[str, ...],
    chosen: str | None,
) -> None:
    candidates(monkeypatch, tmp_path, *versions)
    monkeypatch.setattr(embedded, "installed_programs", lambda: None)
    if chosen is None:
        with pytest.raises(BackupFailed, match="no pg_dump and pg_restore for PostgreSQL") as caught:
            pg_programs.find_programs(server, archive_version=reads)
        # No client helps where what the archive sets is what the server does not take.
        helps = "on a server of version 17" if reads == "18.1" else "postgresql-client-"
        assert helps in caught.value.hint
        assert versions[0] in caught.value.detail
    else:
        found = pg_programs.find_programs(server, archive_version=reads)
        assert found.version == chosen


def test_a_later_pg_dump_writes_what_an_older_server_refuses(
    migrated: Database, source: BackupSource, kept: DiskStore, tmp_path: Path
) -> None:
    """Why programs of 17 and later are not used with a server before 17."""
    wheel = embedded.programs()
    if source.server_version >= 170000:
        pytest.skip("this server takes it")
    with source.client_environment() as environ:
        dump = subprocess.run([str(wheel / "pg_dump"), "-Fp", "-s"], env=environ, capture_output=True, text=True)
    if "SSL" in dump.stderr:
        pytest.skip("the wheel has no TLS")
    assert "SET transaction_timeout" in dump.stdout
    with pytest.raises(psycopg.errors.UndefinedObject):
        migrated.run("SET transaction_timeout = 0")


def test_the_wheels_client_is_not_used_over_tls() -> None:
    wheel = embedded.programs()
    assert any(p.folder == wheel for p in pg_programs._candidates(False))
    assert not any(p.folder == wheel for p in pg_programs._candidates(True))


def test_a_backup_that_fails_leaves_nothing(source: BackupSource, programs: Programs, kept: DiskStore) -> None:
    @contextmanager
    def broken() -> Iterator[dict[str, str]]:
        yield {"PGSERVICEFILE": "/nowhere", "PGSERVICE": "x"}

    with pytest.raises(BackupFailed, match="pg_dump failed") as caught:
        take(replace(source, client_environment=broken), kept, programs)
    assert "ended with status 1" in caught.value.detail
    assert kept.ids() == []
    assert list(kept.root.iterdir()) == []


def test_a_dump_waits_for_a_lock_only_so_long_and_is_tried_once_more(
    migrated: Database, source: BackupSource, programs: Programs, kept: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pg_programs, "LOCK_WAIT", "200ms")
    with migrated.connect() as holder:
        holder.execute("BEGIN; LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        taking = backup.take(source, kept, programs, BackupOptions())
        for event in taking:
            if isinstance(event, events.BackupRetried):
                assert "timeout" in event.reason
                holder.rollback()
                break
        made = manifest_of(taking, kept)
    assert listing.list_backups(kept)[0].manifest == made
    with migrated.connect() as holder:
        holder.execute("BEGIN; LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(BackupFailed, match="pg_dump failed"):
            take(source, kept, programs)
        holder.rollback()
    assert len(kept.ids()) == 1


def test_ddl_under_a_parallel_dump_never_makes_a_silent_subset(
    migrated: Database, source: BackupSource, programs: Programs, kept: DiskStore
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
            made = take(source, kept, programs, jobs=3, parallel_from=0)
            assert made.contents.tables["public.a"] == made.contents.tables["public.b"] == 20000
            assert verify(kept, made.backup_id, programs) == made
    finally:
        stop.set()
        thread.join()
    assert tried


def fake_programs(programs: Programs, folder: Path, pg_dump: str) -> Programs:
    """The real programs, but for a pg_dump of the test's own: `REAL` in it is the real one."""
    folder.mkdir()
    for name in ("pg_restore", "pg_dumpall"):
        (folder / name).symlink_to(programs.folder / name)
    (folder / "pg_dump").write_text("#!/bin/sh\n" + pg_dump.replace("REAL", programs.path("pg_dump")))
    (folder / "pg_dump").chmod(0o755)
    return replace(programs, folder=folder)


def test_a_pg_dump_that_is_killed_leaves_nothing(
    source: BackupSource, tmp_path: Path, programs: Programs, kept: DiskStore
) -> None:
    killed = fake_programs(programs, tmp_path / "bin", "printf PGDMP-half\nkill -9 $$\n")
    with pytest.raises(BackupFailed, match="pg_dump failed") as caught:
        take(source, kept, killed)
    assert "status -9" in caught.value.detail
    assert list(kept.root.iterdir()) == []


def test_a_pg_dump_that_lies_is_found_out_by_reading_back(
    source: BackupSource, tmp_path: Path, programs: Programs, kept: DiskStore
) -> None:
    """It ends with 0 and writes half an archive: exactly what must never pass for a backup."""
    lying = f'REAL "$@" > "{tmp_path}/whole"\nhead -c 9000 "{tmp_path}/whole"\n'
    with pytest.raises(BackupFailed, match="pg_restore failed"):
        take(source, kept, fake_programs(programs, tmp_path / "bin", lying))
    assert (tmp_path / "whole").stat().st_size > 9000
    assert list(kept.root.iterdir()) == []


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    require("root")
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        skip_without("a small tmpfs", "allow mount (CAP_SYS_ADMIN)", mounted.stderr.decode())
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_to_be_one_before_anything_is_written(
    source: BackupSource, programs: Programs, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "small", "8k") as small:
        with pytest.raises(BackupFailed, match="there is no room for a backup") as caught:
            take(source, DiskStore(small), programs)
        assert "are free" in caught.value.detail
        assert list(small.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_loses_no_older_backup(
    migrated: Database, source: BackupSource, programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "small", "500k") as small:
        kept = DiskStore(small)
        first = take(source, kept, programs)
        migrated.run("CREATE TABLE bytes AS SELECT sha256(n::text::bytea) FROM generate_series(1, 20000) n")
        monkeypatch.setattr(DiskStore, "free_space", lambda _: None)  # as where someone else fills it
        with pytest.raises(BackupFailed) as caught:
            take(source, kept, programs)
        assert "No space left" in str(caught.value)
        (listed,) = listing.list_backups(kept)
        assert listed.manifest == first
        assert verify(kept, first.backup_id, programs) == first
        assert list(small.iterdir()) == [small / first.backup_id]


FAULTS: dict[str, Callable[[Path, Path], object]] = {
    "truncated": lambda dump, _: dump.write_bytes(dump.read_bytes()[:-100]),
    "flipped": lambda dump, _: dump.write_bytes(_flipped(dump.read_bytes())),
    "swapped": lambda dump, other: shutil.copy(other, dump),
    "gone": lambda dump, _: dump.unlink(),
    "half-written": lambda dump, _: dump.with_name("manifest.json").unlink(),
}


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_backup_is_never_listed_as_one(
    source: BackupSource, migrated: Database, programs: Programs, kept: DiskStore, fault: str
) -> None:
    other = take(source, kept, programs)
    migrated.run("CREATE TABLE meanwhile (x int)")
    made = take(source, kept, programs)
    dump = kept.root / made.backup_id / "database.dump"
    before = dump.read_bytes()
    FAULTS[fault](dump, kept.root / other.backup_id / "database.dump")
    if fault in ("truncated", "flipped", "swapped"):
        assert dump.read_bytes() != before
    listed = {each.backup_id: each for each in listing.list_backups(kept)}
    assert listed[other.backup_id].manifest
    assert listed[made.backup_id].manifest is None
    assert listed[made.backup_id].problem
    with pytest.raises(BackupFailed, match="is no backup"):
        verify(kept, made.backup_id, programs)


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_bit_that_rots_without_a_trace_is_found_by_reading(
    migrated: Database, source: BackupSource, programs: Programs, kept: DiskStore, tmp_path: Path, compression: str
) -> None:
    """Neither time nor size tells; uncompressed, pg_restore does not tell either."""
    migrated.run("CREATE TABLE planted AS SELECT 'planted row'::text AS x")
    option = "--compress=0" if compression == "none" else ""
    drops = 'for a; do shift; case "$a" in --compress=*) ;; *) set -- "$@" "$a";; esac; done\n'
    fake = fake_programs(programs, tmp_path / "bin", f'{drops}exec REAL "$@" {option}\n')
    made = take(source, kept, fake)
    dump = kept.root / made.backup_id / "database.dump"
    times, content = dump.stat(), dump.read_bytes()
    place = content.index(b"planted row") if compression == "none" else len(content) * 2 // 3
    dump.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    os.utime(dump, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert listing.list_backups(kept)[0].manifest == made, "a listing cannot know"
    if compression == "none":
        read = subprocess.run([programs.path("pg_restore"), "--file=/dev/null", str(dump)], capture_output=True)
        assert read.returncode == 0, "the whole archive reads well"
    with pytest.raises(BackupFailed, match="is not what was written"):
        verify(kept, made.backup_id, programs)


def test_what_is_no_backup_is_listed_with_the_reason(source: BackupSource, programs: Programs, kept: DiskStore) -> None:
    made = take(source, kept, programs)
    shutil.copytree(kept.root / made.backup_id, kept.root / "20990101T000000-0000")
    (kept.root / "20990101T000001-0000.partial").mkdir()
    (kept.root / "20990101T000002-0000").mkdir()
    torn = kept.root / "20990101T000003-0000"
    torn.mkdir()
    (torn / "manifest.json").write_text(json.dumps({"format": 2})[:-3])
    (kept.root / "notes").mkdir()
    found = {each.backup_id: each.problem for each in listing.list_backups(kept)}
    assert found == {
        "20990101T000003-0000": "Its manifest is no JSON: it was cut short, or written over.",
        "20990101T000002-0000": "It has no manifest.",
        "20990101T000001-0000.partial": "It was not finished.",
        "20990101T000000-0000": f"Its manifest is that of {made.backup_id}.",
        made.backup_id: "",
    }


@pytest.mark.parametrize("change", [{"server_version": 1}, {"keep": True}, {"more": 1}, {"files": {}}, {"label": "x"}])
def test_a_manifest_edited_by_hand_is_no_manifest(
    source: BackupSource, programs: Programs, kept: DiskStore, change: dict[str, object]
) -> None:
    made = take(source, kept, programs)
    path = kept.root / made.backup_id / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (listed,) = listing.list_backups(kept)
    assert listed.problem == "Its manifest was changed after it was written."


def test_row_security_never_makes_a_subset(migrated: Database, kept: DiskStore, programs: Programs) -> None:
    role = f"{migrated.name}_role"
    secret = migrated.parameters.get("password", "")
    migrated.run(f"CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT ALL ON SCHEMA public, ratchet TO {role}")
    migrated.run(
        f"GRANT ALL ON ALL TABLES IN SCHEMA public, ratchet TO {role};"
        "ALTER TABLE jobs ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON jobs USING (false)"
    )
    other = Database({**migrated.parameters, "user": role, **({"password": "x"} if secret else {})})
    try:
        assert other.rows("SELECT count(*) FROM jobs") == [(0,)], "what the role sees is a subset, and no error"
        with pytest.raises((BackupFailed, psycopg.errors.InsufficientPrivilege)):
            take(source_of(other), kept, programs)
        assert kept.ids() == []
    finally:
        migrated.run(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_retention_deletes_what_may_go_and_leaves_the_rest(
    source: BackupSource, programs: Programs, kept: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = take(source, kept, programs, keep=True)
    made = [take(source, kept, programs) for _ in range(3)]
    later = datetime.now(timezone.utc) + timedelta(days=1)
    seen = list(retention.prune(kept, Retention(count=1), later))
    assert seen == [events.BackupsRemoved((made[1].backup_id, made[0].backup_id))]
    assert kept.ids() == [made[2].backup_id, pinned.backup_id]
    assert sorted(path.name for path in kept.root.iterdir()) == sorted(kept.ids())
    assert list(retention.prune(kept, Retention(count=1), later)) == []


def test_counting_ends_when_the_dump_fails(migrated: Database, source: BackupSource) -> None:
    migrated.run("CREATE VIEW v AS SELECT pg_sleep(60)::text")
    with open_snapshot(source.connect) as snapshot:
        slow = replace(snapshot, sizes={"public.v": 0})
        started = time.monotonic()
        with pytest.raises(RuntimeError), backup._counting(slow, source.history):
            raise RuntimeError
    assert time.monotonic() - started < 20


def write_command(path: Path, script: str) -> list[str]:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return [str(path)]


NOW = "20261124-101500F $(date -u +%Y-%m-%dT%H:%M:%SZ)"


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo disk on fire >&2; exit 3", "disk on fire\nIt ended with status 3."),
        ("echo done", "Its last line must be"),
        ("", "Its last line must be"),
        ("echo old 2020-01-01T00:00:00Z", "may be 3600 s old at most"),
        ("echo nozone 2026-11-24T10:15:00", "Its last line must be"),
        ("echo future 2099-01-01T00:00:00Z", "may be 3600 s old at most"),
    ],
)
def test_another_tool_is_believed_only_with_a_fresh_backup(tmp_path: Path, script: str, told: str) -> None:
    command = write_command(tmp_path / "tool", script)
    with pytest.raises(BackupFailed, match="gave no fresh backup") as caught:
        list(external.run_command(command, os.environ, 3600))
    assert told in caught.value.detail
    with pytest.raises(BackupFailed, match="gave no fresh backup"):
        list(external.run_command([str(tmp_path / "none")], os.environ, 3600))


def test_another_tool_takes_the_place_of_pg_dump(migrated: Database, kept: DiskStore, tmp_path: Path) -> None:
    from tests.integration.conftest import settings_of

    tool = write_command(tmp_path / "tool", f'echo "$PGSERVICE of $PGRATCHET_ENV" > {tmp_path}/said; echo {NOW}')
    given = settings_of(migrated, backup_command=tool)
    with given.connected() as connection:
        (event,) = take_backup(given, Machine(tmp_path), connection)
    assert isinstance(event, events.BackupTaken)
    assert event.backup_id == "20261124-101500F"
    assert (tmp_path / "said").read_text() == "target of env\n"
    assert kept.ids() == []


def test_ids_sort_by_time() -> None:
    moment = datetime(2026, 11, 24, 10, 15, 0, 7000, tzinfo=timezone.utc)
    first, second = manifest.new_id(moment, 15), manifest.new_id(moment + timedelta(milliseconds=300), 0)
    assert (first, second) == ("20261124T101500-007f", "20261124T101500-1330")
    assert manifest.is_id(first)
