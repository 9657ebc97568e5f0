"""What a database holds: rows per table, extensions, roles, history; and what a dump leaves out of the database itself.

Owns the questions; their answers are values of the manifest. Refuses to know backups. All is read under one snapshot,
which pg_dump can be given, so that the counts are those of the dump though others write meanwhile (measured, facts 2g).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from pgratchet.backups.manifest import Contents, Database, Grant, Setting
from pgratchet.database import queries
from pgratchet.database.history import History
from pgratchet.errors import BackupFailed

_TOGETHER = 50
"""Tables that are counted in one question: few round trips, and a cancel that is heard soon."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A database as it is at one moment. `id` is what pg_dump takes; `sizes` are the tables' bytes, as last counted."""

    connection: psycopg.Connection
    id: str
    sizes: Mapping[str, int]

    def contents(self, history: History) -> Contents:
        """Count and list everything; as long as that takes for a read of every table."""
        return Contents(
            tables=dict(self._counted(list(self.sizes))),
            large_objects=int(_rows(self.connection, "large_objects")[0][0]),
            extensions=dict(_rows(self.connection, "extensions")),
            invalid_indexes=tuple(name for (name,) in _rows(self.connection, "invalid_indexes")),
            roles=tuple(name for (name,) in _rows(self.connection, "roles")),
            history=self._history(history),
        )

    def database(self) -> tuple[Database, int]:
        """What the database is, and its size in bytes."""
        (row,) = _rows(self.connection, "database")
        *about, has_grants, size = row  # in the order of the fields
        settings = tuple(Setting(*row) for row in _rows(self.connection, "settings"))
        grants = tuple(Grant(*row) for row in _rows(self.connection, "grants")) if has_grants else None
        return Database(*(*about, settings, grants)), int(size)

    def stop(self) -> None:
        """End a question that is under way, from another thread."""
        self.connection.cancel_safe(timeout=5)

    def _counted(self, tables: Sequence[str]) -> Iterator[tuple[str, int]]:
        for at in range(0, len(tables), _TOGETHER):
            some = tables[at : at + _TOGETHER]
            counts = [f"(SELECT pg_catalog.count(*) FROM ONLY {name})" for name in some]  # noqa: S608  quoted by format
            try:
                row = self.connection.execute(f"SELECT {', '.join(counts)}".encode()).fetchone()
            except psycopg.errors.LockNotAvailable as error:
                raise TableLocked(
                    "a table to be backed up is locked",
                    detail=f"It is one of {', '.join(some[:5])}{' ...' if some[5:] else ''}.",
                    hint="See in pg_stat_activity who has locked it, and run again.",
                ) from error
            yield from zip(some, row or (), strict=True)

    def _history(self, history: History) -> dict[str, str]:
        there = self.connection.execute(history.asking(self.connection)).fetchone()
        found = history.read(self.connection) if there else []
        return {record.name: record.checksum for record in found if record.executed_at}


class TableLocked(BackupFailed):
    """Someone held a table longer than it was waited for."""


@contextmanager
def snapshot(connect: Callable[[], psycopg.Connection], lock_wait: str = "30s") -> Iterator[Snapshot]:
    """A session of its own that holds one snapshot for the length of the block."""
    with closing(connect()) as connection:
        *setting, export = queries.load(__file__, "snapshot")["begin"].split(";\n")
        connection.execute(";".join(setting).encode())
        connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(lock_wait)))
        row = connection.execute(export.encode()).fetchone()
        sizes = {str(name): int(size) for name, size in _rows(connection, "tables")}
        yield Snapshot(connection, str(row[0]) if row else "", sizes)


def reapply(database: Database, name: str, roles: Sequence[str]) -> list[sql.Composed]:
    """The statements that give the database `name` the owner, privileges, settings and comment of another.

    What names a role that is not among `roles` is left out.
    """
    on = sql.Identifier(name)
    made = [sql.SQL("ALTER DATABASE {} OWNER TO {}").format(on, sql.Identifier(database.owner))]
    if database.connection_limit != -1:
        limit = sql.Literal(database.connection_limit)
        made.append(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(on, limit))
    if database.comment is not None:
        made.append(sql.SQL("COMMENT ON DATABASE {} IS {}").format(on, sql.Literal(database.comment)))
    made += [_setting(on, each) for each in database.settings if each.role is None or each.role in roles]
    if database.grants is not None:
        made += [
            sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(on),
            sql.SQL("REVOKE ALL ON DATABASE {} FROM {}").format(on, sql.Identifier(database.owner)),
            *(_grant(on, each) for each in database.grants if each.grantee is None or each.grantee in roles),
        ]
    return made


_LISTS = ("search_path", "session_preload_libraries", "local_preload_libraries", "temp_tablespaces")
"""Settings whose value is stored as a list of quoted names (GUC_LIST_QUOTE), which is no one string."""
_LISTED = re.compile(r'"((?:[^"]|"")*)"|([^,\s]+)')
_PRIVILEGES = ("CREATE", "CONNECT", "TEMPORARY")


def _setting(on: sql.Identifier, setting: Setting) -> sql.Composed:
    name = sql.SQL(".").join(map(sql.Identifier, setting.name.split(".")))
    values = [setting.value]
    if setting.name in _LISTS:
        values = [quoted.replace('""', '"') or bare for quoted, bare in _LISTED.findall(setting.value)] or [""]
    value = sql.SQL(", ").join(map(sql.Literal, values))
    if setting.role is None:
        return sql.SQL("ALTER DATABASE {} SET {} TO {}").format(on, name, value)
    role = sql.Identifier(setting.role)
    return sql.SQL("ALTER ROLE {} IN DATABASE {} SET {} TO {}").format(role, on, name, value)


def _grant(on: sql.Identifier, grant: Grant) -> sql.Composed:
    to = sql.SQL("PUBLIC") if grant.grantee is None else sql.Identifier(grant.grantee)
    option = sql.SQL(" WITH GRANT OPTION") if grant.grantable else sql.SQL("")
    return sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(_privilege(grant.privilege), on, to, option)


def _privilege(name: str) -> sql.SQL:
    """One of the words of the grammar, and nothing else that a manifest might say."""
    return sql.SQL(_PRIVILEGES[_PRIVILEGES.index(name)])


def _rows(connection: psycopg.Connection, query: str) -> list[tuple[Any, ...]]:
    return connection.execute(queries.load(__file__, "snapshot")[query].encode()).fetchall()
