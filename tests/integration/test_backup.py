"""Backups on real servers with real pg_dump and pg_restore; every fault is shown to be one first."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ops import backup, connection, embedded, events, settings
from ops.backup import Listed, Manifest, Programs, Source
from ops.errors import BackupFailed, ConfigurationError
from ops.inventory import Target
from tests.conftest import ROOT, Database


@pytest.fixture
def environ(migrated: Database) -> Iterator[dict[str, str]]:
    variables = {f"pg_{key}": value for key, value in migrated.parameters.items() if key != "password"}
    variables["pg_password"] = "{{ env('SECRET', '') }}"
    target = Target("env", "target", (), variables)
    secret = {"SECRET": migrated.parameters.get("password", "")}
    given = settings.resolve(target, ROOT / "templates", secret, dict)
    with given.client_environment() as environ:
        yield environ


@pytest.fixture
def source(migrated: Database, environ: dict[str, str]) -> Source:
    with migrated.connect() as session:
        server = connection.inspect(session)
        size = connection.database_size(session)
    return Source("env", "target", migrated.name, server.version, size, environ)


@pytest.fixture
def programs(source: Source) -> Programs:
    return backup.find_programs(source.server_version, tls=False, embedded=embedded.programs)


def take(source: Source, folder: Path, programs: Programs) -> tuple[Manifest, list[events.Event]]:
    seen: list[events.Event] = []
    returned: list[Manifest] = []

    def follow() -> Iterator[events.Event]:
        returned.append((yield from backup.take(source, folder, programs, {"001_initial_schema": "c"})))

    seen.extend(follow())
    return returned[0], seen


def test_a_backup_is_verified_listed_and_restores_what_was_there(
    migrated: Database, source: Source, programs: Programs, tmp_path: Path
) -> None:
    manifest, seen = take(source, tmp_path, programs)
    assert isinstance(seen[-1], events.BackupTaken)
    (listed,) = backup.find(tmp_path, "env", "target")
    assert listed == Listed(tmp_path / "env" / "target" / manifest.backup_id, manifest)
    assert manifest.size == (listed.path / "database.dump").stat().st_size
    assert manifest.history == {"001_initial_schema": "c"}
    assert (manifest.database, manifest.server_version) == (migrated.name, source.server_version)
    assert oct(listed.path.stat().st_mode & 0o777) == "0o700"
    migrated.run("DELETE FROM app_state")
    restored = Database({**migrated.parameters, "dbname": f"{migrated.name}_r"})
    with migrated.connect() as session, connection.new_database(session, restored.name):
        backup.restore(listed, programs, source.environ, restored.name)
    try:
        assert restored.rows("SELECT count(*) FROM app_state") == [(2,)]
        assert restored.rows("SELECT count(*) FROM ratchet.migrations") == [(1,)]
    finally:
        migrated.run(f"DROP DATABASE {restored.name}")


def test_the_client_is_never_older_than_the_server(source: Source, programs: Programs) -> None:
    assert programs.major >= source.server_version // 10000


def test_an_older_client_is_refused_by_name(source: Source) -> None:
    with pytest.raises(BackupFailed, match="no pg_dump for PostgreSQL 99") as caught:
        backup.find_programs(990000, tls=True, embedded=embedded.programs)
    assert "no TLS" in caught.value.detail
    assert "postgresql-client-99" in caught.value.hint


def test_the_wheels_client_is_not_used_over_tls() -> None:
    wheel = embedded.programs()
    assert any(p.folder == wheel for p in backup._candidates(False, embedded.programs))
    assert not any(p.folder == wheel for p in backup._candidates(True, embedded.programs))


def test_a_backup_that_fails_leaves_nothing(source: Source, programs: Programs, tmp_path: Path) -> None:
    broken = {**source.environ, "PGSERVICEFILE": "/nowhere"}
    with pytest.raises(BackupFailed, match="pg_dump failed") as caught:
        take(replace(source, environ=broken), tmp_path, programs)
    assert "ended with status 1" in caught.value.detail
    assert backup.find(tmp_path, "env", "target") == ()
    assert list((tmp_path / "env" / "target").iterdir()) == []


def test_a_dump_waits_for_a_lock_only_so_long(
    migrated: Database, source: Source, programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "LOCK_WAIT", "200ms")
    with migrated.connect() as holder:
        holder.execute("BEGIN; LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(BackupFailed, match="pg_dump failed"):
            take(source, tmp_path, programs)
        holder.rollback()


def test_a_pg_dump_that_is_killed_leaves_nothing(source: Source, tmp_path: Path, programs: Programs) -> None:
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "pg_dump").write_text("#!/bin/sh\nprintf PGDMP-half\nkill -9 $$\n")
    (fake / "pg_dump").chmod(0o755)
    with pytest.raises(BackupFailed, match="pg_dump failed") as caught:
        take(source, tmp_path, replace(programs, folder=fake))
    assert "status -9" in caught.value.detail
    assert backup.find(tmp_path, "env", "target") == ()


def test_a_pg_dump_that_lies_is_found_out_by_reading_back(source: Source, tmp_path: Path, programs: Programs) -> None:
    """It ends with 0 and writes half an archive: exactly what must never pass for a backup."""
    real, fake = programs.folder, tmp_path / "bin"
    fake.mkdir()
    (fake / "pg_dump").write_text(f'#!/bin/sh\n"{real}/pg_dump" "$@" > "{fake}/whole"\nhead -c 9000 "{fake}/whole"\n')
    (fake / "pg_dump").chmod(0o755)
    (fake / "pg_restore").symlink_to(real / "pg_restore")
    with pytest.raises(BackupFailed, match="pg_restore failed"):
        take(source, tmp_path, replace(programs, folder=fake))
    assert (fake / "whole").stat().st_size > 9000
    assert backup.find(tmp_path, "env", "target") == ()


def test_a_full_disk_is_said_to_be_one(source: Source, programs: Programs, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs takes root")
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs here: {mounted.stderr.decode().strip()}")
    try:
        with pytest.raises(BackupFailed) as caught:
            take(source, small, programs)
        assert "No space left" in str(caught.value)
        assert backup.find(small, "env", "target") == ()
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize("fault", ["truncated", "flipped", "gone"])
def test_a_damaged_backup_does_not_verify(source: Source, programs: Programs, tmp_path: Path, fault: str) -> None:
    take(source, tmp_path, programs)
    (before,) = backup.find(tmp_path, "env", "target")
    dump = before.path / "database.dump"
    content = bytearray(dump.read_bytes())
    if fault == "gone":
        dump.unlink()
    elif fault == "truncated":
        dump.write_bytes(content[:-100])
    else:
        content[len(content) // 2] ^= 0x01
        dump.write_bytes(content)
        assert dump.stat().st_size == before.manifest.size if before.manifest else 0
    (after,) = backup.find(tmp_path, "env", "target")
    if fault != "flipped":
        assert "not as large" in after.problem
        assert backup.newest(tmp_path, "env", "target") is None
    with pytest.raises(BackupFailed):
        list(backup.verify(after, programs))


def test_what_is_no_backup_is_listed_with_the_reason(source: Source, programs: Programs, tmp_path: Path) -> None:
    manifest, _ = take(source, tmp_path, programs)
    place = tmp_path / "env" / "target"
    shutil.copytree(place / manifest.backup_id, place / "20990101T000000-copy")
    (place / "20990101T000001-dead.partial").mkdir()
    (place / "20990101T000002-bare").mkdir()
    (place / "20990101T000003-torn").mkdir()
    (place / "20990101T000003-torn" / "manifest.json").write_text(json.dumps({"format": 1})[:-3])
    found = {each.path.name: each.problem for each in backup.find(tmp_path, "env", "target")}
    assert found == {
        "20990101T000003-torn": "Its manifest cannot be read.",
        "20990101T000002-bare": "It has no manifest.",
        "20990101T000001-dead.partial": "It was not finished.",
        "20990101T000000-copy": f"Its manifest is that of {manifest.backup_id}.",
        manifest.backup_id: "",
    }
    newest = backup.newest(tmp_path, "env", "target")
    assert newest is not None
    assert newest.backup_id == manifest.backup_id


@pytest.mark.parametrize(
    "change",
    [
        {"files": {}},
        {"files": []},
        {"files": {"database.dump": {}}},
        {"server_version": "x"},
        {"format": 2},
        {"more": 1},
    ],
)
def test_a_manifest_edited_by_hand_is_no_manifest(
    source: Source, programs: Programs, tmp_path: Path, change: dict[str, object]
) -> None:
    take(source, tmp_path, programs)
    (listed,) = backup.find(tmp_path, "env", "target")
    path = listed.path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (after,) = backup.find(tmp_path, "env", "target")
    assert after.problem == "Its manifest cannot be read."
    with pytest.raises(BackupFailed, match="is no backup"):
        list(backup.verify(after, programs))


def test_a_restore_that_fails_takes_its_database_with_it(
    migrated: Database, source: Source, programs: Programs, tmp_path: Path
) -> None:
    take(source, tmp_path, programs)
    (listed,) = backup.find(tmp_path, "env", "target")
    (listed.path / "database.dump").write_bytes(b"PGDMP")
    with (
        pytest.raises(BackupFailed, match="pg_restore failed"),
        migrated.connect() as session,
        connection.new_database(session, f"{migrated.name}_r"),
    ):
        backup.restore(listed, programs, source.environ, f"{migrated.name}_r")
    assert migrated.rows("SELECT 1 FROM pg_database WHERE datname = %s", f"{migrated.name}_r") == []


def test_a_waiver_needs_words() -> None:
    assert backup.needed("always", None)
    assert not backup.needed("always", "a reason")
    assert not backup.needed("never", None)
    with pytest.raises(ConfigurationError, match="needs a reason"):
        backup.needed("always", " ")
