"""A pytest plugin with fixtures for databases with all migrations applied, separate for each test.

pytest loads every installed plugin in every run, so only pytest is imported before a fixture is used.
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
    from pgratchet.testing.databases import Database, DatabaseFactory, PartlyMigrated


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("pgratchet_sql", "the folder of the migrations, from the rootdir", default="sql")
    parser.addini("pgratchet_inventory", "the folder of the inventory, from the rootdir", default="inventory")
    parser.addini("pgratchet_server", "url, docker or embedded; else TEST_DATABASE_URL where set, else embedded")


@pytest.fixture(scope="session")
def _pg_factory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseFactory]:
    from pgratchet.config.inventory import all_roles
    from pgratchet.testing import databases, server

    roles = all_roles(request.config.rootpath / request.config.getini("pgratchet_inventory"))
    base = tmp_path_factory.getbasetemp()
    worker: dict[str, str] | None = getattr(request.config, "workerinput", None)
    uid = worker["testrunuid"] if worker else os.urandom(16).hex()
    shared_folder = base.parent if worker else base
    kind = request.config.getini("pgratchet_server") or ""
    with (
        server.running_server(kind, shared_folder, alone=worker is None) as parameters,
        databases.database_factory(uid, shared_folder, parameters, roles) as factory,
    ):
        yield factory


@pytest.fixture(scope="session")
def _pg_files(request: pytest.FixtureRequest) -> tuple[Migration, ...]:
    from pgratchet.migrations import files

    return files.read(request.config.rootpath / request.config.getini("pgratchet_sql"))


@pytest.fixture
def pg_database(_pg_factory: DatabaseFactory, _pg_files: tuple[Migration, ...]) -> Iterator[Database]:
    """A database of the test's own, with all migrations applied: name, url, parameters, connect()."""
    from pgratchet.testing.databases import concise_errors

    __tracebackhide__ = True
    with concise_errors(), _pg_factory.clone(_pg_files) as database:
        yield database


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
    _pg_factory: DatabaseFactory, _pg_files: tuple[Migration, ...]
) -> Iterator[Callable[[str], PartlyMigrated]]:
    """Makes a database migrated up to a migration, as `--to` names it; its migrate() goes on to the next."""
    from pgratchet.migrations import scripts
    from pgratchet.testing import databases

    with ExitStack() as clones:

        def migrated_to(to: str) -> PartlyMigrated:
            __tracebackhide__ = True
            with databases.concise_errors():
                clone = clones.enter_context(_pg_factory.clone(scripts.files_up_to(_pg_files, to)))
            return databases.PartlyMigrated(clone.name, clone.parameters, _pg_files)

        yield migrated_to
