"""Times, and lines for the person: on a terminal and away from one."""

from __future__ import annotations

import os
import pty
import re
import sys
import time
from datetime import datetime, timezone

import pytest

from pgratchet.checks.findings import Finding
from pgratchet.console import output
from pgratchet.console.commands import called_as
from pgratchet.console.findings import show_findings
from pgratchet.errors import Location, MigrationFailed

MOMENT = datetime(2026, 7, 1, 20, 30, 5, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("Europe/Berlin", "2026-07-01 22:30:05+02"),
        ("Asia/Kolkata", "2026-07-02 02:00:05+05:30"),
        ("America/New_York", "2026-07-01 16:30:05-04"),
        ("UTC", "2026-07-01 20:30:05Z"),
    ],
)
def test_times_are_in_the_users_zone_on_a_terminal_and_in_utc_elsewhere(
    monkeypatch: pytest.MonkeyPatch, zone: str, expected: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    monkeypatch.setenv("TERM", "xterm")
    time.tzset()
    try:
        assert output.format_time(MOMENT) == "2026-07-01 20:30:05Z"
        ours, theirs = pty.openpty()
        with os.fdopen(theirs, "w") as terminal:
            monkeypatch.setattr(sys, "stdout", terminal)
            assert output.format_time(MOMENT) == expected
            assert output.format_time(MOMENT, on_stderr=True) == "2026-07-01 20:30:05Z"
        os.close(ours)
    finally:
        monkeypatch.undo()
        time.tzset()


ONE = Location("1_a", 3, 8, "42703", path="sql/1_a.sql", before="select ", after="emial from t")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            MigrationFailed(f"migration 1_a failed at {ONE}: no column", detail="d", hint="h", location=ONE),
            (
                "migration 1_a failed at sql/1_a.sql:3:8: no column\n"
                "    3 | select emial from t\n      |        ^\nDETAIL: d\nHINT: h\n"
            ),
        ),
        (
            MigrationFailed("2 mistakes", detail=f"{ONE}: a\n{ONE}: b", location=ONE),
            "2 mistakes\nDETAIL: sql/1_a.sql:3:8: a\n        sql/1_a.sql:3:8: b\n",
        ),
        (
            MigrationFailed("1 mistake", detail=f"{ONE}: a", location=ONE),
            "1 mistake\nDETAIL: sql/1_a.sql:3:8: a\n            3 | select emial from t\n              |        ^\n",
        ),
        (MigrationFailed("no position", location=Location("1_a", path="sql/1_a.sql")), "no position\n"),
    ],
)
def test_an_error_shows_the_line_that_it_is_about(
    capsys: pytest.CaptureFixture[str], error: MigrationFailed, expected: str
) -> None:
    output.show_error(error)
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("colour", [True, False])
def test_a_terminal_gets_lines_that_fit(monkeypatch: pytest.MonkeyPatch, width: int, colour: bool) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "" if colour else "1")
    hint = (
        "Put the line `-- migrate: no-transaction` above all statements of sql/0001_name.sql; then run it again. " * 3
    )
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        output.show_error(MigrationFailed(f"failed at {ONE}: no", detail="Because.", hint=hint, location=ONE))
    shown = os.read(ours, 10_000).decode().replace("\r\n", "\n")
    os.close(ours)
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]m", shown)) is colour
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert max(map(len, lines)) <= width
    assert " ".join(lines[4:]).replace("      ", "").split() == f"HINT: {hint}".split()
    assert len(lines) == {80: 9, 200: 6}[width]


def test_the_remedies_of_doctor_name_commands_as_they_are_typed(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [Finding("problem", "login", "no server", "Run `invoke up`.")]
    with called_as("doctor", ["/usr/bin/pgratchet", "doctor"], "prod"):
        show_findings("title", findings)
    assert "Run `pgratchet up --env=prod`." in capsys.readouterr().out
