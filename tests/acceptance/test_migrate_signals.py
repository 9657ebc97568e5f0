"""Signals to `invoke migrate`: the statement ends, the lock is released, and the next run continues."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pgratchet.database.history import History
from tests.servers.databases import Database
from tests.support.invoke import COMMAND, InvokeOnDatabase, ProcessResult, environment
from tests.support.migrations import history
from tests.support.waiting import until

INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
STATUS = {INT: 130, TERM: 143, HUP: 129}
WORD = {INT: "interrupted", TERM: "terminated", HUP: "hung up"}
SIGNALS = pytest.mark.parametrize(
    ("number", "times"), [(number, times) for number in (INT, TERM, HUP) for times in (1, 2)]
)
SEED = ("001_initial_schema", True)
BUILD = "-- migrate: no-transaction\ncreate table built ();\ncreate index concurrently i on t (x);\n"


@pytest.fixture
def watched_database(database: Database) -> Database:
    """The database with a table. Its own sessions have a name by which they are not counted as a run's."""
    database.run("CREATE TABLE t (x int)")
    return Database({**database.parameters, "application_name": "watching"})


def sessions(watched: Database, which: str = "true") -> int:
    """The number of sessions of runs."""
    ((number,),) = watched.rows(
        "SELECT count(*) FROM pg_stat_activity"
        f" WHERE application_name = 'pgratchet' AND datname = current_database() AND {which}"
    )
    return int(str(number))


