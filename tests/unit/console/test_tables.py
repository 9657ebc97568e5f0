"""Tables on terminals of several widths: names, times and labels are broken only where nothing else is possible."""

from __future__ import annotations

import os
import pty
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone

import pytest

from pgratchet.backups.drill_records import DrillRecord, Verdict
from pgratchet.backups.listing import BackupEntry
from pgratchet.console import output
from pgratchet.console.backups import show_backups
from pgratchet.console.migrations import show_status
from pgratchet.migrations.files import Migration
from pgratchet.migrations.plan import Entry, HistoryRow, Plan, State
from pgratchet.rehearsal.records import Shape
from tests.unit.rehearsal.samples import FAILURE, REPORT
from tests.unit.rehearsal.samples import record as rehearsal

NOW = datetime.now(timezone.utc)
PAST = datetime(2001, 2, 3, 12, tzinfo=timezone.utc)
LONG = "20261127T045324_a_long_name_of_a_migration_that_somebody_wrote"
NAMES = ("20261127T045323_index_orders_by_customer", f"20261127T045323_{'x' * 29}", LONG)
Draw = Callable[[int, Callable[[], None]], list[str]]


def read_to_end(descriptor: int) -> Iterator[bytes]:
    """What is written to a terminal until it is closed, in as many parts as it comes in."""
    with suppress(OSError):  # Linux: the other side is closed
        while part := os.read(descriptor, 65536):
            yield part


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Draw:
    """Runs a function with a terminal of a width as its standard output, and returns the lines."""

    def drawn(width: int, show: Callable[[], None]) -> list[str]:
        ours, theirs = pty.openpty()
        parts: list[bytes] = []
        reader = threading.Thread(target=lambda: parts.extend(read_to_end(ours)))
        reader.start()
        with monkeypatch.context() as patch, os.fdopen(theirs, "w") as terminal:
            patch.setenv("TERM", "xterm")
            patch.setenv("COLUMNS", str(width))
            patch.setattr(sys, "stdout", terminal)
            show()
        reader.join()
        os.close(ours)
        text = b"".join(parts).decode()
        return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]

    return drawn


def plan(names: Sequence[str], state: State = "applied", moment: datetime = NOW) -> Plan:
    return Plan(tuple(Entry(n, state, Migration(n, 1, "c", "p"), HistoryRow(n, "c", moment, 12_345)) for n in names))


@pytest.mark.parametrize("state", ["applied", "out-of-order"])
def test_names_of_45_characters_fit_into_80_columns(draw: Draw, state: State) -> None:
    lines = draw(80, lambda: show_status("dev: app", plan(NAMES[:2], state)))
    for name in NAMES[:2]:
        (line,) = (line for line in lines if name in line)
        assert line.split() == [name, state, *output.format_short_time(NOW).split(), "12.3", "s"]
    assert max(map(len, lines)) <= 80


def test_longer_names_are_broken_at_underscores(draw: Draw) -> None:
    lines = draw(80, lambda: show_status("dev: app", plan(NAMES)))
    (index,) = (index for index, line in enumerate(lines) if line.startswith("20261127T045324"))
    first = lines[index].split()[0]
    assert first.endswith("_")
    assert first + lines[index + 1] == LONG


def test_a_wide_terminal_has_whole_names_and_times(draw: Draw) -> None:
    lines = draw(120, lambda: show_status("dev: app", plan(NAMES)))
    assert all(any(f" {name} " in line for line in lines) for name in NAMES)
    assert any(re.search(r" \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", line) for line in lines)


def test_a_time_of_another_year_has_its_date(draw: Draw) -> None:
    assert any("2001-02-03 " in line for line in draw(80, lambda: show_status("dev", plan(NAMES, moment=PAST))))


def test_a_very_narrow_terminal_has_a_table_too(draw: Draw) -> None:
    assert len(draw(40, lambda: show_status("dev: app", plan(NAMES)))) > len(NAMES)


ROW = ("20261126T215919-0c76", "complete, kept", "123.4 MB", "12", "shop_production_eu", "before the large change")


@pytest.mark.parametrize("width", [80, 120])
def test_a_label_of_a_few_words_stays_on_a_line(draw: Draw, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgratchet.console.backups._backup_row", lambda _: ROW)
    lines = draw(width, lambda: show_backups("prod", "shop", [BackupEntry(ROW[0], None)], [], []))
    (line,) = (line for line in lines if ROW[0] in line)
    assert line.endswith("before the large change")
    assert ("shop_production_eu" in line) == (width == 120)


def test_databases_that_differ_are_named_in_a_narrow_terminal_too(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"one": ROW, "two": (*ROW[:4], "other", "")}
    monkeypatch.setattr("pgratchet.console.backups._backup_row", lambda entry: rows[entry.backup_id])
    lines = draw(80, lambda: show_backups("prod", "shop", [BackupEntry(name, None) for name in rows], [], []))
    assert any("other" in line for line in lines)


def test_a_drill_stays_on_a_line(draw: Draw) -> None:
    record = DrillRecord("20261126T215919-0c76", "2001-02-03T12:00:00.000Z", 1, Verdict.GOOD, restore_ms=180)
    lines = draw(80, lambda: show_backups("prod", "shop", [], [record], []))
    assert any(line.startswith("2001-02-03 ") and line.endswith(record.backup_id) for line in lines)


@pytest.mark.parametrize(
    ("record", "result"),
    [
        (rehearsal(replace(REPORT, failure=FAILURE)), "failed"),
        (rehearsal(total=1), "over budget"),
        (rehearsal(total=10**6), "within budget"),
        (rehearsal(), "no budget"),
    ],
)
def test_a_rehearsal_stays_on_a_line_with_its_result(draw: Draw, record: Shape, result: str) -> None:
    lines = draw(80, lambda: show_backups("prod", "shop", [], [], [record]))
    assert any(f" {result}  " in line and line.endswith(record["backup"]) for line in lines)
