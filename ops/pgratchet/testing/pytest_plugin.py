"""Fixtures for the tests of whoever uses pgratchet: each test has a migrated database of its own.

A pytest plugin, which is loaded in every run where the package is installed: so nothing but pytest is imported
before a fixture is asked for. The databases are the testbed's, the server is the testserver's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import psycopg

    from pgratchet.migrations.files import Migration
    from pgratchet.testing.databases import Database, PartlyMigrated, TestDatabases


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("pgratchet_sql", "the folder of the migrations, from the rootdir", default="sql")
    parser.addini("pgratchet_server", "url, docker or embedded; else TEST_DATABASE_URL where set, else embedded")


@pytest.fixture(scope="session")
def _pg_bed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestDatabases]:
    from pgratchet.testing import databases, server

    own = tmp_path_factory.getbasetemp()
    worker: dict[str, str] | None = getattr(request.config, "workerinput", None)
    uid = worker["testrunuid"] if worker else os.urandom(16).hex()
    folder = own.parent if worker else own
    kind = request.config.getini("pgratchet_server") or ""
    with (
        server.server(kind, folder, alone=worker is None) as parameters,
        databases.test_databases(uid, folder, parameters) as made,
    ):
        yield made


@pytest.fixture(scope="session")
def _pg_files(request: pytest.FixtureRequest) -> tuple[Migration, ...]:
    from pgratchet.migrations import files

    return files.read(request.config.rootpath / request.config.getini("pgratchet_sql"))


@pytest.fixture
def pg_database(_pg_bed: TestDatabases, _pg_files: tuple[Migration, ...]) -> Iterator[Database]:
    """A database of the test's own, with all migrations applied: name, url, parameters, connect()."""
    with _pg_bed.clone(_pg_files) as made:
        yield made


@pytest.fixture
def pg_url(pg_database: Database) -> str:
    """The URL of `pg_database`."""
    return pg_database.url


@pytest.fixture
def pg_connection(pg_database: Database) -> Iterator[psycopg.Connection]:
    """A session, in autocommit, on `pg_database`."""
    with pg_database.connect() as session:
        yield session


@pytest.fixture
def pg_migrated_to(
    _pg_bed: TestDatabases, _pg_files: tuple[Migration, ...]
) -> Iterator[Callable[[str], PartlyMigrated]]:
    """Makes a database migrated up to a migration, by name or version; its migrate() goes on to the next."""
    from pgratchet.migrations import plan
    from pgratchet.testing import databases

    with ExitStack() as made:

        def migrated_to(to: str) -> PartlyMigrated:
            database = made.enter_context(_pg_bed.clone(plan.make_plan(_pg_files, (), to).todo))
            return databases.PartlyMigrated(database.name, database.parameters, _pg_files)

        yield migrated_to
