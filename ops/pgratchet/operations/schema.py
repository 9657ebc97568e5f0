"""Dumps the schema of databases on a target's server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgratchet.database.session import Session
    from pgratchet.database.target import Target


def schema_dumper(
    target: Target, session: Session, without: Sequence[str] = (), *, privileges: bool = False
) -> Callable[[str], bytes]:
    """A function that dumps the schema of a database of the server, by name, without the history table.

    `without` are quoted names of further tables to leave out.
    """
    from pgratchet.backups.pg_programs import dump_schema, find_programs

    programs = find_programs(session.server.version, tls=session.connection.pgconn.ssl_in_use)
    history = ".".join('"' + name.replace('"', '""') + '"' for name in (session.history.schema, session.history.table))

    def dump(database: str) -> bytes:
        with target.client_environment() as environ:
            return dump_schema(programs, environ, database, history, *without, privileges=privileges)

    return dump
