"""Scratch databases, to build a schema from files or to restore a dump into."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgratchet.backups.manifest import Database
from pgratchet.backups.restore_server import RestoreServer, new_database
from pgratchet.schema.dump_text import split

_STATEMENTS_PER_MESSAGE = 100
_VERSION = re.compile(rb"ALTER EXTENSION .* UPDATE TO .*", re.DOTALL)
"""The version of an extension, which a server may not have: it is compared, and not restored."""

Dump = Callable[[str], bytes]
"""Dumps the schema of a database on the scratch server, by name."""


@dataclass(frozen=True, slots=True)
class Scratch:
    """A server for scratch databases. `like` has their encoding and locale.

    `search_path` is that of sessions on the live database, where files may create objects without naming a schema.
    """

    server: RestoreServer
    dump: Dump
    like: Database
    search_path: str

    @contextmanager
    def database(self, kind: str) -> Iterator[str]:
        """The name of an empty database, which the end of the block drops."""
        name = f"pgratchet_schema_{kind}_{os.urandom(6).hex()}"
        with closing(self.server.open_session(self.server.maintenance)) as maintenance:
            with new_database(self.server, maintenance, name, self.like, exact=False):
                maintenance.execute("SELECT set_config('search_path', %s, false)", [self.search_path])
                keep = sql.SQL("ALTER DATABASE {} SET search_path FROM CURRENT").format(sql.Identifier(name))
                maintenance.execute(keep)
                yield name
            drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            maintenance.execute(drop)

    def round_trip(self, dump: bytes) -> bytes:
        """Restore a dump and dump it again. Raises psycopg.Error when the dump cannot be restored."""
        with self.database("copy") as name:
            with closing(self.server.open_session(name)) as connection:
                restore(connection, dump)
            return self.dump(name)

    def partial_round_trip(self, dump: bytes) -> tuple[bytes, tuple[Refused, ...]]:
        """Restore as much of a dump as the server accepts, and dump it again; returns what was refused, too."""
        with self.database("copy") as name:
            with closing(self.server.open_session(name)) as connection:
                refused = restore_accepted(connection, dump)
            return self.dump(name), refused


@dataclass(frozen=True, slots=True)
class Refused:
    """A statement of a dump that a server refuses, and the server's message."""

    statement: bytes
    reason: str


def restore(connection: psycopg.Connection, dump: bytes) -> None:
    """Run the statements of a dump without data in a new database."""
    for batch in _batches(connection, dump):
        connection.execute(b";\n".join(batch))


def restore_accepted(connection: psycopg.Connection, dump: bytes) -> tuple[Refused, ...]:
    """Run the statements of a dump that the server accepts; returns the others."""
    refused: list[Refused] = []
    for batch in _batches(connection, dump):
        if _refusal(connection, b";\n".join(batch)):  # the server has rolled the whole message back
            reasons = ((statement, _refusal(connection, statement)) for statement in batch)
            refused += [Refused(statement, reason) for statement, reason in reasons if reason]
    return tuple(refused)


def _refusal(connection: psycopg.Connection, sql: bytes) -> str:
    """Run statements; returns the server's error, or an empty text."""
    try:
        connection.execute(sql)
    except psycopg.Error as error:
        return error.diag.message_primary or str(error)
    return ""


def _batches(connection: psycopg.Connection, dump: bytes) -> Iterator[list[bytes]]:
    connection.execute("SET check_function_bodies = off")
    connection.execute("SELECT pg_catalog.set_config('search_path', '', false)")
    statements = [s if s != b"CREATE SCHEMA public" else b"CREATE SCHEMA IF NOT EXISTS public" for s in split(dump)]
    statements = [statement for statement in statements if not _VERSION.fullmatch(statement)]
    for start in range(0, len(statements), _STATEMENTS_PER_MESSAGE):
        yield statements[start : start + _STATEMENTS_PER_MESSAGE]
