"""Reads the schema of a target's database, and dumps the schemas of databases on its server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgratchet.database.target import Target
from pgratchet.errors import BackupFailed, ConfigurationError
from pgratchet.operations.base import Machine
from pgratchet.schema.live import LiveSchema, append_versions, read_extensions, read_live, read_unreadable

if TYPE_CHECKING:
    from psycopg import Connection

    from pgratchet.database.history import History
    from pgratchet.database.session import Session


@dataclass(frozen=True, slots=True)
class ReadSchema:
    """Read the schema of the database with its privileges. Tables that the role may not read are left out and named."""

    def run(self, target: Target, machine: Machine) -> LiveSchema:
        from pgratchet.backups.snapshot import read_database

        with target.connected() as connection:
            unreadable = read_unreadable(connection)
            dump = _dumper(target, connection, target.history, unreadable, privileges=True)
            name, left_out = target.connection["dbname"], [target.history.schema]
            database, _ = read_database(connection, name)
            versions = read_extensions(connection)
            with _explaining_failure():
                text = append_versions(dump(name), versions)
            return read_live(connection, database, lambda: text, left_out, unreadable)


@contextmanager
def _explaining_failure() -> Iterator[None]:
    """Raise an error about the schema, and not about a backup, when pg_dump fails."""
    try:
        yield
    except BackupFailed as error:
        raise ConfigurationError(
            "the schema of the database cannot be read",
            detail=error.detail,
            hint="If another session holds a lock on a table, wait until that ends. Otherwise correct what pg_dump "
            "names. Then run again. Nothing was changed.",
        ) from error


def schema_dumper(
    target: Target, session: Session, without: Sequence[str] = (), *, privileges: bool = False
) -> Callable[[str], bytes]:
    """A function that dumps the schema of a database of the server, by name, without the history table.

    `without` are quoted names of further tables to leave out.
    """
    return _dumper(target, session.connection, session.history, without, privileges=privileges)


def _dumper(
    target: Target, connection: Connection, history: History, without: Sequence[str], *, privileges: bool
) -> Callable[[str], bytes]:
    from pgratchet.backups.pg_programs import dump_schema, find_programs

    programs = find_programs(connection.info.server_version, tls=connection.pgconn.ssl_in_use)
    wait = target.variables.lock_timeout

    def dump(database: str) -> bytes:
        with target.client_environment() as environ:
            return dump_schema(
                programs, environ, database, history.quoted_name, *without, privileges=privileges, lock_timeout=wait
            )

    return dump
