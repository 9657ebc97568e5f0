"""Scratch databases, to build a schema from files or to restore a dump into."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgratchet.backups.kept_databases import derive_name
from pgratchet.backups.manifest import Database
from pgratchet.backups.restore_server import RestoreServer, new_database
from pgratchet.schema.dump_text import split

_STATEMENTS_PER_MESSAGE = 100

Dump = Callable[[str], bytes]
"""Dumps the schema of a database on the scratch server, by name."""


@dataclass(frozen=True, slots=True)
class Scratch:
    """A server for scratch databases. `like` has their encoding and locale; their names begin with `stem`.

    `search_path` is that of sessions on the live database, where files may create objects without naming a schema.
    """

    server: RestoreServer
    dump: Dump
    like: Database
    stem: str
    search_path: str

    @contextmanager
    def database(self, kind: str) -> Iterator[str]:
        """The name of an empty database, which the end of the block drops."""
        name = derive_name(self.stem, kind)
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


def read_search_path(connection: psycopg.Connection) -> str:
    """The search_path of a session, as the settings of its server, database and role make it."""
    row = connection.execute("SELECT current_setting('search_path')").fetchone()
    return str(row[0]) if row else ""


def restore(connection: psycopg.Connection, dump: bytes) -> None:
    """Run the statements of a dump without data in a new database."""
    connection.execute("SET check_function_bodies = off")
    connection.execute("SELECT pg_catalog.set_config('search_path', '', false)")
    statements = [s if s != b"CREATE SCHEMA public" else b"CREATE SCHEMA IF NOT EXISTS public" for s in split(dump)]
    for start in range(0, len(statements), _STATEMENTS_PER_MESSAGE):
        connection.execute(b";\n".join(statements[start : start + _STATEMENTS_PER_MESSAGE]))
