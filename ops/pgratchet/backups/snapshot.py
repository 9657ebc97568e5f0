"""Reads the contents of a database in a snapshot: rows per table, extensions, roles, the migration history.

The snapshot is exported for `pg_dump --snapshot`, so the counts match the dump even while others write
(https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-SNAPSHOT-SYNCHRONIZATION).

Sequences have no snapshot: a reader sees their value of the moment
(https://www.postgresql.org/docs/current/functions-sequence.html). They are read before the dump and after it, so the
value in the dump lies between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import sql

from pgratchet.backups import table_progress
from pgratchet.backups.manifest import Contents, Database, Grant, MaterializedView, SequenceState, Setting, TableSize
from pgratchet.database import queries
from pgratchet.database.connection import first_line
from pgratchet.database.history import History
from pgratchet.database.timeouts import clear_timeouts
from pgratchet.errors import BackupFailed

_TABLES_PER_QUERY = 50
"""Tables counted by one query: few round trips, and short queries, so that a cancel takes effect soon."""
_MEASURED, _SAMPLE_ROWS = 50, 30
"""How many tables have their rows measured for the progress of a dump, and how many rows of each."""
_PORTION_END = "ROLLBACK TO portion; RELEASE portion"
_UNCOUNTABLE = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.ObjectNotInPrerequisiteState,
    psycopg.errors.UndefinedTable,
)
"""Errors of a materialized view that is locked, or was refreshed, emptied or dropped after the snapshot."""


class TableLocked(BackupFailed):
    """A table stayed locked for longer than the lock timeout."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An open snapshot of a database. `id` is for pg_dump; `sizes` maps each table to its bytes without indexes."""

    connection: psycopg.Connection
    id: str
    sizes: Mapping[str, int]

    def read_contents(self, history: History, sequences: Mapping[str, SequenceState] | None = None) -> Contents:
        """Count the rows of all tables and list everything else for the comparison with a restored database.

        `sequences` are those that were read before the dump; without it they are read now.
        """
        tables = dict(self._count_rows(list(self.sizes)))
        return Contents(
            tables=tables,
            sizes=self._read_sizes(tables),
            large_objects=int(_rows(self.connection, "large_objects")[0][0]),
            extensions=dict(_rows(self.connection, "extensions")),
            invalid_indexes=tuple(name for (name,) in _rows(self.connection, "invalid_indexes")),
            roles=tuple(name for (name,) in _rows(self.connection, "roles")),
            history=self._read_history(history),
            sequences=self.read_sequences() if sequences is None else sequences,
            materialized_views=dict(self._read_materialized_views()),
            schemas=tuple(name for (name,) in _rows(self.connection, "schemas")),
            left_out=read_left_out(self.connection),
            **read_owners(self.connection),
        )

    def _read_sizes(self, rows: Mapping[str, int]) -> dict[str, TableSize]:
        """The sizes of the tables with these rows. Those of indexes are as VACUUM or ANALYZE has noted them."""
        indexes = {name: int(size) for name, size in _rows(self.connection, "index_sizes")}
        return {name: TableSize(rows[name], self.sizes[name], indexes.get(name, 0)) for name in rows}

    def read_sequences(self) -> dict[str, SequenceState]:
        """Read the values of all sequences of the snapshot. Sequences dropped since are left out."""
        return dict(self._read_sequences([name for name, _, _ in _rows(self.connection, "sequences")]))

    def read_latest_sequences(self, earlier: Mapping[str, SequenceState]) -> dict[str, SequenceState]:
        """Read the sequences again after the dump, and describe what the dump can have of each."""
        options = {name: (counts_down, cycles) for name, counts_down, cycles in _rows(self.connection, "sequences")}
        now = dict(self._read_sequences(list(options)))
        return {name: _advance(state, now.get(name), *options[name]) for name, state in earlier.items()}

    def read_text_sizes(self, rows: Mapping[str, int]) -> dict[str, int]:
        """Estimate the bytes that COPY makes of the largest tables, from their first rows and the numbers of all rows.

        What a table takes on the disk says little about them: values may be compressed there, and bytes become
        hexadecimal digits.
        """
        largest = sorted(self.sizes, key=lambda name: self.sizes[name], reverse=True)[:_MEASURED]
        return {name: size for name in largest if (size := self._text_size(name, rows[name]))}

    def _text_size(self, name: str, rows: int) -> int:
        first = f"(SELECT * FROM ONLY {name} LIMIT {_SAMPLE_ROWS}) AS row"  # noqa: S608  a quoted name
        ((width,),) = self._send_guarded(f"SELECT avg(octet_length(row::text))::float8 FROM {first}")  # noqa: S608
        return round((width or 0) * rows)

    def read_copied(self) -> dict[str, int]:
        """Read how many rows pg_dump has copied so far, of each table that it is copying."""
        return {str(name): int(number) for name, number in self._send_guarded(table_progress.COPIED, results=2)}

    def read_database(self) -> tuple[Database, int]:
        """Read the properties of the database, and the size in bytes."""
        return read_database(self.connection, self.connection.info.dbname)

    def cancel(self) -> None:
        """Cancel the query of another thread."""
        self.connection.cancel_safe(timeout=5)

    def _count_rows(self, tables: Sequence[str]) -> Iterator[tuple[str, int]]:
        """Count in portions. The end of a portion releases the locks on its tables and on all their indexes.

        The server's memory for locks is limited for all sessions together, and a table needs a lock for each index too
        (https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-TABLES: a rollback to a savepoint
        releases the locks that were acquired after it).
        """
        for start in range(0, len(tables), _TABLES_PER_QUERY):
            names = tables[start : start + _TABLES_PER_QUERY]
            counts = [f"(SELECT pg_catalog.count(*) FROM ONLY {name})" for name in names]  # noqa: S608  quoted names
            (row,) = self._read_portion(names, f"SELECT {', '.join(counts)}")
            yield from zip(names, row, strict=True)

    def _read_sequences(self, names: Sequence[str]) -> Iterator[tuple[str, SequenceState]]:
        for start in range(0, len(names), _TABLES_PER_QUERY):
            yield from self._read_sequence_portion(names[start : start + _TABLES_PER_QUERY])

    def _read_sequence_portion(self, names: Sequence[str]) -> Iterator[tuple[str, SequenceState]]:
        selects = [f"SELECT {i}, last_value, is_called FROM {name}" for i, name in enumerate(names)]  # noqa: S608
        try:
            rows = self._read_portion(names, " UNION ALL ".join(selects))
        except psycopg.errors.UndefinedTable:
            self.connection.execute(_PORTION_END.encode())
            for name in names if len(names) > 1 else ():
                yield from self._read_sequence_portion([name])
            return
        yield from ((names[i], SequenceState(last_value, is_called)) for i, last_value, is_called in rows)

    def _read_materialized_views(self) -> Iterator[tuple[str, MaterializedView]]:
        for name, is_populated, is_readable in _rows(self.connection, "materialized_views"):
            count = self._count_view(name) if is_populated and is_readable else None
            yield name, MaterializedView(is_populated, count)

    def _count_view(self, name: str) -> int | None:
        try:
            ((count,),) = self._send_portion(f"SELECT pg_catalog.count(*) FROM {name}")  # noqa: S608  a quoted name
        except _UNCOUNTABLE:
            self.connection.execute(_PORTION_END.encode())
            return None
        return int(count)

    def _read_portion(self, names: Sequence[str], query: str) -> list[tuple[Any, ...]]:
        """Run a query of some tables or sequences. Locked and unreadable ones are raised as BackupFailed."""
        try:
            return self._send_portion(query)
        except psycopg.errors.LockNotAvailable as error:
            raise TableLocked(
                "a table to be backed up is locked",
                detail=f"It is one of {', '.join(names[:5])}{' ...' if names[5:] else ''}.",
                hint="See in pg_stat_activity who has locked it, and run again.",
            ) from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise BackupFailed(
                f"the backup cannot read everything: {first_line(error)}",
                detail="A backup has all rows of all tables, and the values of sequences. Nothing was written.",
                hint="Grant SELECT on it, or the role pg_read_all_data, to the role of this environment. A "
                "table with row-level security has to be its own, or the role needs BYPASSRLS.",
            ) from error

    def _send_guarded(self, query: str, *, results: int = 1) -> list[tuple[Any, ...]]:
        """Run a portion whose error must not end the transaction: others need its snapshot."""
        try:
            return self._send_portion(query, results=results)
        except psycopg.Error:
            self.connection.execute(_PORTION_END.encode())
            raise

    def _send_portion(self, query: str, *, results: int = 1) -> list[tuple[Any, ...]]:
        """Run queries, and return the rows of the last one, the number `results`."""
        cursor = self.connection.execute(f"SAVEPOINT portion; {query}; {_PORTION_END}".encode())
        for _ in range(results):
            cursor.nextset()
        return cursor.fetchall()

    def _read_history(self, history: History) -> dict[str, str]:
        exists = self.connection.execute(history.exists_query(self.connection)).fetchone()
        rows = history.read(self.connection) if exists else []
        return {row.name: row.checksum for row in rows if row.executed_at}


