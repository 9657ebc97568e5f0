"""Servers and databases for the tests that need them.

A server is started once a session; a template database on it is migrated once with the seed's schema; each
test gets a clone or an empty database of its own, which is dropped when the test ends. Which servers there
are: a Docker one through testcontainers where an engine answers, else the one of TEST_DATABASE_URL; and, since
it costs a second, always the embedded one, so that two majors are tested wherever Docker is.
"""

from __future__ import annotations

import gc
import os
import shutil
import time
import uuid
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from pgratchet import embedded
from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.database import connection
from pgratchet.database.history import History
from pgratchet.events import Event, MigrationApplied
from pgratchet.migrations import files as migrations
from pgratchet.testing import databases
from tests import ROOT
from tests.hosts import SSHD, Hosts, Loopback, loopback, running
from tests.servers import majors

NO_DOCKER = "no Docker engine answers, and TEST_DATABASE_URL is not set"

# Our containers are ended by the fixtures that start them; the reaper's image cannot be had everywhere.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")


@dataclass(frozen=True)
class Database:
    """A database of one test, by libpq parameters."""

    parameters: dict[str, str]

    @property
    def name(self) -> str:
        return self.parameters["dbname"]

    @property
    def url(self) -> str:
        return databases.Database(self.name, self.parameters).url

    def connect(self) -> psycopg.Connection:
        made = connection.connect(self.parameters)
        _sessions.append(weakref.ref(made))
        return made

    def rows(self, query: str, *values: object) -> list[tuple[object, ...]]:
        with self.connect() as session:
            return session.execute(query.encode(), values or None).fetchall()

    def run(self, query: str) -> None:
        with self.connect() as session:
            session.execute(query.encode())

    def fingerprint(self) -> list[tuple[object, ...]]:
        """What of the catalog any change to the schema changes: for showing that nothing did."""
        return self.locks() + self.rows(
            "SELECT 'class', oid::text, relname, xmin::text FROM pg_class WHERE oid >= 16384"
            " UNION ALL SELECT 'schema', oid::text, nspname, xmin::text FROM pg_namespace"
            " UNION ALL SELECT 'function', oid::text, proname, xmin::text FROM pg_proc WHERE oid >= 16384"
            " UNION ALL SELECT 'database', oid::text, datname, '' FROM pg_database"
            " ORDER BY 1, 2, 3"
        )

    def locks(self) -> list[tuple[object, ...]]:
        """The pid and the key of each advisory lock. The server takes a moment to end a session that was closed: a lock
        of one that is not open here is given three seconds to go."""
        deadline = time.monotonic() + 3
        while True:
            found = self.rows(
                "SELECT pid, objid::text FROM pg_locks WHERE locktype = 'advisory'"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1, 2"
            )
            held = {made.info.backend_pid for each in _sessions if (made := each()) and not made.closed}
            if held.issuperset(pid for pid, _ in found) or time.monotonic() > deadline:
                return found
            time.sleep(0.02)


_sessions: list[weakref.ref[psycopg.Connection]] = []
"""Those that were opened from this process."""


@dataclass
class Server:
    """A server that tests may make databases on; `parameters` lead to its maintenance database.

    `direct` is where it listens itself, where those lead to a program in between.
    """

    name: str
    parameters: dict[str, str]
    made: list[str] = field(default_factory=list)
    direct: dict[str, str] = field(default_factory=dict)

    def create(self, template: str = "template0") -> Database:
        name = f"test_{uuid.uuid4().hex[:12]}"
        with connection.connect(self.parameters) as session:
            command = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            session.execute(command.format(sql.Identifier(name), sql.Identifier(template)))
        self.made.append(name)
        return Database({**self.parameters, "dbname": name})

    def drop(self, database: Database) -> None:
        with connection.connect(self.parameters) as session:
            session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database.name)))
        self.made.remove(database.name)


@contextmanager
def _embedded_server(folder: Path) -> Iterator[Server]:
    server = embedded.server(folder, "tests", make=True)
    try:
        embedded.start(server, "postgres")
        yield Server("embedded", {**server.parameters(), "dbname": "postgres"})
    finally:
        embedded.remove(server)


@contextmanager
def _outside_server() -> Iterator[Server]:
    """A server in Docker where an engine answers, else that of TEST_DATABASE_URL."""
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
    elif given := os.environ.get("TEST_DATABASE_URL"):
        yield Server(
            "given", {"host": "localhost", "port": "5432", "dbname": "postgres", **connection.parse_url(given)}
        )
    else:
        pytest.skip(NO_DOCKER)


