"""Fixtures: servers and databases.

A server is started once per session. A template database on it is migrated once with the schema of sql/. Each test gets
a clone or an empty database, which is dropped afterwards.

The servers are: one in Docker if an engine answers, otherwise the server of TEST_DATABASE_URL; and always the bundled
one, which starts in a second.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgratchet import embedded
from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.database import connection
from pgratchet.database.history import History
from pgratchet.migrations import files as migrations
from tests import ROOT
from tests.requirements import docker_answers, require, skip_without
from tests.servers import majors
from tests.servers.clusters import Clusters
from tests.servers.databases import Database, Server
from tests.servers.pgbouncer import PgBouncer, StartPooler, running_pgbouncer

# The fixtures that start containers end them; the reaper's image cannot be fetched everywhere.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")


@contextmanager
def _embedded_server(folder: Path) -> Iterator[Server]:
    server = embedded.locate(folder, "tests", make=True)
    try:
        embedded.start(server, "postgres")
        yield Server("embedded", {**server.parameters(), "dbname": "postgres"})
    finally:
        embedded.remove(server)


@contextmanager
def _outside_server() -> Iterator[Server]:
    """A server in Docker if an engine answers, otherwise the server of TEST_DATABASE_URL."""
    if docker_answers():
        from testcontainers.community.postgres import PostgresContainer

        with PostgresContainer(
            "postgres:15", username="owner", password="it's: a p@ss", dbname="postgres"
        ) as container:
            own = container.get_docker_client().bridge_ip(container.get_wrapped_container().id)
            yield Server(
                "docker",
                {
                    "host": container.get_container_host_ip(),
                    "port": str(container.get_exposed_port(5432)),
                    "user": "owner",
                    "password": "it's: a p@ss",
                    "dbname": "postgres",
                },
                direct={"host": own, "port": "5432"},
            )
    elif url := os.environ.get("TEST_DATABASE_URL"):
        yield Server("given", {"host": "localhost", "port": "5432", "dbname": "postgres", **connection.parse_url(url)})
    else:
        skip_without("a PostgreSQL server", "start a Docker engine or set TEST_DATABASE_URL")


@pytest.fixture(scope="session", params=["outside", "embedded", *majors.VERSIONS])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Each server in turn. Other majors are for tests marked every_major only."""
    with _server(request.param, tmp_path_factory) as running:
        yield running
        assert not running.created, "tests left databases behind"


@contextmanager
def _server(name: str, folders: pytest.TempPathFactory) -> Iterator[Server]:
    if name in majors.VERSIONS:
        with majors.server(name) as parameters:
            yield Server(name, parameters)
        return
    with _outside_server() if name == "outside" else _embedded_server(folders.mktemp("server")) as running:
        yield running


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep other majors for tests marked every_major, which depend on the server. Two majors suffice for the rest."""
    items[:] = [item for item in items if item.get_closest_marker("every_major") or not _is_other_major(item)]
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))


@pytest.hookimpl
def pytest_collection_finish(session: pytest.Session) -> None:
    """Fail instead of starting every server in every worker, should pytest-xdist not group the tests."""
    grouping = getattr(session.config.option, "loadgroup", False)  # in a worker of pytest-xdist
    if grouping and not all("@" in item.nodeid for item in session.items):
        raise pytest.UsageError("pytest-xdist does not group tests with this pytest: install constraints-dev.txt")


def _group(item: pytest.Item) -> str:
    """The tests that one worker runs together: a module on one server, or all tests with the slowly starting hosts."""
    if "hosts" in getattr(item, "fixturenames", ()):
        return "hosts"
    call = getattr(item, "callspec", None)
    return f"{item.path.relative_to(ROOT)} {call.params.get('server', '') if call else ''}"


def _is_other_major(item: pytest.Item) -> bool:
    call = getattr(item, "callspec", None)
    return call is not None and call.params.get("server") in majors.VERSIONS


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    """An empty database."""
    database = server.create()
    yield database
    server.drop(database)


@pytest.fixture(scope="session")
def template(server: Server) -> Iterator[Database]:
    """A database with the schema of sql/, migrated once."""
    template = server.create()
    files = migrations.read(ROOT / "sql")
    list(applier.migrate(template.connect, History(), files, None, MigrateOptions("template")))
    yield template
    server.drop(template)


@pytest.fixture
def migrated(server: Server, template: Database) -> Iterator[Database]:
    """A clone of the template, which takes 0.05 s."""
    clone = server.create(template.name)
    yield clone
    server.drop(clone)


def pytest_report_header() -> str:
    outside = "Docker" if docker_answers() else "TEST_DATABASE_URL" if os.environ.get("TEST_DATABASE_URL") else "none"
    return f"servers: the embedded PostgreSQL; outside: {outside}"


@pytest.fixture
def clusters(tmp_path: Path) -> Iterator[Clusters]:
    clusters = Clusters(tmp_path)
    yield clusters
    clusters.remove()


@pytest.fixture
def pool(database: Database) -> Iterator[StartPooler]:
    """Start a PgBouncer with so many server connections in front of the database."""
    require("pgbouncer")
    open_ones = []

    def make(size: int = 5, mode: str = "transaction") -> tuple[Database, PgBouncer]:
        open_ones.append(running_pgbouncer(database.parameters, size, mode))
        return open_ones[-1].__enter__()

    yield make
    for each in open_ones:
        each.__exit__(None, None, None)
