"""Makes one migration of many, and proves that it builds the same database.

Databases are built from the old files twice, and from the new file once. The schemas have to be equal. So do the rows
of the tables that are kept: rows that differ between two builds, such as times and random numbers, cannot be squashed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

import psycopg

from pgratchet.backups.pg_programs import dump_rows_and_schema, find_programs
from pgratchet.backups.snapshot import read_database
from pgratchet.database import connection as sessions
from pgratchet.database import queries
from pgratchet.database.roles import temporary_roles
from pgratchet.errors import ConfigurationError
from pgratchet.formatting import format_count
from pgratchet.migrations import squashed
from pgratchet.migrations.files import Migration
from pgratchet.migrations.lexer import split_statements
from pgratchet.schema import comparison
from pgratchet.schema.applied import RecordedMigration
from pgratchet.schema.build import build
from pgratchet.schema.dump_text import is_session_statement, without_meta_commands
from pgratchet.schema.privileges import for_any_owner
from pgratchet.schema.schema_file import scratch_at
from pgratchet.schema.scratch import Scratch

_HEAD = b"""\
-- The schema of the files above, as pg_dump wrote it, with the rows that they insert.
SET check_function_bodies = off;
SET search_path = '';

"""
_HISTORY_SCHEMA = '"ratchet"'
_MOST_ROWS = 5
_PRIVILEGES = ("GRANT", "REVOKE")


@dataclass(frozen=True, slots=True)
class Squash:
    """The new migration, and the numbers of rows of the tables that have some, by their quoted names."""

    file: RecordedMigration
    rows: Mapping[str, int]


def count_rows(parameters: Mapping[str, str], files: Sequence[Migration], roles: Sequence[str]) -> dict[str, int]:
    """The numbers of rows that the files leave in each table, by its quoted name; tables without rows are left out."""
    with _workshop(parameters, roles) as workshop, workshop.built(files, "count") as name:
        return workshop.rows(name)


def squash(
    parameters: Mapping[str, str],
    files: Sequence[Migration],
    name: str,
    without_rows: Sequence[str],
    roles: Sequence[str],
) -> Squash:
    """Make the migration `name` of the files, without the rows of some tables, and prove that it is equal.

    `parameters` are libpq's for a scratch server. Raises ConfigurationError when it is not equal.
    """
    with _workshop(parameters, roles) as workshop:
        with workshop.built(files, "first") as first:
            rows = workshop.rows(first)
            file = _migration(name, files, workshop.dump(first, without_rows), workshop.user)
            schema = workshop.scratch.dump(first)
        tables = [table for table in rows if table not in without_rows]
        with workshop.built([file], "squashed") as new:
            lines = comparison.differences(workshop.scratch, schema, workshop.scratch.dump(new), ("ratchet",))
            if lines:
                raise _differs("the schemas are different", "\n".join(lines[:40]))
            with workshop.built(files, "second") as second:
                workshop.require_equal_rows(new, second, tables)
    return Squash(file, {table: rows[table] for table in tables})


def _migration(name: str, files: Sequence[Migration], dump: bytes, user: str) -> RecordedMigration:
    text = squashed.header(files) + _HEAD + _body(dump, user)
    version = files[-1].version
    checksum = hashlib.sha256(text).hexdigest()
    return RecordedMigration(name, version, checksum, f"{name}.sql", text, replaces=squashed.parse_header(text))


def _body(dump: bytes, user: str) -> bytes:
    """The statements of a dump, with the rows of COPY, without settings of the session."""
    text = without_meta_commands(dump)
    parts = []
    for statement in split_statements(text):
        sql = text[statement.start : statement.end]
        is_setting = is_session_statement(statement) and b"pg_catalog.setval(" not in sql
        if is_setting or sql == b"CREATE SCHEMA public":
            continue
        if statement.head[0] in _PRIVILEGES or statement.head[:2] == ("ALTER", "DEFAULT"):
            sql = for_any_owner(sql, user)
        if statement.rows:
            rows = text[slice(*statement.rows)]
            parts += [b"%b;\n%b\\.\n" % (sql, rows)] if rows else []
        elif sql:
            parts.append(b"%b;\n" % sql)
    return b"\n".join(parts)


@dataclass(frozen=True, slots=True)
class _Workshop:
    """A scratch server to build databases on, as `user`."""

    scratch: Scratch
    user: str
    server_version: int

    @contextmanager
    def built(self, files: Sequence[Migration], kind: str) -> Iterator[str]:
        """The name of a database that has run the files, for the block."""
        with self.scratch.database(kind) as name:
            build(self.scratch, name, files, "squash")
            yield name

    def dump(self, name: str, without_rows: Sequence[str]) -> bytes:
        programs = find_programs(self.server_version)
        with self.scratch.server.client_environment() as environ:
            return dump_rows_and_schema(programs, environ, name, _HISTORY_SCHEMA, without_rows)

    def rows(self, name: str) -> dict[str, int]:
        with self._session(name) as session:
            tables = [table for (table,) in _query(session, "tables")]
            counts = {table: _count(session, table) for table in tables}
        return {table: count for table, count in counts.items() if count}

    def require_equal_rows(self, one: str, other: str, tables: Sequence[str]) -> None:
        """Raise ConfigurationError for tables and sequences that have other contents in two databases."""
        with self._session(one) as first, self._session(other) as second:
            mistakes = [text for table in tables if (text := _row_difference(first, second, table))]
            positions, expected = ({name: at for name, at in _query(s, "sequences")} for s in (first, second))  # noqa: C416
        mistakes += [
            f"{name}: at {positions.get(name)}, and at {position} from the files"
            for name, position in expected.items()
            if positions.get(name) != position
        ]
        if mistakes:
            raise _differs("the files do not make the same rows each time", "\n".join(mistakes))

    @contextmanager
    def _session(self, name: str) -> Iterator[psycopg.Connection]:
        with closing(self.scratch.server.open_session(name)) as session:
            yield session


@contextmanager
def _workshop(parameters: Mapping[str, str], roles: Sequence[str]) -> Iterator[_Workshop]:
    with sessions.translate_errors(), closing(sessions.connect(parameters)) as connection:
        like, _ = read_database(connection, parameters["dbname"])
        version = connection.info.server_version
        with temporary_roles(connection, roles):
            yield _Workshop(scratch_at(version, parameters, like), connection.info.user, version)


def _query(session: psycopg.Connection, name: str) -> list[tuple[str, ...]]:
    return session.execute(queries.load(__file__, "squash")[name].encode()).fetchall()


def _count(session: psycopg.Connection, table: str) -> int:
    ((count,),) = session.execute(f"SELECT count(*) FROM ONLY {table}".encode()).fetchall()  # noqa: S608  quoted
    return int(count)


def _row_difference(first: psycopg.Connection, second: psycopg.Connection, table: str) -> str:
    """A sentence with the first rows that only one of two databases has; empty for equal contents."""
    one = f"(SELECT md5(t::text) AS row FROM ONLY {table} AS t) AS rows"  # noqa: S608  a quoted name
    hashed = f"SELECT md5(string_agg(row, '' ORDER BY row)) FROM {one}"  # noqa: S608
    if first.execute(hashed.encode()).fetchone() == second.execute(hashed.encode()).fetchone():
        return ""
    select = f"SELECT t::text FROM ONLY {table} AS t ORDER BY 1 LIMIT 100000".encode()  # noqa: S608  a quoted name
    ours, theirs = ([row for (row,) in session.execute(select).fetchall()] for session in (first, second))
    differing = [row for row in theirs if row not in set(ours)]
    shown = ", ".join(row if len(row) < 100 else f"{row[:100]}..." for row in differing[:_MOST_ROWS])
    return f"{table}: {format_count(len(differing), 'row')} differ: {shown}"


def _differs(reason: str, detail: str) -> ConfigurationError:
    return ConfigurationError(
        f"the files cannot be squashed: {reason}",
        detail=detail,
        hint="Leave out the rows of a table with --rows=TABLE,TABLE, which names those to keep, or squash up to an "
        "earlier file. Nothing was written.",
    )
