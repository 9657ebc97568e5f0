"""Repeatables when the connection is cut or a signal comes: all or none took effect, and each text ran once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from pgratchet import events
from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.errors import Interrupted, MigrationFailed, RatchetError
from pgratchet.migrations.files import Migration
from tests.faults.proxy import Moment, Proxy
from tests.faults.round_trips import CountedConnections, RoundTripAction, RoundTripFault, RoundTripMoment
from tests.servers.databases import Database
from tests.support.migrations import HISTORY, WriteMigrations, WriteRepeatables, history, migrate
from tests.support.waiting import until

FILES = {"a": "insert into effects values ('a')", "b": "insert into effects values ('b')"}
BOTH = [("1_t", True), ("repeatable/a@1", True), ("repeatable/b@1", True)]
SLEEPING = (
    "SELECT count(*)::int FROM pg_stat_activity"
    " WHERE wait_event = 'PgSleep' AND datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.fixture
def database(database: Database, write: WriteMigrations) -> Database:
    migrate(database, write(m1_t="create table effects (name text)"))
    return database


@pytest.fixture
def proxy(database: Database) -> Iterator[Proxy]:
    proxy = Proxy(database.parameters)
    yield proxy
    proxy.close()


def effects(database: Database) -> list[object]:
    return [name for (name,) in database.rows("SELECT name FROM effects ORDER BY name")]


@pytest.mark.every_major
@pytest.mark.parametrize("moment", [Moment.ANSWERED, Moment.HALF_ANSWERED])
def test_a_commit_whose_answer_is_lost_is_found_in_the_history(
    database: Database, proxy: Proxy, write_repeatables: WriteRepeatables, moment: Moment
) -> None:
    files = write_repeatables(**FILES)
    proxy.at(b"RESET synchronous_commit;\nCOMMIT", moment, meanwhile=lambda: history(database))
    ran = migrate(proxy.database, files)
    assert proxy.witnessed == BOTH, "the server had committed, and the line was cut then"
    assert ran.applied == ["repeatable/a", "repeatable/b"]
    assert isinstance(ran.events[-1], events.Finished)
    assert (history(database), effects(database)) == (BOTH, ["a", "b"])
    assert migrate(database, files).applied == []


@pytest.mark.parametrize("text", [b"RESET synchronous_commit;\nCOMMIT", b"insert into effects values ('b')"])
@pytest.mark.parametrize("moment", [Moment.BEFORE, Moment.HALF])
def test_a_cut_before_the_commit_leaves_nothing_and_can_be_repeated(
    database: Database, proxy: Proxy, write_repeatables: WriteRepeatables, moment: Moment, text: bytes
) -> None:
    files = write_repeatables(**FILES)
    proxy.at(text, moment, meanwhile=lambda: history(database))
    with pytest.raises(MigrationFailed, match="repeatable/") as caught:
        migrate(proxy.database, files)
    assert proxy.sprung
    assert "repeatable/a and repeatable/b were rolled back." in caught.value.detail
    assert (history(database), effects(database)) == ([("1_t", True)], [])
    assert migrate(database, files).applied == ["repeatable/a", "repeatable/b"]


def test_a_cut_behind_a_versioned_file_asks_for_the_rows_of_both_kinds(
    database: Database, proxy: Proxy, write: WriteMigrations, write_repeatables: WriteRepeatables
) -> None:
    """After a lost connection the run checks that the server still has everything that it has reported."""
    write_repeatables(**FILES)
    files = write(m2_u="-- migrate: after=repeatable/a\ninsert into effects values ('u')")
    proxy.at(b"insert into effects values ('u')", Moment.ANSWERED, meanwhile=lambda: history(database))
    ran = migrate(proxy.database, files)
    assert proxy.sprung
    assert ran.applied == ["repeatable/a", "2_u", "repeatable/b"]
    assert effects(database) == ["a", "b", "u"]


@pytest.mark.parametrize("sleeps_in", ["a", "b"])
def test_ctrl_c_rolls_all_back_and_names_what_stays(
    database: Database, write: WriteMigrations, write_repeatables: WriteRepeatables, sleeps_in: str
) -> None:
    write_repeatables(**{**FILES, sleeps_in: f"{FILES[sleeps_in]}; select pg_sleep(30)"})
    files = write(m2_u="create table u ()")

    def interrupt() -> None:
        until(lambda: database.rows(SLEEPING) == [(1,)])
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Interrupted) as caught:
        migrate(database, files)
    thread.join()
    assert caught.value.detail.startswith("2_u was applied and stays.")
    assert database.rows(SLEEPING) == [(0,)]
    assert database.locks() == []
    assert (history(database), effects(database)) == ([("1_t", True), ("2_u", True)], [])
    assert migrate(database, write_repeatables(**FILES)).applied == ["repeatable/a", "repeatable/b"]


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
@pytest.mark.parametrize("act", ["cut", "end"])
def test_a_fault_at_any_round_trip_leaves_all_or_nothing_and_the_next_run_finishes(
    database: Database, write_repeatables: WriteRepeatables, act: RoundTripAction
) -> None:
    files = write_repeatables(
        a="create or replace view a as table b; insert into effects values ('a')",
        b="create or replace view b as select 1 as x; insert into effects values ('b')",
    )
    moments: tuple[RoundTripMoment, ...] = ("half", "sent", "behind")
    trips, faults_met = 1, 0
    while trips < 40:
        for moment in moments:
            database.run("TRUNCATE effects; DELETE FROM ratchet.migrations WHERE name LIKE 'repeatable/%'")
            database.run("DROP VIEW IF EXISTS a, b")
            line = CountedConnections(database.parameters, RoundTripFault(act, trips, moment))
            applied, is_over = _run_with_fault(line, files)
            rows = [name for name, _ in history(database) if name != "1_t"]
            assert rows in ([], ["repeatable/a@1", "repeatable/b@1"]), (trips, moment)
            assert len(rows) == len(effects(database)), (trips, moment)
            assert not applied or len(rows) == len(applied), (trips, moment)
            again = migrate(database, files).applied
            assert effects(database) == ["a", "b"], (trips, moment)
            assert len(rows) + len(again) == 2, (trips, moment)
            faults_met += not is_over
        if is_over and line.trips < trips:
            break
        trips += 1
    assert faults_met >= 5, "the faults ended some of the runs"
    assert trips > 10


def _run_with_fault(line: CountedConnections, files: tuple[Migration, ...]) -> tuple[list[str], bool]:
    """What a run reported as applied, and whether it reached its end."""
    applied: list[str] = []
    options = MigrateOptions("run", not_empty=True, wait=5_000)
    try:
        stream = applier.migrate(line.connect, HISTORY, files, None, options)
        applied.extend(event.name for event in stream if isinstance(event, events.MigrationApplied))
    except RatchetError:
        return applied, False
    return applied, True


def test_a_long_chain_in_the_worst_order_takes_two_passes(
    database: Database, write_repeatables: WriteRepeatables
) -> None:
    count = 40
    names = [f"v{number:02}" for number in range(count)]
    sources = [*names[1:], "effects"]
    texts = {name: f"create view {name} as table {source}" for name, source in zip(names, sources, strict=True)}
    line = CountedConnections(database.parameters)
    _run_with_fault(line, write_repeatables(**texts))
    assert len(history(database)) == count + 1
    assert line.trips < 4 * count, "each file that fails has one trip to roll it back"
