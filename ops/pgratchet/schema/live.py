"""Reads what a scratch server needs of a live database, to build the like of its schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import psycopg

from pgratchet.backups.manifest import Database
from pgratchet.database import queries


@dataclass(frozen=True, slots=True)
class LiveSchema:
    """The live database, as far as the scratch server needs to know it.

    `dump` is pg_dump's schema, without the tables of histories. `left_out` are schemas that hold only histories.
    `extensions` are versions by name. `unreadable` are quoted names of tables that the role `user` may not read, and
    which the dump therefore lacks.
    """

    dump: bytes
    database: Database
    name: str
    roles: tuple[str, ...]
    extensions: Mapping[str, str]
    left_out: tuple[str, ...]
    search_path: str
    user: str = ""
    unreadable: tuple[str, ...] = field(default=())


def read_live(
    connection: psycopg.Connection,
    database: Database,
    dump: Callable[[], bytes],
    left_out: Sequence[str],
    unreadable: Sequence[str] = (),
) -> LiveSchema:
    """Read the roles, extensions and settings of the live database beside its dump."""
    return LiveSchema(
        dump(),
        database,
        connection.info.dbname,
        tuple(name for (name,) in _rows(connection, "roles")),
        read_extensions(connection),
        tuple(left_out),
        read_search_path(connection),
        connection.info.user,
        tuple(unreadable),
    )


def read_extensions(connection: psycopg.Connection) -> dict[str, str]:
    """The versions of the database's extensions, by name. pg_dump leaves the versions out."""
    return dict(connection.execute(queries.load(__file__, "live")["extensions"].encode()).fetchall())


def append_versions(dump: bytes, extensions: Mapping[str, str]) -> bytes:
    """Add the versions of extensions to a dump, in the form of pg_dump's other objects.

    plpgsql is left out: every database has it, in the version of the server.
    """
    quoted = (
        (name, name.replace('"', '""'), version.replace("'", "''"))
        for name, version in extensions.items()
        if name != "plpgsql"
    )
    return dump + b"".join(
        f"\n--\n-- Name: {name}; Type: EXTENSION VERSION; Schema: -; Owner: -\n--\n\n"
        f"ALTER EXTENSION \"{quoted_name}\" UPDATE TO '{version}';\n".encode()
        for name, quoted_name, version in quoted
    )


def read_unreadable(connection: psycopg.Connection) -> tuple[str, ...]:
    """The quoted names of the tables that this role may not read."""
    return tuple(name for (name,) in _rows(connection, "unreadable"))


def read_search_path(connection: psycopg.Connection) -> str:
    """The search_path of a session, as the settings of its server, database and role make it."""
    row = connection.execute("SELECT current_setting('search_path')").fetchone()
    return str(row[0]) if row else ""


def _rows(connection: psycopg.Connection, query: str) -> list[tuple[str, ...]]:
    return connection.execute(queries.load(__file__, "live")[query].encode()).fetchall()
