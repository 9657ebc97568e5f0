"""Tries whether the adopted files alone build the schema of the live database, on a scratch server.

The scratch server is the bundled one or that of the environment for drills, never the live one: a migration may create
or change roles, which all databases of a server share.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Literal

import psycopg
from psycopg import sql

from pgratchet import events
from pgratchet.adopt import schemas
from pgratchet.adopt.conversion import require_runnable
from pgratchet.adopt.schemas import Scratch
from pgratchet.apply import applier, run
from pgratchet.backups.manifest import Database
from pgratchet.backups.pg_programs import dump_schema, find_programs
from pgratchet.backups.restore_server import RestoreServer, bundled_server
from pgratchet.database import queries
from pgratchet.database.history import History
from pgratchet.database.target import Target
from pgratchet.errors import RatchetError
from pgratchet.migrations.files import Migration

Outcome = Literal["same", "differs", "fails", "refused", "not tried"]
_CREATED_ROLE = re.compile(rb"(?i)\bCREATE\s+(?:ROLE|USER|GROUP)\s+(?:\"([^\"]+)\"|(\w+))")
_HISTORY = History()
_HISTORY_TABLE = f'"{_HISTORY.schema}"."{_HISTORY.table}"'
_OTHER_SERVER = "In the inventory set drill_environment to an environment whose server has it, and run again."
_ROLE = sql.SQL("CREATE ROLE {}")


@dataclass(frozen=True, slots=True)
class Rebuild:
    """The result of building a database from files. `detail` are lines: mistakes, an error, a diff or a reason."""

    outcome: Outcome
    detail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LiveSchema:
    """The live database, as far as the scratch server needs to know it.

    `dump` is pg_dump's schema, without the tables of histories. `left_out` are schemas that hold only histories.
    """

    dump: bytes
    database: Database
    name: str
    roles: tuple[str, ...]
    extensions: tuple[str, ...]
    left_out: tuple[str, ...]
    search_path: str


def try_rebuild(
    live: LiveSchema, files: Sequence[Migration], excluded_tables: Sequence[str], target: Target | None = None
) -> Rebuild:
    """Build a database from the files and compare its schema with the live one.

    `target` has the scratch server; None uses a bundled server, which ends afterwards.
    """
    if mistakes := require_runnable(files):
        return Rebuild("refused", tuple(mistakes.splitlines()))
    try:
        with _scratch_server(live, excluded_tables, target) as scratch:
            return _rebuild(scratch, live, files, create_roles=target is None)
    except (RatchetError, psycopg.Error) as error:
        return not_tried(error)


def not_tried(error: RatchetError | psycopg.Error) -> Rebuild:
    """The result where the live schema cannot be dumped, or no scratch server can be used."""
    reason = f"{error.message}. {error.detail}" if isinstance(error, RatchetError) else f"{error}"
    return Rebuild("not tried", tuple(reason.strip().splitlines()))


def _rebuild(scratch: Scratch, live: LiveSchema, files: Sequence[Migration], *, create_roles: bool) -> Rebuild:
    server = scratch.server
    with closing(server.open_session(server.maintenance)) as connection:
        if missing := _missing_extensions(connection, live.extensions):
            reason = f"The scratch server lacks the extension {', '.join(missing)}."
            return Rebuild("not tried", (reason, _OTHER_SERVER))
        if create_roles:
            _create_roles(connection, live.roles, files)
    with scratch.database("files") as built:
        options = run.MigrateOptions("rebuild", statement_timeout=0)
        try:
            events.drain(applier.migrate(lambda: server.connect(built), server.history, files, None, options))
        except RatchetError as error:
            return Rebuild("fails", (f"{error.message}.", *error.detail.splitlines()))
        dump = scratch.dump(built)
    lines = schemas.differences(scratch, dump, live.dump, (*live.left_out, server.history.schema))
    return Rebuild("differs" if lines else "same", tuple(lines))


def _missing_extensions(connection: psycopg.Connection, names: Sequence[str]) -> list[str]:
    rows = connection.execute("SELECT name FROM pg_available_extensions").fetchall()
    return sorted(set(names) - {name for (name,) in rows})


def _create_roles(connection: psycopg.Connection, names: Sequence[str], files: Sequence[Migration]) -> None:
    """Create the live server's roles, which the files may grant to, except those that the files create."""
    created = {match[1] or match[2].lower() for file in files for match in _CREATED_ROLE.finditer(file.text())}
    present = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
    for name in names:
        if name not in present and name.encode() not in created:
            connection.execute(_ROLE.format(sql.Identifier(name)))


@contextmanager
def _scratch_server(live: LiveSchema, excluded_tables: Sequence[str], target: Target | None) -> Iterator[Scratch]:
    """The target's server, or a bundled server of its own, which ends with the block."""
    with _target_server(target) if target else bundled_server(_HISTORY) as server:
        with closing(server.open_session(server.maintenance)) as connection:
            programs = find_programs(connection.info.server_version, tls=connection.pgconn.ssl_in_use)

        def dump(name: str) -> bytes:
            with server.client_environment() as environ:
                return dump_schema(programs, environ, name, _HISTORY_TABLE, *excluded_tables)

        yield Scratch(server, dump, live.database, live.name, live.search_path)


@contextmanager
def _target_server(target: Target) -> Iterator[RestoreServer]:
    maintenance = target.variables.pg_maintenance_dbname
    yield RestoreServer(target.connect_to, target.client_environment, maintenance, _HISTORY)


def read_live(
    connection: psycopg.Connection,
    database: Database,
    dump: Callable[[], bytes],
    left_out: Sequence[str],
) -> LiveSchema:
    """Read what the trial needs of the live database."""
    text = queries.load(__file__, "rebuild")
    roles, extensions = (
        tuple(name for (name,) in connection.execute(text[query].encode()).fetchall())
        for query in ("roles", "extensions")
    )
    search_path = schemas.read_search_path(connection)
    return LiveSchema(dump(), database, connection.info.dbname, roles, extensions, tuple(left_out), search_path)
