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
from pgratchet.rehearsal.report import MigrationReport
from pgratchet.rehearsal.verdict import judge
from tests.unit.rehearsal.samples import FAILURE, MANIFEST, NOW, REPORT, record

HERE = circumstances_of(REPORT, MANIFEST)
BACKUPS = {manifest_hash(MANIFEST)}
DAY = timedelta(days=1)


def verdict(
    records: list[Shape],
    here: Circumstances = HERE,
    age: timedelta = timedelta(0),
    backups: set[str] = BACKUPS,
    **budget: int,
) -> NotRehearsed | None:
    return judge(records, here, backups, NOW + age, DAY, budget)


def test_a_rehearsal_in_the_same_circumstances_allows_a_run() -> None:
    assert verdict([record()]) is None
    assert verdict([record()], age=DAY) is None


@pytest.mark.parametrize(
    ("here", "reason"),
    [
        (replace(HERE, migrations=[("002_release", "d" * 64)]), "with other files"),
        (replace(HERE, migrations=[*HERE.migrations, ("003_more", "e" * 64)]), "with other files"),
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
    shape = record()
    shape["bound_to"]["settings"] = replace(HERE, settings=settings).sorted_settings
    assert verdict([shape], replace(HERE, settings=settings[::-1])) is None


def rehearsed(*names: str) -> Shape:
    """A rehearsal of several migrations, of which 002_release has all the stops."""
    return record(replace(REPORT, migrations=shape_migrations(*names)))


def state(applied: tuple[str, ...], todo: tuple[str, ...]) -> Circumstances:
    history = {**HERE.history, **dict.fromkeys(applied, "c" * 64)}
    return replace(HERE, history=history, migrations=[(name, "c" * 64) for name in todo])


def test_a_rehearsal_covers_a_part_of_its_migrations_in_their_order() -> None:
    shape = rehearsed("001_a", "002_release", "003_b")
    for applied, todo in (
        ((), ("001_a",)),
        (("001_a",), ("002_release", "003_b")),
        (("001_a", "002_release"), ("003_b",)),
    ):
        assert verdict([shape], state(applied, todo)) is None
    for applied, todo, reason in (
        ((), ("003_b",), "with other files"),
        (("001_a",), ("003_b",), "with other files"),
        (("003_b",), ("001_a",), "with another history"),
        (("001_a", "009_x"), ("003_b",), "with another history"),
    ):
        error = verdict([shape], state(applied, todo))
        assert error
        assert reason in error.detail
    history = verdict([shape], state(("009_x",), ("001_a",)))
    assert history
    assert "--fresh" in history.hint


def test_only_the_migrations_of_the_run_count_for_the_budget_of_today() -> None:
    shape = rehearsed("001_a", "002_release", "003_b")
    assert verdict([shape], state((), ("001_a",)), blocks_reads=5) is None
    error = verdict([shape], state(("001_a",), ("002_release",)), blocks_reads=5)
    assert error
    assert "locked at 002_release:1" in error.detail
    assert verdict([record(blocks_reads=5)], blocks_reads=10_000) is None  # it was raised since
    failed = record(replace(REPORT, failure=FAILURE, migrations=shape_migrations("001_a", "002_release")))
    assert verdict([failed], state((), ("001_a",))) is None
    assert verdict([failed], state(("001_a",), ("002_release",)))


def shape_migrations(*names: str) -> tuple[MigrationReport, ...]:
    return tuple(replace(REPORT.migrations[0], name=name) for name in names)


def test_age_backup_failure_and_budget_are_looked_at() -> None:
    cases = [
        (verdict([]), "no rehearsal yet"),
        (verdict([record()], age=DAY + timedelta(seconds=1)), "rehearsal_max_age is 86400 s"),
        (verdict([record()], backups=set()), "Its manifest is missing now"),
        (verdict([record(replace(REPORT, failure=FAILURE))]), "column has null values"),
        (verdict([record()], blocks_reads=5), "locked at 002_release:1, and 002_release:3 takes the time"),
    ]
    for error, text in cases:
        assert error
        assert text in error.detail
        assert error.exit_code == 11
    newest = record(replace(REPORT, failure=None))
    assert verdict([record(replace(REPORT, failure=FAILURE)), newest]) is None


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
