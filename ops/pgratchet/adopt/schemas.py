"""Compares schemas as pg_dump writes them, in a form that survives a restore.

The text of pg_dump is no fixed point: PostgreSQL prints `CHECK (status IN (...))` on a varchar in one way, and in
another way after that text was restored. So two dumps that differ are both restored into scratch databases and dumped
again, until they are equal or no longer change (tests/integration/adopt/test_baseline.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from difflib import unified_diff
from itertools import count

import psycopg
from psycopg import sql

from pgratchet.backups.kept_databases import derive_name
from pgratchet.backups.manifest import Database
from pgratchet.backups.restore_server import RestoreServer, new_database
from pgratchet.migrations import lexer

_ROUND_TRIPS = 3
"""How often dumps that differ are restored and dumped again. One is enough for all known expressions."""
_SESSION_STATEMENTS = ("SET", "SELECT")
"""Statements of a dump without data that set up the restoring session. SELECT is set_config()."""
_META_COMMAND = re.compile(rb"(?m)^\\(un)?restrict .*$")
_PRIVATE_OPTION = re.compile(rb"(?<=[(])pg_attver='?\d+'?(, )?|, pg_attver='?\d+'?")
"""Debian's PostgreSQL 15 keeps an option of its own in pg_attribute; a pg_dump of an older version dumps it."""
_DUMPED_FROM = re.compile(rb"(?m)^-- Dumped from database version (\d+)")
_DEFINES_COLUMNS = re.compile(r"CREATE (UNLOGGED |FOREIGN )?(TABLE|DOMAIN) ")
_NAMES_NOT_NULL = 18
"""The first major version that stores and dumps the names of NOT NULL constraints."""
_ANY_NAME = re.compile(r' CONSTRAINT (?:"(?:[^"]|"")+"|[^\s"]+)(?= NOT NULL\b)')
_AUTOMATIC_NAME = re.compile(r' CONSTRAINT (?:"(?:[^"]|"")*_not_null\d*"|[^\s"]*_not_null\d*)(?= NOT NULL\b)')
_SETS_OPTIONS = re.compile(rb"\s*ALTER (FOREIGN )?TABLE .* ALTER COLUMN .* SET \(.*\)", re.DOTALL)
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


def split(dump: bytes) -> list[bytes]:
    """The statements of a dump in its order, without settings of the session."""
    text = _META_COMMAND.sub(b"", dump)
    parsed = lexer.split_statements(text, rows=False)
    statements = [text[s.start : s.end] for s in parsed if s.head[0] not in _SESSION_STATEMENTS or _is_default(s.head)]
    public = (_PRIVATE_OPTION.sub(b"", s) if _SETS_OPTIONS.fullmatch(s) else s for s in statements)
    return [statement for statement in public if not statement.endswith(b" SET ()")]


def _is_default(head: Sequence[str]) -> bool:
    """Return whether a SET decides about later statements: where and how tables are stored."""
    return head[0] == "SET" and head[1:2] in (("DEFAULT_TABLESPACE",), ("DEFAULT_TABLE_ACCESS_METHOD",))


def lines(dump: bytes, left_out: Sequence[str] = (), ignored: re.Pattern[str] = _AUTOMATIC_NAME) -> list[str]:
    """The lines of a dump's statements, sorted by statement, without settings and without the schemas `left_out`.

    `ignored` matches names of NOT NULL constraints. An automatic name is that of the table and column at the time: a
    table that was renamed keeps it, and a restore from a server without such names makes a new one.
    """
    ours = {f"CREATE SCHEMA {quoted}" for name in left_out for quoted in (name, f'"{name}"')}
    texts = (text for s in split(dump) if not (text := s.decode()).startswith("SET "))
    statements = sorted(ignored.sub("", text) if _DEFINES_COLUMNS.match(text) else text for text in texts)
    return [line for statement in statements if statement not in ours for line in f"{statement};".splitlines()]


def differences(scratch: Scratch, files: bytes, database: bytes, left_out: Sequence[str]) -> list[str]:
    """The lines of a diff from one dump to another, empty for equal schemas."""
    ignored = _AUTOMATIC_NAME if all(_has_names(dump) for dump in (files, database)) else _ANY_NAME
    for trip in count():
        expected, live = lines(files, left_out, ignored), lines(database, left_out, ignored)
        if expected == live or trip == _ROUND_TRIPS:
            break
        try:
            files, database = scratch.round_trip(files), scratch.round_trip(database)
        except psycopg.Error:
            break  # a dump that cannot be restored is compared as it is
    return list(unified_diff(expected, live, "files", "database", n=2, lineterm=""))


def _has_names(dump: bytes) -> bool:
    """Return whether the server of a dump stores the names of NOT NULL constraints."""
    match = _DUMPED_FROM.search(dump)
    return match is None or int(match[1]) >= _NAMES_NOT_NULL
