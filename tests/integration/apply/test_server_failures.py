"""Servers that crash, stay away, are replaced, or are a standby: clusters of the test's own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import psycopg
import pytest

from pgratchet.database import connection
from pgratchet.errors import ConfigurationError, MigrationFailed, OutcomeUnknown
from pgratchet.migrations.files import Migration
from tests.faults.proxy import Moment, Proxy
from tests.servers.clusters import Cluster, Clusters
from tests.servers.databases import Database, Server
from tests.support.migrations import Attempt, WriteMigrations, history, migrate
from tests.support.waiting import until

FILES = {
    "m1_a": "create table a ()",
    "m2_b": "create table b ()",
    "m3_c": "create table c ()",
    "m4_d": "alter table gate add column d int",
}


@pytest.fixture
def lazily_writing_cluster(clusters: Clusters) -> Cluster:
    """A server that writes asynchronous commits only every ten seconds, so that a crash surely loses them."""
    cluster = clusters.make("lazy", wal_writer_delay="10s")
    cluster.database.run("CREATE TABLE gate (); CREATE TABLE loss (x int)")
    return cluster


def stopped_at_the_gate(database: Database, files: Sequence[Migration], wait: int) -> tuple[Attempt, threading.Thread]:
    """A run whose second round trip waits for a lock. The file of the first is reported as applied."""
    attempt = Attempt(database, files, batch_size=2, wait=wait)
    thread = threading.Thread(target=attempt.run)
    thread.start()
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'pgratchet'"
    until(lambda: database.rows(waiting))
    assert attempt.applied == ["1_a", "2_b"]
    return attempt, thread


def crash(cluster: Cluster) -> None:
    """Crash the server and lose an asynchronous commit."""
    with closing(cluster.database.connect()) as session:
        session.execute("SET synchronous_commit = off; INSERT INTO loss VALUES (1)")
        assert session.execute("SELECT count(*) FROM loss").fetchone() == (1,)
        cluster.stop("immediate")


def test_a_crash_during_ddl_is_resolved_once_the_server_is_back(
    lazily_writing_cluster: Cluster, write: WriteMigrations
) -> None:
    files = write(**FILES)
    with closing(lazily_writing_cluster.database.connect()) as holder:
        holder.execute("BEGIN; LOCK TABLE gate IN ACCESS SHARE MODE")
        attempt, thread = stopped_at_the_gate(lazily_writing_cluster.database, files, wait=20_000)
        crash(lazily_writing_cluster)
        time.sleep(0.7)
        lazily_writing_cluster.start()
        thread.join(30)
    assert lazily_writing_cluster.database.rows("SELECT count(*) FROM loss") == [(0,)], (
        "the crash lost what was not on the disk"
    )
    assert isinstance(attempt.error, MigrationFailed)
    assert "1_a and 2_b were applied; 3_c was rolled back." in attempt.error.detail
    assert history(lazily_writing_cluster.database) == [("1_a", True), ("2_b", True)], (
        "what was reported as applied is on the disk"
    )
    assert lazily_writing_cluster.database.rows("SELECT to_regclass('b') IS NULL, to_regclass('c')") == [(False, None)]
    assert migrate(lazily_writing_cluster.database, files).applied == ["3_c", "4_d"]


def test_a_server_that_stays_away_leaves_the_outcome_unknown(
    lazily_writing_cluster: Cluster, write: WriteMigrations
) -> None:
    files = write(**FILES)
    with closing(lazily_writing_cluster.database.connect()) as holder:
        holder.execute("BEGIN; LOCK TABLE gate IN ACCESS SHARE MODE")
        attempt, thread = stopped_at_the_gate(lazily_writing_cluster.database, files, wait=2_000)
        crash(lazily_writing_cluster)
        began = time.monotonic()
        thread.join(30)
    assert time.monotonic() - began < 5, "the wait is 2 s"
    assert isinstance(attempt.error, OutcomeUnknown)
    assert attempt.error.status == 7
    assert "unknown whether 3_c and 4_d took effect" in attempt.error.message
    lazily_writing_cluster.start()
    assert history(lazily_writing_cluster.database) == [("1_a", True), ("2_b", True)]
    assert migrate(lazily_writing_cluster.database, files).applied == ["3_c", "4_d"]


def test_a_crash_on_any_server_is_resolved_once_it_is_back(database: Database, write: WriteMigrations) -> None:
    """The server restarts all sessions and recovers after one of its processes is killed, as after a power failure."""
    database.run("CREATE TABLE gate (); CREATE UNLOGGED TABLE lost AS SELECT 1")
    files = write(**FILES)
    with closing(database.connect()) as holder:
        holder.execute("BEGIN; LOCK TABLE gate IN ACCESS SHARE MODE")
        attempt, thread = stopped_at_the_gate(database, files, wait=20_000)
        with pytest.raises(psycopg.OperationalError):
            database.run(f"COPY (SELECT) TO PROGRAM 'kill -9 {holder.info.backend_pid}; sleep 9'")
        thread.join(30)
    assert database.rows("SELECT count(*) FROM lost") == [(0,)], "a recovery empties what is not logged"
    assert isinstance(attempt.error, MigrationFailed)
    # 3_c was committed without waiting for the disk. It survives if the WAL writer was there before the crash.
    survived = ["1_a", "2_b", "3_c"] if database.rows("SELECT 1 WHERE to_regclass('c') IS NOT NULL") else ["1_a", "2_b"]
    failed = "4_d" if "3_c" in survived else "3_c"
    assert f"{' and '.join(survived)} were applied; {failed} was rolled back." in attempt.error.detail
    assert history(database) == [(name, True) for name in survived]
    assert migrate(database, files).applied == ["3_c", "4_d"][len(survived) - 2 :]


def system(cluster: Cluster) -> object:
    return cluster.database.rows("SELECT system_identifier FROM pg_control_system()")


def through(proxy: Proxy, files: Sequence[Migration]) -> Attempt:
    attempt = Attempt(proxy.database, files, batch_size=1, wait=3_000)
    attempt.run()
    assert proxy.sprung
    return attempt


@pytest.mark.parametrize("moment", [Moment.BEFORE, Moment.ANSWERED])
def test_another_cluster_at_the_same_address_does_not_resolve_the_outcome(
    clusters: Clusters, write: WriteMigrations, moment: Moment
) -> None:
    files = write(**FILES)
    one, other = clusters.make("one"), clusters.make("other")
    for each in (one, other):
        each.database.run("CREATE TABLE gate ()")
    assert system(one) != system(other)
    before = other.database.fingerprint()
    proxy = Proxy(one.database.parameters)
    proxy.at(b"create table b", moment, meanwhile=lambda: proxy.lead_to(other.database.parameters))
    attempt = through(proxy, files)
    assert isinstance(attempt.error, OutcomeUnknown)
    assert "on another cluster than the pinned one" in attempt.error.detail
    assert other.database.fingerprint() == before
    assert attempt.applied == ["1_a"]
    proxy.lead_to(one.database.parameters)
    done = [("1_a", True), *([("2_b", True)] if moment is Moment.ANSWERED else [])]
    assert history(one.database) == done
    assert migrate(proxy.database, files).applied == [
        name for name in ("2_b", "3_c", "4_d") if (name, True) not in done
    ]
    proxy.close()


def rewound(clusters: Clusters) -> tuple[Cluster, Cluster]:
    """A cluster and an older copy of it, both running: the same system identifier, an older history."""
    now = clusters.make("now")
    now.database.run("CREATE TABLE gate ()")
    now.stop()
    past = clusters.copy(now, "past")
    now.start()
    past.start()
    assert system(now) == system(past)
    return now, past


def test_a_cluster_that_lost_reported_migrations_does_not_resolve_the_outcome(
    clusters: Clusters, write: WriteMigrations
) -> None:
    """As after a restored snapshot, or a failover to a lagging standby: 1_a was reported as applied and is missing."""
    files = write(**FILES)
    now, past = rewound(clusters)
    before = past.database.fingerprint()
    proxy = Proxy(now.database.parameters)
    proxy.at(b"create table b", Moment.ANSWERED, meanwhile=lambda: proxy.lead_to(past.database.parameters))
    attempt = through(proxy, files)
    proxy.close()
    assert attempt.applied == ["1_a"]
    assert history(now.database) == [("1_a", True), ("2_b", True)]
    assert past.database.fingerprint() == before
    assert isinstance(attempt.error, OutcomeUnknown)


def test_an_unsuitable_server_at_the_same_address_does_not_resolve_the_outcome(
    database: Database, clusters: Clusters, write: WriteMigrations
) -> None:
    """It accepts the same user, password and database name, and is another cluster."""
    database.run("CREATE TABLE gate ()")
    other = clusters.make("other")
    user, name = database.parameters["user"], database.name
    other.database.run(f"CREATE DATABASE {name}")
    other.database.run(f"DO $$ BEGIN CREATE ROLE {user} SUPERUSER LOGIN; EXCEPTION WHEN duplicate_object THEN END $$")
    imposter = Database({**other.database.parameters, "user": user, "dbname": name})
    before = imposter.fingerprint()
    proxy = Proxy(database.parameters)
    proxy.at(b"create table b", Moment.ANSWERED, meanwhile=lambda: proxy.lead_to(imposter.parameters))
    attempt = through(proxy, write(**FILES))
    assert proxy.database.rows("SELECT to_regclass('gate')") == [(None,)], "the same address leads elsewhere"
    proxy.close()
    assert isinstance(attempt.error, OutcomeUnknown)
    assert attempt.error.status == 7
    assert "on another cluster than the pinned one" in attempt.error.detail
    assert imposter.fingerprint() == before
    assert attempt.applied == ["1_a"]
    assert history(database) == [("1_a", True), ("2_b", True)]


def rename(server: Server, name: str, other: str) -> None:
    """Rename a database that is in use."""
    with connection.connect(server.parameters) as session:
        session.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,))
        session.execute(f"ALTER DATABASE {name} RENAME TO {other}".encode())


def test_a_database_restored_to_an_older_state_does_not_resolve_the_outcome(
    server: Server, database: Database, write: WriteMigrations
) -> None:
    """An older copy on the same cluster gets the name of the database while the connection is cut."""
    database.run("CREATE TABLE gate ()")
    past = server.create(database.name)
    proxy = Proxy(database.parameters)

    def put_back() -> None:
        rename(server, database.name, "now")
        rename(server, past.name, database.name)

    proxy.at(b"create table b", Moment.ANSWERED, meanwhile=put_back)
    attempt = through(proxy, write(**FILES))
    proxy.close()
    assert attempt.applied == ["1_a"]
    assert history(database) == [], "what was reported is not there any more"
    assert isinstance(attempt.error, OutcomeUnknown)
    assert "has lost 1_a" in attempt.error.message
    assert database.rows("SELECT to_regclass('b')") == [(None,)]
    rename(server, "now", past.name)
    assert history(past) == [("1_a", True), ("2_b", True)]
    server.drop(past)


@contextmanager
def standby_in_docker(server: Server) -> Iterator[dict[str, str]]:
    """A streaming standby in the container of the server. Yields its address."""
    import docker

    with closing(docker.from_env()) as engine:
        own = server.direct["host"]
        (container,) = [each for each in engine.containers.list() if own in str(each.attrs["NetworkSettings"])]

        def run(command: str) -> None:
            environ = {"PGPASSWORD": server.parameters["password"]}
            shell = ["timeout", "30", "sh", "-c", f"cd /tmp && {command}"]
            status, output = container.exec_run(shell, user="postgres", environment=environ)
            assert status == 0, output

        user = server.parameters["user"]
        run(f"pg_basebackup -w -h 127.0.0.1 -U {user} -c fast -R -D standby")
        run("pg_ctl start -w -D standby -l standby.log -o '-p 5433 -c listen_addresses=*'")
        try:
            yield {"host": own, "port": "5433"}
        finally:
            run("pg_ctl stop -w -D standby -m immediate && rm -r standby standby.log")


@pytest.fixture
def primary_and_standby(server: Server, database: Database, clusters: Clusters) -> Iterator[tuple[Database, Database]]:
    """A database, and the same database on a standby."""
    if server.direct:
        with standby_in_docker(server) as standby:
            yield database, Database({**database.parameters, **standby})
    elif server.name == "embedded":
        primary = clusters.make("primary")
        yield primary.database, clusters.standby(primary, "standby").database
    else:
        pytest.skip("no standby can be made of a server that was given")


def test_a_standby_is_refused_before_the_lock(
    primary_and_standby: tuple[Database, Database], write: WriteMigrations
) -> None:
    files = write(m1_a="create table a ()")
    primary, standby = primary_and_standby
    assert standby.rows("SELECT pg_is_in_recovery()") == [(True,)]
    before = primary.fingerprint(), standby.fingerprint()
    proxy = Proxy(standby.parameters)
    proxy.at(b"advisory", Moment.BEFORE)
    with pytest.raises(ConfigurationError, match="is on a standby"):
        migrate(proxy.database, files)
    proxy.close()
    assert not proxy.sprung, "the lock was not asked for"
    assert (primary.fingerprint(), standby.fingerprint()) == before
    assert migrate(primary, files).applied == ["1_a"]
