"""Connections that are cut at a known message: the history shows what took effect, nothing is guessed.

Each file inserts its name into `effects`, which has no unique index, so that a file that ran twice shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue

import pytest

from pgratchet import events
from pgratchet.errors import Location, MigrationFailed, StoppedPartWay
from pgratchet.migrations.files import Migration
from pgratchet.migrations.scripts import SIZE_LIMIT
from tests.faults.proxy import COPY_DONE, Moment, Proxy
from tests.integration.apply.helpers import count_working_sessions
from tests.servers.databases import Database, Server
from tests.support.migrations import Attempt, WriteMigrations, history, migrate
from tests.support.waiting import until

Files = Sequence[Migration]

TABLES = "CREATE TABLE effects (name text); CREATE SCHEMA s; CREATE TABLE s.t (x int)"
BATCH = {
    "m1_a": "create table a (); insert into effects values ('1_a')",
    "m2_b": "create table b (); insert into effects values ('2_b')",
}
BOTH = [("1_a", True), ("2_b", True)]
ROW = "insert into big values ('%s');\n" % ("x" * 100)
LARGE = (
    "create table big (x text);\n"
    + ROW * (SIZE_LIMIT // len(ROW) + 100)
    + "insert into big values ('last');\ninsert into effects values ('1_a');\n"
)
ROWS = "".join(f"{n}\t{'y' * 90}\n" for n in range(2000))
COPY = (
    f"create table big (x int, y text);\ncopy big from stdin;\n{ROWS}-1\t\\N\n{ROWS}\\.\n"
    "insert into effects values ('1_a');\n"
)
STEPS = """-- migrate: no-transaction
set search_path = s;
insert into public.effects values ('2');
create index concurrently i on t (x);
insert into public.effects values ('4');
do $$ begin insert into public.effects values ('5'); commit; end $$;
create table placed ();
"""


@pytest.fixture
def database(database: Database) -> Database:
    database.run(TABLES)
    return database


@pytest.fixture
def proxy(database: Database) -> Iterator[Proxy]:
    proxy = Proxy(database.parameters)
    yield proxy
    proxy.close()


def effects(database: Database) -> list[object]:
    return [name for (name,) in database.rows("SELECT name FROM effects ORDER BY name")]


def progress(database: Database) -> list[tuple[object, ...]]:
    return database.rows("SELECT statements_done, statement_begun, executed_at IS NOT NULL FROM ratchet.migrations")


@pytest.mark.every_major
@pytest.mark.parametrize("moment", [Moment.ANSWERED, Moment.HALF_ANSWERED])
def test_a_commit_whose_answer_is_lost_is_found_in_the_history(
    database: Database, proxy: Proxy, write: WriteMigrations, moment: Moment
) -> None:
    files = write(**BATCH)
    proxy.at(b"create table b", moment, meanwhile=lambda: history(database))
    ran = migrate(proxy.database, files)
    assert proxy.witnessed == BOTH, "the server had committed, and the line was cut then"
    assert ran.applied == ["1_a", "2_b"]
    assert isinstance(ran.events[-1], events.Finished)
    assert (history(database), effects(database)) == (BOTH, ["1_a", "2_b"])
    assert migrate(database, files).applied == []


def test_a_server_that_is_still_working_after_a_cut_is_waited_for(
    database: Database, proxy: Proxy, write: WriteMigrations
) -> None:
    files = write(**BATCH, m3_c="select pg_sleep(1.5); insert into effects values ('3_c')")
    proxy.at(b"create table b", Moment.SENT, meanwhile=lambda: until(lambda: count_working_sessions(database)))
    ran = migrate(proxy.database, files)
    assert proxy.sprung
    assert ran.applied == ["1_a", "2_b", "3_c"]
    assert effects(database) == ["1_a", "2_b", "3_c"]


def test_the_server_ends_its_work_after_a_cut(database: Database, proxy: Proxy, write: WriteMigrations) -> None:
    """The statement would sleep for a minute.

    The server checks its client every five seconds, and the run waits for that.
    """
    files = write(m1_a="create table a (); select pg_sleep(60)")
    proxy.at(b"create table a", Moment.SENT, meanwhile=lambda: until(lambda: count_working_sessions(database)))
    began = time.monotonic()
    with pytest.raises(MigrationFailed, match="1_a failed") as caught:
        migrate(proxy.database, files, statement_timeout=0)
    assert proxy.sprung
    assert 3 < time.monotonic() - began < 9
    assert "1_a was rolled back" in caught.value.detail
    assert (history(database), count_working_sessions(database)) == ([], 0)


@pytest.mark.every_major
@pytest.mark.parametrize("moment", [Moment.BEFORE, Moment.HALF])
def test_a_message_that_arrives_incomplete_is_rolled_back(
    database: Database, proxy: Proxy, write: WriteMigrations, moment: Moment
) -> None:
    files = write(**BATCH)
    proxy.at(b"create table b", moment, meanwhile=lambda: (history(database), effects(database)))
    with pytest.raises(MigrationFailed, match="1_a failed") as caught:
        migrate(proxy.database, files)
    assert proxy.sprung
    assert proxy.witnessed == ([], [])
    assert "1_a was rolled back" in caught.value.detail
    assert (history(database), effects(database)) == ([], [])
    assert migrate(database, files).applied == ["1_a", "2_b"]
    assert (history(database), effects(database)) == (BOTH, ["1_a", "2_b"])


OPENING, LAST_WINDOW, CLOSING = b'INSERT INTO "ratchet"', b"values ('last')", b"WITH finished"
MIDDLE_OF_ROWS = b"-1\t\\N\n"
"""Of LARGE and of COPY. The text that is kept in the history's row has quotes and backslashes doubled, so that of all
messages only the window, or the piece of the rows, has them so."""


@pytest.mark.parametrize(
    ("text", "message", "moment"),
    [
        (LARGE, OPENING, Moment.BEFORE),
        (LARGE, OPENING, Moment.HALF),
        (LARGE, OPENING, Moment.ANSWERED),
        (LARGE, LAST_WINDOW, Moment.BEFORE),
        (LARGE, LAST_WINDOW, Moment.HALF),
        (LARGE, LAST_WINDOW, Moment.ANSWERED),
        (LARGE, CLOSING, Moment.BEFORE),
        (LARGE, CLOSING, Moment.HALF),
        (COPY, MIDDLE_OF_ROWS, Moment.BEFORE),
        (COPY, MIDDLE_OF_ROWS, Moment.HALF),
        (COPY, COPY_DONE, Moment.BEFORE),
        (COPY, COPY_DONE, Moment.ANSWERED),
        (COPY, CLOSING, Moment.BEFORE),
    ],
)
def test_a_file_in_windows_is_rolled_back_completely(
    database: Database, proxy: Proxy, write: WriteMigrations, text: str, message: bytes, moment: Moment
) -> None:
    files = write(m1_a=text)
    proxy.at(message, moment, meanwhile=lambda: history(database))
    with pytest.raises(MigrationFailed, match="1_a failed") as caught:
        migrate(proxy.database, files)
    assert proxy.sprung
    assert proxy.witnessed == []
    assert caught.value.location == Location("1_a"), "what came of a window that was lost is not known"
    assert "1_a was rolled back" in caught.value.detail
    assert database.rows("SELECT to_regclass('big')") == [(None,)]
    assert (history(database), effects(database)) == ([], [])
    assert migrate(database, files).applied == ["1_a"]
    assert effects(database) == ["1_a"]
    assert database.rows("SELECT count(*) FROM big") == [(text.count(ROW) + 1 if text == LARGE else 4001,)]


@pytest.mark.parametrize("text", [LARGE, COPY])
@pytest.mark.parametrize("moment", [Moment.ANSWERED, Moment.HALF_ANSWERED])
def test_the_commit_of_a_file_in_windows_is_found_in_the_history(
    database: Database, proxy: Proxy, write: WriteMigrations, text: str, moment: Moment
) -> None:
    files = write(m1_a=text)
    proxy.at(CLOSING, moment, meanwhile=lambda: history(database))
    assert migrate(proxy.database, files).applied == ["1_a"]
    assert proxy.witnessed == [("1_a", True)]
    assert (history(database), effects(database)) == ([("1_a", True)], ["1_a"])


BUILD, PROCEDURE = b"create index concurrently i on t (x)\0", b"commit; end $$\0"


@pytest.mark.parametrize(
    ("message", "moment"),
    [
        (b"values ('2')\n", Moment.ANSWERED),
        (b"values ('2')\n", Moment.HALF_ANSWERED),
        (b"statement_begun = 3", Moment.BEFORE),
        (b"statement_begun = 3", Moment.ANSWERED),
        (BUILD, Moment.ANSWERED),
        (b"statements_done = 3", Moment.BEFORE),
        (b"statements_done = 3", Moment.ANSWERED),
        (b"statement_begun = 5", Moment.ANSWERED),
        (b"statements_done = 5", Moment.BEFORE),
        (b"statements_done = 5", Moment.ANSWERED),
        (b"create table placed ()\n;", Moment.ANSWERED),
        (b"RETURNING duration_ms", Moment.BEFORE),
        (b"RETURNING duration_ms", Moment.ANSWERED),
    ],
)
def test_a_file_without_a_transaction_resumes_where_its_progress_is_known(
    database: Database, proxy: Proxy, write: WriteMigrations, message: bytes, moment: Moment
) -> None:
    """From the history or the catalog. Settings made by SET are restored in the new session."""
    files = write(m1_a=STEPS)
    proxy.at(message, moment)
    ran = migrate(proxy.database, files)
    assert proxy.sprung
    assert ran.applied == ["1_a"]
    assert effects(database) == ["2", "4", "5"]
    assert progress(database) == [(6, None, True)]
    assert database.rows("SELECT to_regclass('s.i') IS NULL, to_regclass('s.placed') IS NULL") == [(False, False)]
    assert migrate(database, files).applied == []


@pytest.mark.parametrize(
    ("message", "moment", "done"),
    [
        (b"values ('2')\n", Moment.BEFORE, 1),
        (b"values ('2')\n", Moment.HALF, 1),
        (BUILD, Moment.BEFORE, 2),
        (BUILD, Moment.HALF, 2),
    ],
)
def test_the_next_run_resumes_at_the_statement_that_did_not_arrive(
    database: Database, proxy: Proxy, write: WriteMigrations, message: bytes, moment: Moment, done: int
) -> None:
    files = write(m1_a=STEPS)
    proxy.at(message, moment)
    with pytest.raises(StoppedPartWay, match=f"stopped at statement {done + 1} of 6") as caught:
        migrate(proxy.database, files)
    assert proxy.sprung
    assert caught.value.detail.endswith(("took effect and stays.", "took effect and stay."))
    assert [row[0] for row in progress(database)] == [done]
    assert migrate(database, files).applied == ["1_a"]
    assert (effects(database), progress(database)) == (["2", "4", "5"], [(6, None, True)])


@pytest.mark.parametrize("moment", [Moment.BEFORE, Moment.ANSWERED])
def test_a_procedure_with_an_unknown_outcome_needs_a_decision(
    database: Database, proxy: Proxy, write: WriteMigrations, moment: Moment
) -> None:
    """The catalog does not show whether it ran. This run does not claim it, and the next run does not repeat it."""
    files = write(m1_a=STEPS)
    proxy.at(PROCEDURE, moment, meanwhile=lambda: effects(database))
    with pytest.raises(StoppedPartWay, match=r"statement 5 of 6.* whether that took effect is unknown"):
        migrate(proxy.database, files)
    ran = ["2", "4", "5"] if moment is Moment.ANSWERED else ["2", "4"]
    assert proxy.witnessed == ran
    with pytest.raises(StoppedPartWay, match=r"statement 5 of 6.* whether that took effect is unknown"):
        migrate(database, files)
    assert effects(database) == ran


Databases = SimpleQueue[Database]
AT_ONCE = 8
AS_NEW = f"DROP SCHEMA IF EXISTS ratchet, s CASCADE; DROP TABLE IF EXISTS a, b, effects; {TABLES}"


@pytest.fixture(scope="module")
def databases(server: Server) -> Iterator[Databases]:
    """One database per thread, used in turn: creating and dropping a database takes longer than a run."""
    created = [server.create() for _ in range(AT_ONCE)]
    queue: Databases = SimpleQueue()
    for each in created:
        queue.put(each)
    yield queue
    for each in created:
        server.drop(each)


@contextmanager
def taken(databases: Databases) -> Iterator[Database]:
    """One of the databases, emptied."""
    database = databases.get()
    database.run(AS_NEW)
    yield database
    databases.put(database)


def cut_at(number: int, database: Database, files: Files, moment: Moment) -> bool:
    """Cut the connection of a run at its nth message, and compare its report with the database."""
    proxy = Proxy(database.parameters)
    proxy.at(b"", moment, nth=number)
    attempt = Attempt(proxy.database, files, wait=10_000).run()
    proxy.close()
    finished = [name for name, done in history(database) if done]
    assert set(attempt.applied) <= set(finished), f"message {number}: reported, and not there"
    if isinstance(attempt.error, MigrationFailed):
        assert attempt.error.location is not None
        assert attempt.error.location.migration not in finished, f"message {number}: not rolled back"
    return bool(proxy.sprung)


def several_at_once(work: Callable[[int], bool], most: int) -> int:
    """Count the numbers from 1 for which `work` returns True, each in a thread, because they mostly wait."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return sum(pool.map(work, range(1, most + 1)))