def _advance(before: SequenceState, now: SequenceState | None, counts_down: bool, cycles: bool) -> SequenceState:
    """The state before the dump, completed by the state after it."""
    if now == before:
        return before
    if now is None or cycles:
        return replace(before, went_back=True)
    steps = before.last_value - now.last_value if counts_down else now.last_value - before.last_value
    return replace(before, latest=now.last_value) if steps >= 0 else replace(before, went_back=True)


def read_left_out(connection: psycopg.Connection) -> tuple[str, ...]:
    """Describe in sentences what pg_dump, as this role, leaves out of a dump without an error."""
    return tuple(sentence for (sentence,) in _rows(connection, "left_out"))


@contextmanager
def open_snapshot(connect: Callable[[], psycopg.Connection], lock_timeout: str = "30s") -> Iterator[Snapshot]:
    """Open a session whose transaction keeps an exported snapshot for the block."""
    with closing(connect()) as connection:
        clear_timeouts(connection)
        *settings, export = queries.load(__file__, "snapshot")["begin"].split(";\n")
        connection.execute(";".join(settings).encode())
        connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(lock_timeout)))
        row = connection.execute(export.encode()).fetchone()
        sizes = {str(name): int(size) for name, size in _rows(connection, "tables")}
        yield Snapshot(connection, str(row[0]) if row else "", sizes)


def read_owners(connection: psycopg.Connection) -> dict[str, tuple[str, ...]]:
    """Read what a restore needs more rights for than those of an owner, by the names of the fields of Contents."""
    rows = _rows(connection, "rights")
    return {
        field: tuple(name for kind, name in rows if kind == field)
        for field in ("owners", "guests", "superuser_objects")
    }


def read_database(connection: psycopg.Connection, name: str) -> tuple[Database, int]:
    """Read the properties of a database of the server, and the size in bytes.

    Of another database than the connection's the size is 0, and what was removed from it is not known.
    """
    (row,) = _rows(connection, "database", name=name)
    *properties, has_grants, size, is_template, tablespace, icu_rules, removed = row  # in the order of the fields
    settings = tuple(Setting(*row) for row in _rows(connection, "settings", name=name))
    grants = tuple(Grant(*row) for row in _rows(connection, "grants", name=name)) if has_grants else None
    more = (is_template, tablespace, icu_rules, tuple(removed))
    return Database(*(*properties, settings, grants, *more)), int(size)


def _rows(connection: psycopg.Connection, query: str, **values: object) -> list[tuple[Any, ...]]:
    return connection.execute(queries.load(__file__, "snapshot")[query].encode(), values or None).fetchall()
