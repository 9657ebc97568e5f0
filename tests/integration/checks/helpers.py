"""Findings of the doctor for a database of a test."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from pgratchet.checks import doctor
from pgratchet.checks.doctor import DoctorOptions
from pgratchet.checks.findings import Finding
from pgratchet.database.history import History
from tests.servers.databases import Database


def examine(database: Database, **options: object) -> list[Finding]:
    before = database.fingerprint()
    with closing(database.connect()) as connection:
        findings = list(doctor.check_server(connection, DoctorOptions(History(), **options)))  # type: ignore[arg-type]
    assert database.fingerprint() == before, "it only looks"
    return findings


def finding_about(finding: Sequence[Finding], subject: str) -> Finding:
    (one,) = [each for each in finding if each.subject == subject]
    return one


def problems_in(findings: Sequence[Finding]) -> list[Finding]:
    return [each for each in findings if each.severity != "ok"]