@cache
def docker_answers() -> bool:
    import docker
    from docker.errors import DockerException

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves the socket open on which none answered
        try:
            with closing(docker.from_env(timeout=5)) as client:
                return bool(client.ping())
        except (DockerException, OSError):
            return False
        finally:
            gc.collect()


@pytest.fixture(scope="session", params=["outside", "embedded", *majors.VERSIONS])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Each server in turn; the other majors only for the modules that are marked every_major."""
    with _server(request.param, tmp_path_factory) as running:
        yield running
        assert not running.made, "tests left databases behind"


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
    """Every major runs what is about the server itself; the rest is about us, and two majors tell as much."""
    items[:] = [item for item in items if item.get_closest_marker("every_major") or not _is_other_major(item)]
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))


def _group(item: pytest.Item) -> str:
    """What one worker runs in one go: a module on one server, and all that needs the hosts, since they start slowly."""
    if "hosts" in getattr(item, "fixturenames", ()):
        return "hosts"
    call = getattr(item, "callspec", None)
    return f"{item.path.stem} {call.params.get('server', '') if call else ''}"


def _is_other_major(item: pytest.Item) -> bool:
    call = getattr(item, "callspec", None)
    return call is not None and call.params.get("server") in majors.VERSIONS


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    """An empty database."""
    made = server.create()
    yield made
    server.drop(made)


@pytest.fixture(scope="session")
def template(server: Server) -> Iterator[Database]:
    """The seed's schema, migrated once."""
    made = server.create()
    files = migrations.read(ROOT / "sql")
    list(applier.migrate(made.connect, History(), files, None, MigrateOptions("template")))
    yield made
    server.drop(made)


@pytest.fixture
def migrated(server: Server, template: Database) -> Iterator[Database]:
    """A clone of the template: the seed's set-up (create, migrate, hand out, clean up), 0.05 s each."""
    made = server.create(template.name)
    yield made
    server.drop(made)


@pytest.fixture
def sql_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "sql"
    folder.mkdir()
    return folder


Write = Callable[..., tuple[migrations.Migration, ...]]


@pytest.fixture
def write(sql_folder: Path) -> Write:
    """Write migrations by name, and read the folder."""

    def write_files(**files: str) -> tuple[migrations.Migration, ...]:
        for name, text in files.items():
            (sql_folder / f"{name.removeprefix('m')}.sql").write_text(text, encoding="utf-8")
        return migrations.read(sql_folder)

    return write_files


@dataclass
class Ran:
    """What a run came to."""

    events: list[Event]

    @property
    def applied(self) -> list[str]:
        return [e.name for e in self.events if isinstance(e, MigrationApplied)]

    def of(self, kind: type[Event]) -> list[Event]:
        return [e for e in self.events if isinstance(e, kind)]


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """A bastion and two database hosts, in containers."""
    if not docker_answers():
        pytest.skip("no Docker engine answers")
    with running(tmp_path_factory.mktemp("hosts")) as started:
        yield started


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Loopback]:
    """An sshd on this machine."""
    if SSHD is None:
        pytest.skip("there is no sshd: install openssh-server")
    folder = tmp_path / "line"
    folder.mkdir()
    with loopback(folder) as started:
        yield started


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Path]:
    """A checkout as a user has it, apart from the one under test; its embedded servers are removed with it."""
    folder = tmp_path / "clone"
    for part in ("ops", "inventory", "templates", "sql"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tasks.py", folder)
    yield folder
    for environment in ("dev", "test"):
        embedded.remove(embedded.server(folder, environment))


_skipped_for_docker: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and NO_DOCKER in str(report.longrepr):
        _skipped_for_docker.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a Docker test is not skipped where an engine answers: that would hide a broken set-up."""
    if os.environ.get("CI") == "true" and _skipped_for_docker and docker_answers():
        print(f"\nskipped for want of Docker, which answers: {_skipped_for_docker}")  # noqa: T201
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_report_header() -> str:
    outside = "Docker" if docker_answers() else "TEST_DATABASE_URL" if os.environ.get("TEST_DATABASE_URL") else "none"
    return f"servers: the embedded PostgreSQL; outside: {outside}"
