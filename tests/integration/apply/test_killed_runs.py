"""Runs that are killed, cut off or lose their backend, at every round trip: the next run finishes.

The files cover every path through the applier. Each inserts a row that is counted, so that a file that ran twice shows.
The next run does not wait for the server: the session of the dead run may still work and hold the lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from queue import Queue

import pytest

from pgratchet.migrations import files as migrations
from pgratchet.migrations import scripts
from pgratchet.migrations.files import Migration
from tests.faults.round_trips import RoundTripAction, RoundTripFault, RoundTripMoment
from tests.servers import majors
from tests.servers.databases import Database, Server
from tests.support.runner_process import Runner, lies_of_a_lost_line, started

pytestmark = pytest.mark.every_major

MARK = "INSERT INTO public.effects VALUES ('%s');\n"
COPY = "CREATE TABLE copied (x int, t text);\nCOPY copied FROM STDIN;\n{rows}\\.\n".format(
    rows="".join(f"{n}\t{'x' * 90}\n" for n in range(1000))
)
LARGE = "CREATE TABLE large (x int, t text);\n" + "".join(
    f"INSERT INTO large VALUES ({n}, '{'y' * 90_000}');\n" for n in range(7)
)
STEPS = (
    "-- migrate: no-transaction\n"
    "CREATE SCHEMA aside;\n"
    "SET search_path = aside;\n"
    f"{MARK % '6_steps: 3'}"
    "CREATE TABLE stepped (x int);\n"
    "INSERT INTO stepped SELECT generate_series(1, 1000);\n"
    "CREATE INDEX CONCURRENTLY first_index ON stepped (x);\n"
    f"{MARK % '6_steps: 7'}"
    "CREATE UNIQUE INDEX CONCURRENTLY second_index ON stepped (x);\n"
    "DROP INDEX CONCURRENTLY first_index;\n"
    "VACUUM stepped;\n"
    f"{MARK % '6_steps: 11'}"
)
FILES = {
    "1_a": f"CREATE TABLE a (); {MARK % '1_a'}",
    "2_b": f"CREATE TABLE b (); SELECT pg_sleep(0.02); {MARK % '2_b'}",
    "3_c": f"CREATE TABLE c (); {MARK % '3_c'}",
    "4_copy": f"{MARK % '4_copy'}{COPY}",
    "5_large": f"{MARK % '5_large'}{LARGE}",
    "6_steps": STEPS,
    "7_last": f"CREATE TABLE last (); {MARK % '7_last'}",
}
EFFECTS = ["1_a", "2_b", "3_c", "4_copy", "5_large", "6_steps: 11", "6_steps: 3", "6_steps: 7", "7_last"]
TABLES = [
    ("aside", "stepped", 1000),
    *(
        ("public", name, rows)
        for name, rows in [("a", 0), ("b", 0), ("c", 0), ("copied", 1000), ("large", 7), ("last", 0)]
    ),
]
WORKERS = 3

STRIDE = {"embedded": 1, **dict.fromkeys(majors.VERSIONS, 60)}
"""Of the faults every one on the embedded server, of those on the one outside each ninth, and fewer on other majors."""


@dataclass
class RunSlot:
    """A database that is emptied before each case, and a process for its runs."""

    database: Database
    runner: Runner

    def clear(self) -> None:
        self.database.run(
            "DROP SCHEMA IF EXISTS ratchet, aside, public CASCADE; CREATE SCHEMA public;"
            " CREATE TABLE effects (name text NOT NULL)"
        )


@pytest.fixture(scope="module")
def run_slots(server: Server) -> Iterator[Queue[RunSlot]]:
    with ExitStack() as stack:
        free: Queue[RunSlot] = Queue()
        for _ in range(WORKERS):
            database = server.create()
            stack.callback(server.drop, database)
            free.put(RunSlot(database, stack.enter_context(started())))
        yield free


@pytest.fixture
def folder(sql_folder: Path) -> Path:
    for name, text in FILES.items():
        (sql_folder / f"{name}.sql").write_text(text)
    assert len(FILES["5_large"]) > 2 * scripts.SIZE_LIMIT
    return sql_folder


def faults(act: RoundTripAction, moments: Sequence[RoundTripMoment], trips: int, stride: int) -> list[RoundTripFault]:
    """One fault at each trip, or at every nth; and one after the last trip, which has no effect."""
    cases = [RoundTripFault(act, at, moment) for at, moment in product(range(1, trips + 1), moments)]
    return [*cases[::stride], RoundTripFault(act, trips + 1, "sent")]


def sweep(
    places: Queue[RunSlot], cases: Sequence[RoundTripFault], one: Callable[[RunSlot, RoundTripFault], list[str]]
) -> str:
    """Run each case in a free slot, several at a time. Returns the differences by case."""

    def on_its_own(case: RoundTripFault) -> list[str]:
        place = places.get()
        try:
            place.clear()
            return one(place, case)
        finally:
            places.put(place)

    with ThreadPoolExecutor(WORKERS) as pool:
        results = zip(cases, pool.map(on_its_own, cases), strict=True)
        return "\n\n".join("\n".join([str(case), *wrong]) for case, wrong in results if wrong)


def unharmed(places: Queue[RunSlot], folder: Path) -> int:
    """The number of round trips of a run without a fault."""
    place = places.get()
    place.clear()
    outcome = place.runner.run(place.database, folder)
    places.put(place)
    assert (outcome.error, amiss(place.database, migrations.read(folder))) == (None, [])
    return outcome.trips


def amiss(database: Database, files: Sequence[Migration]) -> list[str]:
    """The differences from a database on which every file ran once."""
    rows = database.rows(
        "SELECT name, checksum, executed_at IS NOT NULL, statements_done, statement_begun"
        " FROM ratchet.migrations ORDER BY id"
    )
    tables = database.rows(
        "SELECT schemaname::text, tablename::text FROM pg_tables WHERE tablename <> 'effects'"
        " AND schemaname NOT IN ('pg_catalog', 'information_schema', 'ratchet') ORDER BY 1, 2"
    )
    indexes = (
        "SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = to_regclass('aside.stepped')"
    )
    comparisons = {
        "history": (rows, [(f.name, f.checksum, True, 11 if f.name == "6_steps" else None, None) for f in files]),
        "effects": ([name for (name,) in database.rows('SELECT name FROM effects ORDER BY name COLLATE "C"')], EFFECTS),
        "tables": (
            [(*table, database.rows('SELECT count(*)::int FROM "%s"."%s"' % table)[0][0]) for table in tables],  # noqa: UP031
            TABLES,
        ),
        "indexes": (database.rows(indexes), [("aside.second_index", True)]),
        "locks": (database.locks(), []),
    }
    return [f"{what}: {is_} instead of {should}" for what, (is_, should) in comparisons.items() if is_ != should]


def test_the_run_after_a_killed_run_finishes_it(server: Server, run_slots: Queue[RunSlot], folder: Path) -> None:
    files, trips = migrations.read(folder), unharmed(run_slots, folder)
    assert trips > 50

    def one(place: RunSlot, fault: RoundTripFault) -> list[str]:
        killed = place.runner.run(place.database, folder, fault)
        again = place.runner.run(place.database, folder)
        return [
            *([] if killed.killed is (fault.at <= trips) else [f"not as it should have been killed: {killed}"]),
            *([f"the next run: {again}"] if again.exit or again.error else []),
            *(f"applied twice: {name}" for name in killed.applied if name in again.applied),
            *amiss(place.database, files),
        ]

    wrong = sweep(run_slots, faults("kill", ("sent", "behind"), trips, STRIDE.get(server.name, 9)), one)
    assert not wrong, wrong


@pytest.mark.parametrize(("act", "moment"), [("end", "sent"), ("end", "behind"), ("cut", "half")])
def test_a_run_that_loses_its_session_reports_the_truth_and_the_next_run_finishes_it(
    server: Server, run_slots: Queue[RunSlot], folder: Path, act: RoundTripAction, moment: RoundTripMoment
) -> None:
    files, trips = migrations.read(folder), unharmed(run_slots, folder)

    def one(place: RunSlot, fault: RoundTripFault) -> list[str]:
        lost = place.runner.run(place.database, folder, fault)
        lies = lies_of_a_lost_line(lost, place.database)
        again = place.runner.run(place.database, folder)
        return [
            *lies,
            *(["it ended well, and left something to do"] if not lost.error and again.applied else []),
            *([f"the next run: {again}"] if again.exit or again.error else []),
            *(f"applied twice: {name}" for name in lost.applied if name in again.applied),
            *amiss(place.database, files),
        ]

    wrong = sweep(run_slots, faults(act, (moment,), trips, STRIDE.get(server.name, 9)), one)
    assert not wrong, wrong
