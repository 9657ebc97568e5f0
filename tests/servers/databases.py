"""Databases for one test each, and the servers that they are created on."""

from __future__ import annotations

import time
import uuid
import weakref
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from pgratchet.database import connection
from pgratchet.testing import databases

_sessions: list[weakref.ref[psycopg.Connection]] = []
"""The connections that this process has opened."""


@dataclass(frozen=True)
class Database:
    """A database for one test, by its libpq parameters."""

    parameters: dict[str, str]

    @property
    def name(self) -> str:
        return self.parameters["dbname"]

    @property
    def url(self) -> str:
        return databases.Database(self.name, self.parameters).url

    def connect(self) -> psycopg.Connection:
        session = connection.connect(self.parameters)
        _sessions.append(weakref.ref(session))
        return session

    def rows(self, query: str, *values: object) -> list[tuple[object, ...]]:
        with self.connect() as session:
            return session.execute(query.encode(), values or None).fetchall()

    def run(self, query: str) -> None:
        with self.connect() as session:
            session.execute(query.encode())

    def fingerprint(self) -> list[tuple[object, ...]]:
        """Catalog rows that every change of the schema alters. Equal fingerprints show that nothing changed."""
        return self.locks() + self.rows(
            "SELECT 'class', oid::text, relname, xmin::text FROM pg_class WHERE oid >= 16384"
            " UNION ALL SELECT 'schema', oid::text, nspname, xmin::text FROM pg_namespace"
            " UNION ALL SELECT 'function', oid::text, proname, xmin::text FROM pg_proc WHERE oid >= 16384"
            " UNION ALL SELECT 'database', oid::text, datname, '' FROM pg_database"
            " ORDER BY 1, 2, 3"
        )

    def locks(self) -> list[tuple[object, ...]]:
        """The pid and the key of each advisory lock.

        The server ends a closed session with a delay, so a lock of a session that is closed here has three seconds to
        disappear.
        """
        deadline = time.monotonic() + 3
        while True:
            locks = self.rows(
                "SELECT pid, objid::text FROM pg_locks WHERE locktype = 'advisory'"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1, 2"
            )
            open_pids = {session.info.backend_pid for each in _sessions if (session := each()) and not session.closed}
            if open_pids.issuperset(pid for pid, _ in locks) or time.monotonic() > deadline:
                return locks
            time.sleep(0.02)


@dataclass
class Server:
    """A server that tests create databases on. `parameters` lead to its maintenance database.

    `direct` is the address of the server itself, if `parameters` lead to a program in between.
    """

    name: str
    parameters: dict[str, str]
    created: list[str] = field(default_factory=list)
    direct: dict[str, str] = field(default_factory=dict)

    def create(self, template: str = "template0") -> Database:
        name = f"test_{uuid.uuid4().hex[:12]}"
        with connection.connect(self.parameters) as session:
            command = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            session.execute(command.format(sql.Identifier(name), sql.Identifier(template)))
        self.created.append(name)
        return Database({**self.parameters, "dbname": name})

    def drop(self, database: Database) -> None:
        with connection.connect(self.parameters) as session:
            session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database.name)))
        self.created.remove(database.name)
