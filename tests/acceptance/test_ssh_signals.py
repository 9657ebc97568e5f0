"""A signal at every kind of event of every task on a host: it cancels the work, and the task exits with 130."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import count, islice
from pathlib import Path

import pytest

from tests.faults import signal_at_event
from tests.hosts.local_target import LocalTarget
from tests.support.invoke import PARTS
from tests.support.waiting import until

WAITING_EVENTS = 2
"""Later events follow each other too fast for a signal between them."""
MOMENTS = pytest.mark.parametrize("moment", ["drawing", "waiting"])
pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)
"""The signals reach a process that only follows the work, whatever server it is done on."""

SLOW = """
create function wait_on(x int) returns int language plpgsql immutable as
    $$ begin perform pg_catalog.pg_sleep(0.7); return x; end $$;
create table waited_on (x int);
insert into waited_on values (1);
create index on waited_on (wait_on(x));
"""
"""A table that takes a while to restore, so that a signal at the events before it comes in time."""


def signalled(near: LocalTarget, moment: str, *arguments: str) -> Iterator[tuple[list[str], str]]:
    """Run the task once for each kind of its events, with a signal there. Yields its events and its last message."""
    for number in islice(count(1), WAITING_EVENTS if moment == "waiting" else None):
        command = (sys.executable, signal_at_event.__file__, str(number), moment)
        done = near.start(*arguments, command=command).ended()
        kinds = re.findall(f"^{signal_at_event.EVENT}(.+)", done.stderr, re.MULTILINE)
        if done.status == 0:
            assert len(set(kinds)) < number or moment == "waiting", "the signal was lost"
            return
        assert done.status == 130, done
        assert PARTS.search(done.stderr), done.stderr
        until(lambda: all((run / "exit").exists() for run in runs(near)))  # a run that was cancelled ends
        yield kinds, done.stderr.partition("\ninterrupted\n")[2]


def runs(near: LocalTarget) -> list[Path]:
    return list((near.home / ".pgratchet" / "runs").glob("*"))


@MOMENTS
def test_an_interrupted_migrate_reports_what_the_history_has(near: LocalTarget, moment: str) -> None:
    near.sql(m002_step="create table step_2 ()", m003_step="create table step_3 ()")
    before: set[str] = set()
    ends = []
    for number, (kinds, message) in zip(range(8), signalled(near, moment, "migrate"), strict=False):
        applied = near.applied() - before
        assert all(name in message for name in applied) or f"({len(applied)} migrations)" in message, message
        if "MigrationApplied" not in kinds and moment == "drawing":
            assert not applied
        assert near.database.locks() == []
        before |= applied
        ends.append(len(applied))
        near.sql(**{f"m{100 + number}_step": f"create table step_{100 + number} ()"})
    assert ends[0] == 0, "the signal at the first event came in time"
    assert len(ends) >= (2 if moment == "waiting" else 4)


@MOMENTS
def test_an_interrupted_restore_swaps_nothing_or_names_the_kept_database(near: LocalTarget, moment: str) -> None:
    near.sql(m002_slow=SLOW)
    near("migrate")
    near.database.run("CREATE TABLE later ()")
    backup_id = near("backup", "--json").json["backup"]
    near.database.run("DROP TABLE later")
    early = 0
    for kinds, message in signalled(near, moment, "restore", f"--backup={backup_id}", "--yes"):
        swapped = near.database.rows("SELECT to_regclass('later') IS NOT NULL") == [(True,)]
        assert swapped == ("Swapped" in kinds), message
        kept = near.database.rows("SELECT datname FROM pg_database WHERE datname LIKE current_database() || '\\_%'")
        assert len(kept) == swapped, f"half restored, after {kinds}: {kept}"
        assert all(f'The old one is kept as "{name}"' in message for (name,) in kept), message
        early += kinds[-1] == "BackupProgress"
        if swapped:
            near("restore", "--drop-old", "--yes")
            near.database.run("DROP TABLE later")
    assert early >= 2, "signals came while the backup was read and restored"


@pytest.mark.parametrize("backup_at", ["host", "here"])
def test_an_interrupted_backup_leaves_a_whole_backup_or_none(near: LocalTarget, backup_at: str) -> None:
    near.describe(backup_at=backup_at)
    near("migrate", "--without-backup=the test takes one itself")
    before, seen = near.backups(), 0
    for kinds, message in signalled(near, "drawing", "backup"):
        taken = near.backups() - before
        assert len(taken) <= 1
        if "BackupTaken" in kinds:
            assert all(f"The backup {backup_id} was taken." in message for backup_id in taken), message
        before |= taken
        seen += 1
    assert seen >= 3
    assert not list(near.home.glob(".pgratchet/runs/*/backups"))


@pytest.mark.parametrize("task", ["verify", "drill"])
def test_an_interrupted_verify_or_drill_leaves_nothing_behind(near: LocalTarget, task: str) -> None:
    near("migrate")
    assert len(list(signalled(near, "drawing", task))) >= 1
    assert len([note for note in near("backups", "--json").json["drills"] if not note["good"]]) == 0


def test_an_error_of_the_screen_cancels_the_run(near: LocalTarget) -> None:
    """As it ends a run that works here: nobody sees the events any more."""
    near.sql(m002_slow="create table a (); select pg_sleep(60)")
    running = near.start("migrate")
    until(lambda: runs(near), 30)
    assert running.process.stderr is not None
    running.process.stderr.close()
    with suppress(ValueError):
        running.process.communicate(timeout=30)
    until(lambda: runs(near) and all((run / "exit").exists() for run in runs(near)), 20)
    assert near.database.rows("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == [(0,)]
