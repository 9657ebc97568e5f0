"""Encrypted backups on real servers: only the key reads them, and damage is detected."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyrage import x25519

from pgratchet.backups import backup, kept_databases, listing, restore, verification
from pgratchet.backups.backup import BackupOptions, BackupSource
from pgratchet.backups.disk_store import DiskStore
from pgratchet.backups.drill import Drill
from pgratchet.backups.loading import BackupArchive
from pgratchet.backups.manifest import Manifest
from pgratchet.backups.pg_programs import Programs
from pgratchet.backups.restore_server import RestoreServer
from pgratchet.errors import BackupFailed, ConfigurationError
from tests.faults.small_disk import small_disk
from tests.integration.backups.helpers import fake_programs, manifest_of, run_drill
from tests.servers.databases import Database
from tests.support.ssh_keys import write_key_pair
from tests.support.waiting import until

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)

PLANTED = "planted-row-5e1d"


@dataclass(frozen=True)
class Pair:
    """A recipient, and the file with its identity."""

    recipient: str
    identity: Path


def age_pair(folder: Path, name: str = "age") -> Pair:
    key = x25519.Identity.generate()
    identity = folder / name
    identity.write_text(f"# made for a test\n{key}\n")
    return Pair(str(key.to_public()), identity)


def ssh_pair(folder: Path) -> Pair:
    identity = folder / "ssh"
    return Pair(write_key_pair(identity), identity)


@pytest.fixture
def key_pair(tmp_path: Path) -> Pair:
    return age_pair(tmp_path)


@pytest.fixture
def database_with_secret_row(migrated: Database) -> Database:
    migrated.run(f"CREATE TABLE planted AS SELECT '{PLANTED}'::text AS x FROM generate_series(1, 3000)")
    return migrated


def take(
    source: BackupSource, bucket_store: DiskStore, programs: Programs, *recipients: str, **wishes: object
) -> Manifest:
    options = BackupOptions(recipients=recipients, **wishes)  # type: ignore[arg-type]
    return manifest_of(backup.take(source, bucket_store, programs, options), bucket_store)


def verify(bucket_store: DiskStore, manifest: Manifest, programs: Programs, identity: Path | None) -> Manifest:
    entry = listing.inspect_backup(bucket_store, manifest.backup_id)
    list(verification.verify(entry, bucket_store, programs, identity))
    return listing.require_manifest(entry)


def uncompressed(programs: Programs, folder: Path) -> Programs:
    """Turn compression off, so that unencrypted text would be found."""
    drops = 'for a; do shift; case "$a" in --compress=*) ;; *) set -- "$@" "$a";; esac; done\n'
    return fake_programs(programs, folder, f'{drops}exec REAL "$@" --compress=0\n')


@pytest.mark.parametrize("make", [age_pair, ssh_pair])
def test_everything_is_stored_encrypted_and_decrypted_with_the_key(
    database_with_secret_row: Database,
    backup_source: BackupSource,
    programs: Programs,
    disk_store: DiskStore,
    tmp_path: Path,
    make: Callable[[Path], Pair],
) -> None:
    pair, plain = make(tmp_path), uncompressed(programs, tmp_path / "bin")
    open_one = take(backup_source, disk_store, plain)
    assert PLANTED.encode() in (disk_store.root / open_one.backup_id / "database.dump").read_bytes(), "it would be seen"
    manifest = take(backup_source, disk_store, plain, pair.recipient)
    assert sorted(manifest.files) == ["database.dump.age", "globals.sql.age"]
    for path in (disk_store.root / manifest.backup_id).iterdir():
        content = path.read_bytes()
        assert PLANTED.encode() not in content
        assert b"CREATE ROLE" not in content
    assert verify(disk_store, manifest, programs, None) == manifest
    assert verify(disk_store, manifest, programs, pair.identity) == manifest
    stream = verification.open_content(manifest, disk_store, pair.identity)
    assert not isinstance(stream, Path)
    assert PLANTED.encode() in b"".join(stream)


def test_each_of_several_recipients_can_decrypt_a_backup(
    backup_source: BackupSource, programs: Programs, disk_store: DiskStore, tmp_path: Path
) -> None:
    pairs = [age_pair(tmp_path), ssh_pair(tmp_path)]
    manifest = take(backup_source, disk_store, programs, *(each.recipient for each in pairs))
    for each in pairs:
        assert verify(disk_store, manifest, programs, each.identity) == manifest


def rotten(path: Path, content: bytes) -> None:
    """Overwrite a byte and keep the file's time, so that a listing cannot notice."""
    times = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("place", ["header", "middle", "end"])
