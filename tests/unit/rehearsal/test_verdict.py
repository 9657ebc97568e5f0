"""Whether a run may begin: any change of the circumstances voids a verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from pgratchet.backups.manifest import Setting
from pgratchet.errors import NotRehearsed
from pgratchet.rehearsal.records import (
    Circumstances,
    Shape,
    circumstances_of,
    manifest_hash,
    read_records,
    rehearsed_durations,
    write_record,
)
from pgratchet.rehearsal.verdict import judge
from tests.unit.rehearsal.samples import FAILURE, MANIFEST, NOW, REPORT, record

HERE = circumstances_of(REPORT, MANIFEST)
BACKUPS = {manifest_hash(MANIFEST)}
DAY = timedelta(days=1)


def verdict(
    records: list[Shape], here: Circumstances = HERE, age: timedelta = timedelta(0), backups: set[str] = BACKUPS
) -> NotRehearsed | None:
    return judge(records, here, backups, NOW + age, DAY)


def test_a_rehearsal_in_the_same_circumstances_allows_a_run() -> None:
    assert verdict([record()]) is None
    assert verdict([record()], age=DAY) is None


@pytest.mark.parametrize(
    ("here", "reason"),
    [
        (replace(HERE, migrations=[("002_release", "d" * 64)]), "with other files"),
        (replace(HERE, migrations=[*HERE.migrations, ("003_more", "e" * 64)]), "with other files"),
        (replace(HERE, migrations=[]), "with other files"),
        (replace(HERE, history={}), "another history"),
        (replace(HERE, history={"001_first": "b" * 64}), "another history"),
        (replace(HERE, settings=[Setting(None, "TimeZone", "UTC")]), "other settings"),
        (replace(HERE, major=18), "on PostgreSQL 15"),
        (replace(HERE, tool_version="99"), "by version"),
    ],
)
def test_any_change_voids_a_verdict_and_is_named(here: Circumstances, reason: str) -> None:
    error = verdict([record()], here)
    assert error
    assert reason in error.detail


def test_the_order_of_settings_does_not_matter() -> None:
    settings = [Setting("a", "x", "1"), Setting(None, "y", "2")]
    one, other = replace(HERE, settings=settings), replace(HERE, settings=settings[::-1])
    assert one.fingerprint() == other.fingerprint()


def test_age_backup_failure_and_budget_are_looked_at() -> None:
    cases = [
        (verdict([]), "no rehearsal yet"),
        (verdict([record()], age=DAY + timedelta(seconds=1)), "rehearsal_max_age is 86400 s"),
        (verdict([record()], backups=set()), "Its manifest is missing now"),
        (verdict([record(replace(REPORT, failure=FAILURE))]), "column has null values"),
        (verdict([record(blocks_reads=5)]), "locked at 002_release:1, and 002_release:3 takes the time"),
    ]
    for error, text in cases:
        assert error
        assert text in error.detail
        assert error.exit_code == 11
    assert verdict([record(blocks_reads=5), record()]) is None  # the newest one counts


class Notes:
    """The notes of a store, in memory."""

    def __init__(self) -> None:
        self.texts: dict[str, bytes] = {}

    def note(self, name: str, text: bytes) -> None:
        self.texts[name] = text

    def notes(self) -> Iterator[bytes]:
        yield from self.texts.values()


def test_a_record_is_read_as_it_was_written_unless_it_was_edited() -> None:
    store = Notes()
    write_record(store, record())  # type: ignore[arg-type]
    ((name, text),) = store.texts.items()
    assert name == "20261127T120000-rehearsal-0a1f.json"
    store.texts |= {"drill": b'{"backup_id": "x", "good": true}', "broken": b"{", "list": b"[]"}
    (read,) = read_records(store)  # type: ignore[arg-type]
    assert read == json.loads(json.dumps(record()))
    assert rehearsed_durations([read]) == {("002_release", "c" * 64): 7600}
    store.texts[name] = text.replace(b'"ok": true', b'"ok": false')
    assert read_records(store) == []  # type: ignore[arg-type]
