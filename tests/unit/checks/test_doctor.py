"""Findings of `invoke doctor` about versions, programs and disks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgratchet.checks import doctor, machine
from pgratchet.database.inspection import Server

PACKAGE = Path("/package/bin")


@pytest.mark.parametrize(
    ("version", "severity"),
    [(120005, "problem"), (130022, "warning"), (140000, "ok"), (190001, "ok"), (200000, "warning")],
)
def test_old_and_unknown_server_versions_are_findings(version: int, severity: str) -> None:
    server = Server(version, "d", "u", "1", in_recovery=False, read_only=False, encoding="UTF8", pooled=False)
    assert doctor.check_version(server).severity == severity


@pytest.mark.parametrize(
    ("free", "minimum", "database", "severity"),
    [(None, 10, 100, "ok"), (100, 10, 100, "ok"), (99, 10, 100, "warning"), (9, 10, 100, "problem")],
)
def test_little_free_space_is_a_finding(free: int | None, minimum: int, database: int, severity: str) -> None:
    assert machine.check_free_space("backups", free, minimum, database).severity == severity


def test_a_backup_folder_that_cannot_be_written_is_a_finding(tmp_path: Path) -> None:
    assert list(machine.check_backup_folder(tmp_path / "not" / "yet")) == []
    (tmp_path / "file").write_text("")
    (finding,) = machine.check_backup_folder(tmp_path / "file")
    assert finding.severity == "problem"
    if os.geteuid():
        tmp_path.chmod(0o500)
        assert list(machine.check_backup_folder(tmp_path / "not" / "yet"))
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("version", "folder", "server", "tls", "description"),
    [
        ("18.6", PACKAGE, 180006, False, "the server's own major; of the package, which has no TLS"),
        ("16.2", Path("/usr/bin"), 150010, True, "not older than the server's 15; the line is encrypted"),
        ("15.2", Path("/usr/bin"), 150010, False, "the server's own major"),
    ],
)
def test_programs_are_described_with_version_and_source(
    version: str, folder: Path, server: int, *, tls: bool, description: str
) -> None:
    assert description in machine.check_programs(version, folder, server, tls=tls, packaged=PACKAGE).what
