"""Opens scratch servers, and builds databases from migration files there.

The scratch server is the bundled one or that of another environment, never the live one: a migration may create or
change roles, which all databases of a server share.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import psycopg
from psycopg import sql

from pgratchet import events
from pgratchet.apply import applier, run
from pgratchet.backups.pg_programs import dump_schema, find_programs
from pgratchet.backups.restore_server import RestoreServer, bundled_server
from pgratchet.database.history import History
from pgratchet.database.target import Target
from pgratchet.migrations.files import Migration
from pgratchet.schema.live import LiveSchema
from pgratchet.schema.scratch import Scratch

_CREATED_ROLE = re.compile(rb"(?i)\bCREATE\s+(?:ROLE|USER|GROUP)\s+(?:\"([^\"]+)\"|(\w+))")
_HISTORY = History()
_ROLE = sql.SQL("CREATE ROLE {}")


def build(scratch: Scratch, name: str, files: Sequence[Migration], run_id: str) -> None:
    """Apply files to an empty scratch database, without a backup and without a limit for statements."""
    options = run.MigrateOptions(run_id, statement_timeout=0)
    server = scratch.server
    events.drain(applier.migrate(lambda: server.connect(name), server.history, files, None, options))


def missing_extensions(connection: psycopg.Connection, names: Sequence[str]) -> list[str]:
    """Return the extensions that the server of the connection does not have."""
    rows = connection.execute("SELECT name FROM pg_available_extensions").fetchall()
    return sorted(set(names) - {name for (name,) in rows})


def created_roles(files: Sequence[Migration]) -> set[bytes]:
    """Return the names of the roles that files create, as far as their text says them."""
    return {match[1] or match[2].lower() for file in files for match in _CREATED_ROLE.finditer(file.text())}


def create_roles(connection: psycopg.Connection, names: Sequence[str], files: Sequence[Migration]) -> None:
    """Create the live server's roles, which the files may grant to, except those that the files create."""
    created = created_roles(files)
    present = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
    for name in names:
        if name not in present and name.encode() not in created:
            connection.execute(_ROLE.format(sql.Identifier(name)))


@contextmanager
def scratch_server(
    live: LiveSchema, excluded_tables: Sequence[str], target: Target | None, *, privileges: bool = False
) -> Iterator[Scratch]:
    """The target's server, or a bundled server of its own, which ends with the block.

    With `privileges`, dumps have them, and a bundled server has the live database's role as its superuser: what that
    role owns or is granted is then the same there.
    """
    tables = live.dump.count(b"\nCREATE TABLE ")
    bundled = bundled_server(_HISTORY, tables, live.user if privileges else "")
    with _target_server(target) if target else bundled as server:
        with closing(server.open_session(server.maintenance)) as connection:
            programs = find_programs(connection.info.server_version, tls=connection.pgconn.ssl_in_use)

        def dump(name: str) -> bytes:
            with server.client_environment() as environ:
                return dump_schema(
                    programs, environ, name, _HISTORY.quoted_name, *excluded_tables, privileges=privileges
                )

        yield Scratch(server, dump, live.database, live.search_path)


@contextmanager
def _target_server(target: Target) -> Iterator[RestoreServer]:
    maintenance = target.variables.pg_maintenance_dbname
    yield RestoreServer(target.connect_to, target.client_environment, maintenance, _HISTORY)
