"""Creates the databases of a test run: templates that are migrated once, and a clone for each test.

A database's name contains the key of a run, and each process of the run holds a shared advisory lock on this key until
the process ends. The exclusive lock is free only when the run is dead, even on a server shared with other machines, so
its holder may drop the run's databases. Databases with other names are never dropped.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from psycopg import sql

from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.database.connection import connect
from pgratchet.database.history import History
from pgratchet.database.roles import create_missing_roles
from pgratchet.errors import ConfigurationError, RatchetError
from pgratchet.events import drain
from pgratchet.migrations import files as migrations
from pgratchet.migrations import plan
from pgratchet.testing.server import file_lock

if TYPE_CHECKING:
    from types import TracebackType

    import psycopg

_NAME = re.compile(r"pgratchet_test_([0-9a-f]{12})_[0-9a-z]+")


@dataclass(frozen=True)
class Database:
    """The database of a test. `parameters` are libpq's."""

    name: str
    parameters: Mapping[str, str]

    @property
    def url(self) -> str:
        """The connection URL, with the password."""
        options = dict(self.parameters)
        password = f":{quote(options.pop('password'), safe='')}" if options.get("password") else ""
        user, name = quote(options.pop("user", ""), safe=""), quote(options.pop("dbname"), safe="")
        return f"postgresql://{user}{password}@/{name}?{urlencode(options, quote_via=quote)}"

    def connect(self) -> psycopg.Connection:
        """Open a session in autocommit mode."""
        return connect(self.parameters)


class concise_errors:  # noqa: N801  a context manager; a generator's frames would show in tracebacks
    """Raises the RatchetErrors of the block without the frames of this package: pytest then shows the test's line."""

    def __enter__(self) -> None: ...

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        if isinstance(error, RatchetError):
            raise error.with_traceback(None) from None


@dataclass(frozen=True)
class PartlyMigrated(Database):
    """A database with only the first of `files` applied."""

    files: tuple[migrations.Migration, ...]

    def migrate(self, to: str | None = None) -> None:
        """Apply the next migration, or all migrations up to a named migration.

        After the last versioned migration the next step is all repeatables.
        """
        __tracebackhide__ = True
        with concise_errors():
            _migrate(self, self.files, self._next() if to is None else to)

    def _next(self) -> str | None:
        with self.connect() as session:
            todo = plan.make_plan(self.files, History().read(session)).todo
        if not todo:
            raise ConfigurationError(
                "there is no migration left to apply", hint="Call pg_migrated_to with an earlier migration."
            )
        return None if todo[0].is_repeatable else todo[0].name


def _migrate(database: Database, files: Sequence[migrations.Migration], to: str | None = None) -> None:
    drain(applier.migrate(database.connect, History(), files, None, MigrateOptions("test", to=to)))


@dataclass(frozen=True)
class DatabaseFactory:
    """Creates databases in a process of a run. `folder` is shared by the run's workers."""

    run: str
    folder: Path
    parameters: Mapping[str, str]
    session: psycopg.Connection

    @contextmanager
    def clone(self, files: Sequence[migrations.Migration]) -> Iterator[Database]:
        """A database with these migrations applied, dropped after the block."""
        name = f"pgratchet_test_{self.run}_c{os.urandom(6).hex()}"
        template = self._template(files)
        try:
            self._create(name, template)
            yield Database(name, {**self.parameters, "dbname": name})
        finally:
            drop(self.session, name)

    def _template(self, files: Sequence[migrations.Migration]) -> str:
        """The name of a database with these migrations applied. The first worker creates it while others wait."""
        key = hashlib.sha256("".join(f"{file.name}{file.checksum}" for file in files).encode()).hexdigest()[:12]
        name = f"pgratchet_test_{self.run}_t{key}"
        done = self.folder / f"pgratchet-{key}.done"
        with file_lock(self.folder / f"pgratchet-{key}.lock"):
            if not done.exists() or not self._exists(name):  # an earlier server of the run may have ended
                drop(self.session, name)  # a worker that was killed may have left it half migrated
                self._create(name, "template0")
                _migrate(Database(name, {**self.parameters, "dbname": name}), files)
                done.touch()
        return name

    def _exists(self, name: str) -> bool:
        return bool(self.session.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone())

    def _create(self, name: str, template: str) -> None:
        strategy = sql.SQL(" STRATEGY FILE_COPY" if self.session.info.server_version >= 150000 else "")
        command = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        self.session.execute(command + strategy)


@contextmanager
def database_factory(
    uid: str, folder: Path, parameters: Mapping[str, str], roles: Sequence[str] = ()
) -> Iterator[DatabaseFactory]:
    """The factory of a process. `uid` identifies the run. The server gets the roles that it lacks.

    The last process of a run drops the run's databases. Every process drops the databases of dead runs.
    """
    run = hashlib.sha256(uid.encode()).hexdigest()[:12]
    with connect(parameters, application_name="pgratchet tests") as session:
        session.execute("SELECT pg_advisory_lock_shared(%s)", (int(run, 16),))
        drop_dead_runs(session)
        create_missing_roles(session, roles)
        try:
            yield DatabaseFactory(run, folder, parameters, session)
        finally:
            session.execute("SELECT pg_advisory_unlock_shared(%s)", (int(run, 16),))
            drop_dead_runs(session)


def drop_dead_runs(session: psycopg.Connection) -> None:
    """Drop the databases of runs without a living process."""
    names = (str(name) for (name,) in session.execute("SELECT datname FROM pg_database"))
    matches = [match for name in names if (match := _NAME.fullmatch(name))]
    for run in {match[1] for match in matches}:
        key = (int(run, 16),)
        if _holds_lock(session, key) or not _try_lock(session, key):
            continue
        for match in matches:
            if match[1] == run:
                drop(session, match[0])
        session.execute("SELECT pg_advisory_unlock(%s)", key)


def _holds_lock(session: psycopg.Connection, key: tuple[int]) -> bool:
    """Return whether this session holds the lock. A session's own shared lock does not prevent its exclusive lock."""
    query = (
        "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        " AND (classid::bigint << 32) | objid::bigint = %s"
    )
    return session.execute(query, key).fetchone() is not None


def _try_lock(session: psycopg.Connection, key: tuple[int]) -> bool:
    return session.execute("SELECT pg_try_advisory_lock(%s)", key).fetchone() == (True,)


def drop(session: psycopg.Connection, name: str) -> None:
    """Drop an existing database and end its sessions."""
    session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
