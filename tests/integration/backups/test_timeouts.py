"""Timeouts of the server, a role or a database: they end no session of a backup, a restore or a run."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from pgratchet import events
from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.backups.disk_store import DiskStore
from pgratchet.backups.pg_programs import Programs, find_programs
from pgratchet.database.history import History
from pgratchet.database.timeouts import clear_timeouts, without_timeouts
from tests.integration.backups.helpers import RestorableDatabase, backup_source_of
from tests.servers.clusters import Clusters
from tests.servers.databases import Database
from tests.servers.pgbouncer import StartPooler
from tests.support.migrations import WriteMigrations
from tests.support.targets import target_of

TIMEOUTS = (
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
)


def slow_programs(programs: Programs, folder: Path) -> Programs:
    """The real programs, each half a second later, and pg_restore with a session that is idle for as long."""
    folder.mkdir()
    for name in ("pg_dump", "pg_restore", "pg_dumpall"):
        (folder / name).write_text(f'#!/bin/sh\nsleep 0.5\nexec {programs.path(name)} "$@"\n')
        (folder / name).chmod(0o755)
    return replace(programs, folder=folder)


@pytest.fixture(params=TIMEOUTS)
def impatient(request: pytest.FixtureRequest, clusters: Clusters) -> Database:
    """A database on a server with a timeout of 200 ms, and with rows that take longer to count."""
    database = clusters.make("impatient", **{request.param: "200ms"}).database
    assert database.rows(f"SHOW {request.param}") == [("200ms",)]
    return database


def test_a_timeout_ends_a_session_that_is_not_ours(impatient: Database, request: pytest.FixtureRequest) -> None:
    timeout = request.node.callspec.params["impatient"]
    if timeout == "lock_timeout":
        pytest.skip("it ends statements that wait for a lock")
    with closing(impatient.connect()) as session:
        session.execute("SELECT 1" if timeout == "idle_session_timeout" else "BEGIN")
        time.sleep(0.4)
        with pytest.raises(psycopg.Error):
            session.execute("SELECT pg_sleep(0.4)")


def test_a_slow_backup_and_a_slow_restore_succeed(
    impatient: Database, disk_store: DiskStore, tmp_path: Path, write: WriteMigrations
) -> None:
    files = write(m1_a="create table t as select 1 as x")
    list(applier.migrate(impatient.connect, History(), files, None, MigrateOptions("run")))
    found = find_programs(backup_source_of(impatient).server_version)
    restorable = RestorableDatabase(impatient, disk_store, slow_programs(found, tmp_path / "slow"))
    archive = restorable.back_up()
    impatient.run("DROP TABLE t")
    *_, swapped = restorable.restore(archive)
    assert isinstance(swapped, events.Swapped)
    assert impatient.rows("SELECT x FROM t") == [(1,)]


def test_a_run_that_waits_for_its_user_goes_on(impatient: Database, write: WriteMigrations) -> None:
    files = write(m1_a="create table a ()", m2_b="-- migrate: no-transaction\nselect pg_sleep(0.3)")
    with applier.prepare(impatient.connect, History(), files, None, MigrateOptions("run")) as run:
        time.sleep(0.5)  # as if the user thought about it
        assert list(run.apply())[-1] == events.Finished(total=2, pending=0)


def test_programs_of_libpq_have_no_timeouts(impatient: Database, request: pytest.FixtureRequest) -> None:
    timeout = request.node.callspec.params["impatient"]
    with closing(impatient.connect()) as session:
        environ = without_timeouts({"PGOPTIONS": "-c role=postgres"}, clear_timeouts(session))
        assert session.execute(f"SHOW {timeout}".encode()).fetchone() == ("0",)
        assert environ == {"PGOPTIONS": f"-c role=postgres -c {timeout}=0"}
    options = Database({**impatient.parameters, "options": environ["PGOPTIONS"]})
    assert options.rows(f"SHOW {timeout}") == [("0",)]


def test_nothing_is_set_where_there_is_no_timeout(database: Database) -> None:
    with closing(database.connect()) as session:
        assert without_timeouts({"A": "b"}, session) == {"A": "b"}


@pytest.mark.every_major
def test_timeouts_of_role_and_database_are_cleared_on_every_major(database: Database) -> None:
    known = [name for (name,) in database.rows("SELECT name FROM pg_settings WHERE name = ANY (%s)", list(TIMEOUTS))]
    for name in known:
        database.run(f"ALTER DATABASE {database.name} SET {name} = '1min'")
    with closing(database.connect()) as session:
        clear_timeouts(session)
        assert {session.execute(f"SHOW {name}".encode()).fetchone() for name in known} == {("0",)}


def test_timeouts_of_a_session_that_belongs_to_a_pooler_stay(database: Database, pool: StartPooler) -> None:
    database.run(f"ALTER DATABASE {database.name} SET lock_timeout = '1min'")
    pooled, _ = pool(1)
    with closing(pooled.connect()) as session:
        clear_timeouts(session)
    assert pooled.rows("SHOW lock_timeout") == [("1min",)]


def test_options_of_the_settings_reach_the_programs(database: Database) -> None:
    plain = target_of(database)
    options = "-c lock_timeout=7s"
    target = replace(
        plain,
        connection={**plain.connection, "options": options},
        service_file=f"{plain.service_file}\noptions={options}\n",
    )
    with target.client_environment() as environ:
        assert environ["PGOPTIONS"] == options
        assert "options=" not in Path(environ["PGSERVICEFILE"]).read_text()