@pytest.mark.parametrize("opens", [True, False])
def test_damage_is_distinguished_from_a_wrong_key(
    database_with_secret_row: Database,
    backup_source: BackupSource,
    programs: Programs,
    disk_store: DiskStore,
    key_pair: Pair,
    place: str,
    opens: bool,
) -> None:
    manifest = take(backup_source, disk_store, programs, key_pair.recipient)
    path = disk_store.root / manifest.backup_id / "database.dump.age"
    content = path.read_bytes()
    rotten(path, flipped(content, {"header": 30, "middle": len(content) // 2, "end": len(content) - 1}[place]))
    with pytest.raises(BackupFailed, match=f"backup {manifest.backup_id} was changed or damaged") as caught:
        verify(disk_store, manifest, programs, key_pair.identity if opens else None)
    assert caught.value.detail == "database.dump.age: its SHA-256 is another."


def test_a_wrong_key_is_named(
    backup_source: BackupSource, programs: Programs, disk_store: DiskStore, key_pair: Pair, tmp_path: Path
) -> None:
    manifest = take(backup_source, disk_store, programs, key_pair.recipient)
    other = age_pair(tmp_path, "other")
    with pytest.raises(BackupFailed, match="the backup cannot be decrypted") as caught:
        verify(disk_store, manifest, programs, other.identity)
    assert "No matching keys" in caught.value.detail
    assert "backup_identity" in caught.value.hint
    with pytest.raises(ConfigurationError, match="is encrypted") as refused:
        verification.open_content(manifest, disk_store, None)
    assert key_pair.recipient in refused.value.detail


def test_a_truncated_encrypted_backup_is_not_listed_as_good(
    backup_source: BackupSource, programs: Programs, disk_store: DiskStore, key_pair: Pair
) -> None:
    manifest = take(backup_source, disk_store, programs, key_pair.recipient)
    path = disk_store.root / manifest.backup_id / "database.dump.age"
    rotten(path, path.read_bytes()[:-1])
    (entry,) = listing.list_backups(disk_store)
    assert entry.problem == "database.dump.age is not as large as its manifest says."


def test_an_incomplete_dump_is_detected_without_the_key(
    backup_source: BackupSource, tmp_path: Path, programs: Programs, disk_store: DiskStore, key_pair: Pair
) -> None:
    lying = f'REAL "$@" > "{tmp_path}/whole"\nhead -c 9000 "{tmp_path}/whole"\n'
    with pytest.raises(BackupFailed, match="pg_restore failed"):
        take(backup_source, disk_store, fake_programs(programs, tmp_path / "bin", lying), key_pair.recipient)
    assert (tmp_path / "whole").stat().st_size > 9000
    assert list(disk_store.root.iterdir()) == []


def ended(run: Callable[[], object]) -> BaseException:
    """The error of a run, which must come in time."""
    failed: list[BaseException] = []

    def catch() -> None:
        try:
            run()
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    thread = threading.Thread(target=catch, daemon=True)
    thread.start()
    until(lambda: not thread.is_alive(), 30)
    (error,) = failed
    return error


def test_a_disk_that_fills_up_during_encryption_is_named(
    migrated: Database,
    backup_source: BackupSource,
    programs: Programs,
    key_pair: Pair,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    migrated.run("CREATE TABLE bytes AS SELECT sha256(n::text::bytea) FROM generate_series(1, 40000) n")
    with small_disk(tmp_path / "small", "300k") as small:
        monkeypatch.setattr(DiskStore, "free_space", lambda _: None)  # as where someone else fills it
        error = ended(lambda: take(backup_source, DiskStore(small), programs, key_pair.recipient))
        assert isinstance(error, BackupFailed)
        assert "No space left on device" in error.detail
        assert list(small.iterdir()) == []


def test_restore_and_drill_decrypt_with_the_identity(
    database_with_secret_row: Database,
    backup_source: BackupSource,
    programs: Programs,
    disk_store: DiskStore,
    scratch_server: RestoreServer,
    key_pair: Pair,
) -> None:
    manifest = take(backup_source, disk_store, programs, key_pair.recipient)
    database_with_secret_row.run("DROP TABLE planted")

    def archived() -> BackupArchive:
        return BackupArchive(manifest, verification.open_content(manifest, disk_store, key_pair.identity), programs)

    try:
        list(restore.restore(scratch_server, database_with_secret_row.name, archived(), restore.RestoreOptions()))
        assert database_with_secret_row.rows("SELECT count(*), min(x) FROM planted") == [(3000, PLANTED)]
    finally:
        kept_databases.drop_kept_databases(
            scratch_server,
            database_with_secret_row.name,
            kept_databases.list_kept_databases(scratch_server, database_with_secret_row.name),
        )
    record = run_drill(Drill(scratch_server, archived(), jobs=4))
    assert record.good, record.problem


def test_an_encrypted_backup_uses_one_worker(
    backup_source: BackupSource, programs: Programs, disk_store: DiskStore, key_pair: Pair
) -> None:
    assert take(backup_source, disk_store, programs, jobs=2, parallel_from=0).archive == "directory"
    manifest = take(backup_source, disk_store, programs, key_pair.recipient, jobs=2, parallel_from=0)
    assert manifest.archive == "custom"
    assert verify(disk_store, manifest, programs, key_pair.identity) == manifest


def test_an_invalid_recipient_is_refused_before_anything_is_written(
    backup_source: BackupSource, programs: Programs, disk_store: DiskStore, key_pair: Pair
) -> None:
    with pytest.raises(ConfigurationError, match="number 2 of backup_recipients"):
        take(backup_source, disk_store, programs, key_pair.recipient, "age1nonsense")
    assert not disk_store.root.exists()