@pytest.mark.every_major
@pytest.mark.parametrize("moment", [Moment.BEFORE, Moment.ANSWERED])
def test_the_next_run_converges_after_a_cut_at_any_message(
    databases: Databases, write: WriteMigrations, moment: Moment
) -> None:
    """One run for each message: no traceback, no file applied twice or skipped."""
    files = write(**BATCH)

    def attempt(number: int) -> bool:
        with taken(databases) as database:
            sprung = cut_at(number, database, files, moment)
            migrate(database, files)
            assert (history(database), effects(database)) == (BOTH, ["1_a", "2_b"]), f"message {number}"
            return sprung

    assert 5 <= several_at_once(attempt, 14) < 14


def test_the_next_run_converges_after_a_cut_in_a_file_without_a_transaction(
    databases: Databases, write: WriteMigrations
) -> None:
    """Without a procedure, because its outcome can be unknown. The effect of every other statement is known."""
    files = write(m1_a=STEPS.replace("do $$ begin insert into public.effects values ('5'); commit; end $$", "vacuum t"))

    def attempt(number: int) -> bool:
        with taken(databases) as database:
            sprung = cut_at(number, database, files, Moment.ANSWERED)
            migrate(database, files)
            assert (progress(database), effects(database)) == ([(6, None, True)], ["2", "4"]), f"message {number}"
            assert database.rows("SELECT to_regclass('s.placed') IS NULL") == [(False,)], f"message {number}"
            return sprung

    assert 20 <= several_at_once(attempt, 45) < 45


def test_a_second_cut_while_resolving_is_resolved_too(databases: Databases, write: WriteMigrations) -> None:
    """First after the COMMIT, and then at each message of the reconnection."""
    files = write(**BATCH)

    def attempt(number: int) -> bool:
        with taken(databases) as database:
            proxy = Proxy(database.parameters)
            again = lambda: proxy.at(b"", Moment.ANSWERED, nth=number)  # noqa: E731
            proxy.at(b"create table b", Moment.ANSWERED, meanwhile=again)
            ran = Attempt(proxy.database, files, wait=10_000).run()
            proxy.close()
            assert ran.applied == ["1_a", "2_b"], f"message {number}: {ran.error}"
            assert (history(database), effects(database)) == (BOTH, ["1_a", "2_b"]), f"message {number}"
            return proxy.sprung == 2

    assert 5 <= several_at_once(attempt, 14) < 14
