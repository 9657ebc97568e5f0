"""Reads the contents of a database in a snapshot: rows per table, extensions, roles, the migration history.

The snapshot is exported for `pg_dump --snapshot`, so the counts match the dump even while others write
(https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-SNAPSHOT-SYNCHRONIZATION).
"""

from __future__ import annotations

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

_TABLES_PER_QUERY = 50
"""Tables counted by one query: few round trips, and short queries, so that a cancel takes effect soon."""


class TableLocked(BackupFailed):
    """A table stayed locked for longer than the lock timeout."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An open snapshot of a database. `id` is for pg_dump; `sizes` maps each table to estimated bytes."""

    connection: psycopg.Connection
    id: str
    sizes: Mapping[str, int]

    def read_contents(self, history: History) -> Contents:
        """Count the rows of all tables and list everything else for the comparison with a restored database."""
        return Contents(
            tables=dict(self._count_rows(list(self.sizes))),
            large_objects=int(_rows(self.connection, "large_objects")[0][0]),
            extensions=dict(_rows(self.connection, "extensions")),
            invalid_indexes=tuple(name for (name,) in _rows(self.connection, "invalid_indexes")),
            roles=tuple(name for (name,) in _rows(self.connection, "roles")),
            history=self._read_history(history),
        )

    def read_database(self) -> tuple[Database, int]:
        """Read the properties of the database, and the size in bytes."""
        (row,) = _rows(self.connection, "database")
        *properties, has_grants, size = row  # in the order of the fields
        settings = tuple(Setting(*row) for row in _rows(self.connection, "settings"))
        grants = tuple(Grant(*row) for row in _rows(self.connection, "grants")) if has_grants else None
        return Database(*(*properties, settings, grants)), int(size)

    def cancel(self) -> None:
        """Cancel the query of another thread."""
        self.connection.cancel_safe(timeout=5)

    def _count_rows(self, tables: Sequence[str]) -> Iterator[tuple[str, int]]:
        for start in range(0, len(tables), _TABLES_PER_QUERY):
            names = tables[start : start + _TABLES_PER_QUERY]
            counts = [f"(SELECT pg_catalog.count(*) FROM ONLY {name})" for name in names]  # noqa: S608  quoted names
            try:
                row = self.connection.execute(f"SELECT {', '.join(counts)}".encode()).fetchone()
            except psycopg.errors.LockNotAvailable as error:
                raise TableLocked(
                    "a table to be backed up is locked",
                    detail=f"It is one of {', '.join(names[:5])}{' ...' if names[5:] else ''}.",
                    hint="See in pg_stat_activity who has locked it, and run again.",
                ) from error
            yield from zip(names, row or (), strict=True)

    def _read_history(self, history: History) -> dict[str, str]:
        exists = self.connection.execute(history.exists_query(self.connection)).fetchone()
        rows = history.read(self.connection) if exists else []
        return {row.name: row.checksum for row in rows if row.executed_at}


@contextmanager
def open_snapshot(connect: Callable[[], psycopg.Connection], lock_timeout: str = "30s") -> Iterator[Snapshot]:
    """Open a session whose transaction keeps an exported snapshot for the block."""
    with closing(connect()) as connection:
        *settings, export = queries.load(__file__, "snapshot")["begin"].split(";\n")
        connection.execute(";".join(settings).encode())
        connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(lock_timeout)))
        row = connection.execute(export.encode()).fetchone()
        sizes = {str(name): int(size) for name, size in _rows(connection, "tables")}
        yield Snapshot(connection, str(row[0]) if row else "", sizes)


def _rows(connection: psycopg.Connection, query: str) -> list[tuple[Any, ...]]:
    return connection.execute(queries.load(__file__, "snapshot")[query].encode()).fetchall()
