"""The databases of a test run: templates that are migrated once, a clone for each test, and none left behind.

A name carries its run, and each process of a run holds the shared advisory lock of that run on the maintenance
database for as long as it lives. Who gets the lock exclusively knows that the run is dead, on a server that is
shared with other machines too, and may drop its databases; no other name is ever touched.
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
from pgratchet.errors import ConfigurationError
from pgratchet.events import drain
from pgratchet.migrations import files as migrations
from pgratchet.migrations import plan
from pgratchet.testing import server

if TYPE_CHECKING:
    import psycopg

_OURS = re.compile(r"pgratchet_test_([0-9a-f]{12})_[0-9a-z]+")


@dataclass(frozen=True)
class Database:
    """A database of one test. `parameters` are libpq's."""

    name: str
    parameters: Mapping[str, str]

    @property
    def url(self) -> str:
        given = dict(self.parameters)
        secret = f":{quote(given.pop('password'), safe='')}" if given.get("password") else ""
        user, name = quote(given.pop("user", ""), safe=""), quote(given.pop("dbname"), safe="")
        return f"postgresql://{user}{secret}@/{name}?{urlencode(given, quote_via=quote)}"

    def connect(self) -> psycopg.Connection:
        """A session in autocommit."""
        return connect(self.parameters)


@dataclass(frozen=True)
class PartlyMigrated(Database):
    """A database that is migrated up to one migration, and can go on from there."""

    files: tuple[migrations.Migration, ...]

    def migrate(self, to: str | None = None) -> None:
        """Apply the next migration, or all up to the one that is named."""
        if to is None:
            with self.connect() as session:
                left = plan.make_plan(self.files, History().read(session)).todo
            if not left:
                raise ConfigurationError(
                    "there is no migration left to apply", hint="Take pg_migrated_to of an earlier one."
                )
            to = left[0].name
        _migrate(self, self.files, to)


def _migrate(database: Database, files: Sequence[migrations.Migration], to: str | None = None) -> None:
    drain(applier.migrate(database.connect, History(), files, None, MigrateOptions("test", to=to)))


@dataclass(frozen=True)
class TestDatabases:
    """What a process of a run makes databases with. `folder` is shared by the run's workers."""

    run: str
    folder: Path
    parameters: Mapping[str, str]
    session: psycopg.Connection

    def template(self, files: Sequence[migrations.Migration]) -> str:
        """The name of a database migrated by these files; the first who asks makes it, the others wait."""
        key = hashlib.sha256("".join(f"{file.name}{file.checksum}" for file in files).encode()).hexdigest()[:12]
        made = Database(name := f"pgratchet_test_{self.run}_t{key}", {**self.parameters, "dbname": name})
        done = self.folder / f"pgratchet-{key}.done"
        with server.lock(self.folder / f"pgratchet-{key}.lock"):
            if not done.exists() or not self._has(made.name):  # the server of before may have ended
                drop(self.session, made.name)  # what a worker that was killed here has left half migrated
                self._create(made.name, "template0")
                _migrate(made, files)
                done.touch()
        return made.name

    @contextmanager
    def clone(self, files: Sequence[migrations.Migration]) -> Iterator[Database]:
        name = f"pgratchet_test_{self.run}_c{os.urandom(6).hex()}"
        template = self.template(files)
        try:
            self._create(name, template)
            yield Database(name, {**self.parameters, "dbname": name})
        finally:
            drop(self.session, name)

    def _has(self, name: str) -> bool:
        return bool(self.session.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone())

    def _create(self, name: str, template: str) -> None:
        strategy = sql.SQL(" STRATEGY FILE_COPY" if self.session.info.server_version >= 150000 else "")
        command = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        self.session.execute(command + strategy)


@contextmanager
def test_databases(uid: str, folder: Path, parameters: Mapping[str, str]) -> Iterator[TestDatabases]:
    """The bed of one process; the last process of a run takes the run's databases away, and those of dead runs."""
    run = hashlib.sha256(uid.encode()).hexdigest()[:12]
    with connect(parameters, application_name="pgratchet tests") as session:
        session.execute("SELECT pg_advisory_lock_shared(%s)", (int(run, 16),))
        sweep(session)
        try:
            yield TestDatabases(run, folder, parameters, session)
        finally:
            session.execute("SELECT pg_advisory_unlock_shared(%s)", (int(run, 16),))
            sweep(session)


def sweep(session: psycopg.Connection) -> None:
    """Drop the databases of runs of which no process lives."""
    found = [_OURS.fullmatch(str(name)) for (name,) in session.execute("SELECT datname FROM pg_database")]
    own = {match[1] for match in found if match}
    for run in own:
        key = (int(run, 16),)
        held = session.execute(
            "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
            " AND (classid::bigint << 32) | objid::bigint = %s",
            key,
        ).fetchone()
        if held or session.execute("SELECT pg_try_advisory_lock(%s)", key).fetchone() != (True,):
            continue
        for match in found:
            if match and match[1] == run:
                drop(session, match[0])
        session.execute("SELECT pg_advisory_unlock(%s)", key)


def drop(session: psycopg.Connection, name: str) -> None:
    session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
