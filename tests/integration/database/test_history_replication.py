"""Histories that take part in logical replication: whose rows come from another database, or go to one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.database.history import History
from pgratchet.database.replication import read_own_rows
from pgratchet.database.session import Session
from pgratchet.errors import HistoryDisagrees
from pgratchet.events import ServerNotice, drain
from pgratchet.operations.base import Machine
from pgratchet.operations.examine import Examine
from pgratchet.operations.migrate import Migrate, ReadHistory
from tests.integration.checks.helpers import finding_about
from tests.servers.clusters import Cluster, Clusters
from tests.servers.databases import Database
from tests.support.migrations import WriteMigrations, history, migrate
from tests.support.targets import target_of
from tests.support.waiting import until

HERE = Machine(Path())
PUBLISHED = ("FOR ALL TABLES", "FOR TABLE ratchet.migrations", "FOR TABLES IN SCHEMA ratchet")
OTHERS = ("FOR TABLE a", "FOR TABLES IN SCHEMA public")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A server with logical replication."""
    clusters = Clusters(tmp_path_factory.mktemp("logical"))
    yield clusters.make("logical", wal_level="logical")
    clusters.remove()


@dataclass(frozen=True)
class Replicas:
    """Two databases of one server that have the same schema: one that can publish, and one that can subscribe."""

    publisher: Database
    subscriber: Database

    def publish(self, tables: str) -> None:
        self.publisher.run(f"CREATE PUBLICATION p {tables}")

    def subscribe(self) -> None:
        """Create the subscription. Within one server its slot has to be created beforehand."""
        self.publisher.rows("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        source = " ".join(f"{key}={value}" for key, value in self.publisher.parameters.items())
        self.subscriber.run(f"CREATE SUBSCRIPTION s CONNECTION '{source}' PUBLICATION p WITH (create_slot = false)")


@pytest.fixture
def pair(cluster: Cluster, write: WriteMigrations) -> Iterator[Replicas]:
    maintenance = Database({**cluster.database.parameters, "dbname": "postgres"})
    pair = Replicas(
        *(Database({**cluster.database.parameters, "dbname": name}) for name in ("publisher", "subscriber"))
    )
    maintenance.run("CREATE DATABASE publisher")
    migrate(pair.publisher, write(m1_a="create table a (x int primary key)"))
    maintenance.run("CREATE DATABASE subscriber")
    pair.subscriber.run("CREATE TABLE a (x int primary key)")
    with pair.subscriber.connect() as session:
        History().create(session)
    yield pair
    if pair.subscriber.rows("SELECT 1 FROM pg_subscription"):
        pair.subscriber.run("ALTER SUBSCRIPTION s DISABLE")
        pair.subscriber.run("ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s")
        pair.publisher.rows("SELECT pg_drop_replication_slot('s')")
    for name in ("publisher", "subscriber"):
        maintenance.run(f"DROP DATABASE {name} WITH (FORCE)")


def open_session(database: Database) -> None:
    """Open a session as `adopt` does."""
    with closing(Session(database.connect, History(), 0)) as session:
        session.open()


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("tables", PUBLISHED)
def test_a_history_from_another_database_is_refused(
    pair: Replicas, write: WriteMigrations, tables: str, *, enabled: bool
) -> None:
    pair.publish(tables)
    pair.subscribe()
    until(lambda: history(pair.subscriber) == [("1_a", True)])
    migrate(pair.publisher, write(m2_b="alter table a add column y int"))
    until(lambda: len(history(pair.subscriber)) == 2)
    assert pair.subscriber.rows("SELECT * FROM a") == [], "the row of 2_b is there, and its column is not"
    if not enabled:
        pair.subscriber.run("ALTER SUBSCRIPTION s DISABLE")
    before, target = pair.subscriber.fingerprint(), target_of(pair.subscriber, backup_policy="never")
    for attempt in (
        lambda: ReadHistory().run(target, HERE),
        lambda: ReadHistory(check_server=True).run(target, HERE),
        lambda: drain(Migrate("run", ()).run(target, HERE)),
        lambda: migrate(pair.subscriber, write()),
        lambda: open_session(pair.subscriber),
    ):
        with pytest.raises(HistoryDisagrees, match="replicated from another database, by the subscription s") as caught:
            attempt()
        assert "history_schema" in caught.value.hint
    finding = finding_about(Examine().run(target, HERE), "replication")
    assert finding.severity == "problem"
    assert "by the subscription s" in finding.what
    assert pair.subscriber.fingerprint() == before


def test_the_hint_works(pair: Replicas, write: WriteMigrations) -> None:
    pair.publish("FOR ALL TABLES")
    pair.subscribe()
    files, own = write(m2_b="alter table a add column y int"), History("own")
    run = applier.migrate(pair.subscriber.connect, own, files[1:], None, MigrateOptions("run", not_empty=True))
    drain(run)
    with pair.subscriber.connect() as session:
        applied, _ = read_own_rows(session, own)
    assert [row.name for row in applied] == ["2_b"]


@pytest.mark.parametrize("tables", OTHERS)
def test_a_subscription_to_other_tables_is_no_problem(pair: Replicas, write: WriteMigrations, tables: str) -> None:
    pair.publish(tables)
    pair.subscribe()
    target = target_of(pair.subscriber, backup_policy="never")
    assert ReadHistory().run(target, HERE).rows == ()
    assert [each for each in Examine().run(target, HERE) if each.subject == "replication"] == []


@pytest.mark.parametrize("tables", PUBLISHED)
def test_a_published_history_is_a_warning(pair: Replicas, write: WriteMigrations, tables: str) -> None:
    pair.publish(tables)
    before, target = pair.publisher.fingerprint(), target_of(pair.publisher, backup_policy="never")
    status = ReadHistory().run(target, HERE)
    assert [row.name for row in status.rows] == ["1_a"]
    assert "the history, ratchet.migrations, is published by p: " in status.warnings[0]
    finding = finding_about(Examine().run(target, HERE), "replication")
    assert (finding.severity, finding.what) == ("warning", "ratchet.migrations is published by p")
    assert pair.publisher.fingerprint() == before
    ran = migrate(pair.publisher, write(m2_b="create table b (x int primary key)"))
    assert ran.applied == ["2_b"]
    (warning,) = ran.of(ServerNotice)
    assert isinstance(warning, ServerNotice)
    assert warning.severity == "WARNING"
    assert "is published by p" in warning.message


@pytest.mark.parametrize("tables", OTHERS)
def test_a_publication_of_other_tables_is_no_finding(pair: Replicas, tables: str) -> None:
    pair.publish(tables)
    target = target_of(pair.publisher, backup_policy="never")
    assert ReadHistory().run(target, HERE).warnings == ()
    assert [each for each in Examine().run(target, HERE) if each.subject == "replication"] == []


def test_a_role_without_rights_on_subscriptions_finds_them_too(pair: Replicas) -> None:
    pair.publish("FOR ALL TABLES")
    pair.subscribe()
    pair.subscriber.run("CREATE ROLE plain LOGIN; GRANT USAGE ON SCHEMA ratchet TO plain")
    pair.subscriber.run("GRANT SELECT ON ratchet.migrations TO plain")
    try:
        plain = target_of(Database({**pair.subscriber.parameters, "user": "plain"}))
        with pytest.raises(HistoryDisagrees, match="by the subscription s"):
            ReadHistory().run(plain, HERE)
    finally:
        pair.subscriber.run("DROP OWNED BY plain; DROP ROLE plain")
