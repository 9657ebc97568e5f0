"""Damaged backups are found by reading them, and are never listed as good."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pgratchet.backups import listing
from pgratchet.backups.backup import BackupSource
from pgratchet.backups.disk_store import DiskStore
from pgratchet.backups.pg_programs import Programs
from pgratchet.errors import BackupFailed
from tests.integration.backups.helpers import fake_programs, take, verify
from tests.servers.databases import Database

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
    backup_source: BackupSource, migrated: Database, programs: Programs, disk_store: DiskStore, fault: str
) -> None:
    other = take(backup_source, disk_store, programs)
    migrated.run("CREATE TABLE meanwhile (x int)")
    manifest = take(backup_source, disk_store, programs)
    dump = disk_store.root / manifest.backup_id / "database.dump"
    before = dump.read_bytes()
    FAULTS[fault](dump, disk_store.root / other.backup_id / "database.dump")
    if fault in ("truncated", "flipped", "swapped"):
        assert dump.read_bytes() != before
    entries = {each.backup_id: each for each in listing.list_backups(disk_store)}
    assert entries[other.backup_id].manifest
    assert entries[manifest.backup_id].manifest is None
    assert entries[manifest.backup_id].problem
    with pytest.raises(BackupFailed, match="is damaged"):
        verify(disk_store, manifest.backup_id, programs)


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_flipped_bit_is_detected_by_reading(
    migrated: Database,
    backup_source: BackupSource,
    programs: Programs,
    disk_store: DiskStore,
    tmp_path: Path,
    compression: str,
) -> None:
    """Time and size do not show it, and pg_restore does not notice it in an uncompressed archive."""
    migrated.run("CREATE TABLE planted AS SELECT 'planted row'::text AS x")
    option = "--compress=0" if compression == "none" else ""
    drops = 'for a; do shift; case "$a" in --compress=*) ;; *) set -- "$@" "$a";; esac; done\n'
    fake = fake_programs(programs, tmp_path / "bin", f'{drops}exec REAL "$@" {option}\n')
    manifest = take(backup_source, disk_store, fake)
    dump = disk_store.root / manifest.backup_id / "database.dump"
    times, content = dump.stat(), dump.read_bytes()
    place = content.index(b"planted row") if compression == "none" else len(content) * 2 // 3
    dump.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    os.utime(dump, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert listing.list_backups(disk_store)[0].manifest == manifest, "a listing cannot know"
    if compression == "none":
        read = subprocess.run([programs.path("pg_restore"), "--file=/dev/null", str(dump)], capture_output=True)
        assert read.returncode == 0, "the whole archive reads well"
    with pytest.raises(BackupFailed, match="was changed or damaged after it was written"):
        verify(disk_store, manifest.backup_id, programs)


def test_a_folder_that_is_not_a_backup_is_listed_with_the_reason(
    backup_source: BackupSource, programs: Programs, disk_store: DiskStore
) -> None:
    manifest = take(backup_source, disk_store, programs)
    shutil.copytree(disk_store.root / manifest.backup_id, disk_store.root / "20990101T000000-0000")
    (disk_store.root / "20990101T000001-0000.partial").mkdir()
    (disk_store.root / "20990101T000002-0000").mkdir()
    torn = disk_store.root / "20990101T000003-0000"
    torn.mkdir()
    (torn / "manifest.json").write_text(json.dumps({"format": 2})[:-3])
    (disk_store.root / "notes").mkdir()
    problems = {each.backup_id: each.problem for each in listing.list_backups(disk_store)}
    assert problems == {
        "20990101T000003-0000": "Its manifest is no JSON: it was cut short, or written over.",
        "20990101T000002-0000": "It has no manifest.",
        "20990101T000001-0000.partial": "It was not finished.",
        "20990101T000000-0000": f"Its manifest is that of {manifest.backup_id}.",
        manifest.backup_id: "",
    }


@pytest.mark.parametrize("change", [{"server_version": 1}, {"keep": True}, {"more": 1}, {"files": {}}, {"label": "x"}])
def test_a_manifest_edited_by_hand_is_refused(
    backup_source: BackupSource, programs: Programs, disk_store: DiskStore, change: dict[str, object]
) -> None:
    manifest = take(backup_source, disk_store, programs)
    path = disk_store.root / manifest.backup_id / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (entry,) = listing.list_backups(disk_store)
    assert entry.problem == "Its manifest was changed after it was written."