class RunningMigrate:
    """A run in a process of its own, below `sh` if the test needs a shell."""

    def __init__(self, clone: Path, database: Database, *, shell: str = "") -> None:
        command = [*COMMAND, "migrate", "--json", "--not-empty"]
        self.process = subprocess.Popen(
            ["sh", "-c", shell, "sh", *command] if shell else command,
            cwd=clone,
            env=environment({"DATABASE_URL": database.url}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def send(self, number: signal.Signals, times: int) -> None:
        """Send the signal, and the second one 0.2 s later if the process still runs."""
        self.process.send_signal(number)
        for _ in range(times - 1):
            time.sleep(0.2)
            if self.process.poll() is None:
                self.process.send_signal(number)

    def ended(self) -> ProcessResult:
        stdout, stderr = self.process.communicate(timeout=20)
        return ProcessResult(self.process.returncode, stdout, stderr)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


StartMigrate = Callable[..., RunningMigrate]


@pytest.fixture
def start_migrate(checkout: Path, database: Database) -> Iterator[StartMigrate]:
    started: list[RunningMigrate] = []

    def run(**options: str) -> RunningMigrate:
        started.append(RunningMigrate(checkout, database, **options))
        return started[-1]

    yield run
    for each in started:
        each.kill()


def stopped(running: RunningMigrate, watched: Database, number: signal.Signals, times: int) -> ProcessResult:
    """Check the end of a signalled run: no traceback, the right status, and no session after two seconds."""
    running.send(number, times)
    sent = time.monotonic()
    done = running.ended()
    until(lambda: not sessions(watched), seconds=sent + 2 - time.monotonic())
    assert watched.rows("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid <> ALL (%s)", HELD) == [(0,)]
    assert done.status == STATUS[number], done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-3].endswith(WORD[number])
    assert done.json["error"]["code"] == STATUS[number]
    return done


HELD: list[int] = []
"""The pids of sessions that hold the migration lock for a test, and not for a run."""


@SIGNALS
def test_a_signal_during_a_statement_cancels_it(
    start_migrate: StartMigrate,
    watched_database: Database,
    checkout: Path,
    invoke_on_database: InvokeOnDatabase,
    number: signal.Signals,
    times: int,
) -> None:
    slow = checkout / "sql" / "002_slow.sql"
    slow.write_text("create table slow (); select pg_sleep(20);")
    running = start_migrate(shell='exec "$@" <&-')
    until(lambda: sessions(watched_database, "wait_event = 'PgSleep'"), 30)
    done = stopped(running, watched_database, number, times)
    assert done.json["applied"] == ["001_initial_schema"]
    assert "001_initial_schema was applied and stays." in done.stderr
    assert history(watched_database) == [SEED]
    assert watched_database.rows("SELECT to_regclass('slow')") == [(None,)]
    slow.write_text("create table slow ();")
    assert invoke_on_database("migrate", "--json", "--not-empty").json["applied"] == ["002_slow"]


@SIGNALS
def test_a_signal_ends_the_wait_for_the_lock(
    start_migrate: StartMigrate,
    watched_database: Database,
    invoke_on_database: InvokeOnDatabase,
    number: signal.Signals,
    times: int,
) -> None:
    with watched_database.connect() as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", (History().lock_key,))
        HELD[:] = [holder.info.backend_pid]
        before = watched_database.fingerprint()
        running = start_migrate()
        until(lambda: sessions(watched_database, "query LIKE '%advisory%'"), 30)
        done = stopped(running, watched_database, number, times)
        assert done.json["applied"] == []
        assert watched_database.fingerprint() == before
    HELD.clear()
    assert invoke_on_database("migrate", "--json", "--not-empty").json["applied"] == ["001_initial_schema"]


@SIGNALS
def test_a_signal_during_an_index_build_is_repaired_by_the_next_run(
    start_migrate: StartMigrate,
    watched_database: Database,
    checkout: Path,
    invoke_on_database: InvokeOnDatabase,
    number: signal.Signals,
    times: int,
) -> None:
    """The build leaves an INVALID index and a recorded start. The next run drops the index and builds it again."""
    (checkout / "sql" / "002_build.sql").write_text(BUILD)
    with closing(watched_database.connect()) as holder:
        holder.execute("BEGIN; LOCK TABLE t IN ROW EXCLUSIVE MODE")
        running = start_migrate()
        until(
            lambda: sessions(watched_database, "query LIKE 'create index concurrently%' AND wait_event_type = 'Lock'"),
            30,
        )
        done = stopped(running, watched_database, number, times)
    assert done.json["applied"] == ["001_initial_schema"]
    assert history(watched_database) == [SEED, ("002_build", False)]
    progress = "SELECT statements_done, statement_begun FROM ratchet.migrations WHERE name = '002_build'"
    assert watched_database.rows(progress) == [(1, 2)]
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('i')"
    assert watched_database.rows(valid) == [(False,)]
    assert invoke_on_database("migrate", "--json", "--not-empty").json["applied"] == ["002_build"]
    assert watched_database.rows(valid) == [(True,)]
    assert history(watched_database) == [SEED, ("002_build", True)]


def test_a_run_under_nohup_survives_its_terminal(
    start_migrate: StartMigrate, watched_database: Database, checkout: Path
) -> None:
    (checkout / "sql" / "002_slow.sql").write_text("select pg_sleep(1);")
    running = start_migrate(shell='trap "" HUP; exec "$@"')
    until(lambda: sessions(watched_database, "wait_event = 'PgSleep'"), 30)
    running.send(HUP, 1)
    done = running.ended()
    assert (done.status, done.json["applied"]) == (0, ["001_initial_schema", "002_slow"]), done.stderr


def test_closing_the_terminal_ends_the_run(watched_database: Database, database: Database, checkout: Path) -> None:
    """SIGHUP arrives, and writing fails from then on."""
    (checkout / "sql" / "002_slow.sql").write_text("select pg_sleep(20);")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(checkout)
        env = environment({"DATABASE_URL": database.url, "TERM": "xterm"})
        os.execve(COMMAND[0], [*COMMAND, "migrate", "--not-empty"], env)
    until(lambda: sessions(watched_database, "wait_event = 'PgSleep'"), 30)
    os.close(terminal)
    until(lambda: not sessions(watched_database), 2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == STATUS[HUP]
    assert history(watched_database) == [SEED]
    assert watched_database.locks() == []
