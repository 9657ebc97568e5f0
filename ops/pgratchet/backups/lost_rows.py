"""Finds the rows of an old database that the database restored in its place does not have, or has differently.

Rows are compared as text, so no type needs an equality operator. Duplicates count, as in EXCEPT ALL.

Each side hashes every row and adds the hashes up in buckets. Only rows of buckets that differ are read, sorted by the
server and merged here, so memory is bounded. Tables without a difference are never read by this program.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import psycopg

from pgratchet.backups.manifest import SequenceState
from pgratchet.backups.processes import split_lines
from pgratchet.backups.snapshot import open_snapshot
from pgratchet.database import queries
from pgratchet.database.connection import first_line, translate_errors
from pgratchet.database.history import History
from pgratchet.errors import ConfigurationError, RatchetError

_BUCKETS = 4096
"""A power of two. More buckets read fewer rows without a difference, and make longer answers."""

_OLD = re.compile("_old_[0-9]{14}$")
_TIME_LENGTH = 14
"""The ending of the name of a database that a restore replaced, with the time of the restore."""

ABSENT = "the restored database does not have this table"
"""The note of a table that was created since the backup. All its rows are lost."""

KeyedLine = tuple[int, bytes]
"""The hash of a row, and the row as a line of COPY."""


@dataclass(frozen=True, slots=True)
class TableLoss:
    """The lost rows of a table. `rows` is None for a table that could not be compared; `note` says why.

    `columns` are the compared columns, quoted. `file` is the name of the file with the rows, if they were exported.
    """

    table: str
    rows: int | None
    note: str = ""
    columns: tuple[str, ...] = ()
    file: str | None = None


@dataclass(frozen=True, slots=True)
class SequenceLoss:
    """A sequence with other values in the two databases. `now` is None when the restored database lacks it."""

    sequence: str
    old: int
    now: int | None


@dataclass(frozen=True, slots=True)
class Losses:
    """The difference between an old database and the restored one. `tables` have lost rows or a note.

    `compared` is the number of all tables of the old database. `migrations` are applied only in the old database.
    """

    database: str
    old_database: str
    compared: int
    tables: tuple[TableLoss, ...]
    sequences: tuple[SequenceLoss, ...]
    migrations: tuple[str, ...]
    large_objects: int
    large_objects_now: int
    load_order: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its columns, quoted, and those of them that are generated."""

    name: str
    columns: tuple[str, ...]
    generated: frozenset[str]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two databases, with a session whose every value has the same text as on the other side."""

    connection: psycopg.Connection
    tables: Mapping[str, Table]

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A transaction in which every query sees the same rows. Its end releases the locks on the tables."""
        self.connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            yield
        finally:
            if not self.connection.closed:
                self.connection.execute("ROLLBACK")

    def buckets(self, table: str, columns: Sequence[str]) -> dict[int, tuple[Any, ...]]:
        """Count the rows and add up their hashes, by bucket."""
        query = (
            f"SELECT h & {_BUCKETS - 1}, pg_catalog.count(*), pg_catalog.sum(h)"  # noqa: S608  quoted names
            f" FROM (SELECT {_key(columns)} AS h FROM ONLY {table}) AS rows GROUP BY 1"
        )
        return {bucket: tuple(rest) for bucket, *rest in self.connection.execute(query.encode())}

    def lines(self, table: str, columns: Sequence[str], buckets: Sequence[int]) -> Iterator[KeyedLine]:
        """Read the rows of some buckets, sorted by their hashes."""
        key = _key(columns)
        numbers = ",".join(map(str, buckets))
        where = "" if len(buckets) == _BUCKETS else f" WHERE {key} & {_BUCKETS - 1} = ANY ('{{{numbers}}}')"
        values = ", ".join((key, *columns))
        query = f"COPY (SELECT {values} FROM ONLY {table}{where} ORDER BY 1) TO STDOUT"  # noqa: S608
        for line in _copied_lines(self.connection, query):
            number, _, row = line.rstrip(b"\n").partition(b"\t")
            yield int(number), row + b"\n"

    def all_lines(self, table: str, columns: Sequence[str]) -> Iterator[bytes]:
        """Read all rows of a table."""
        query = f"COPY (SELECT {', '.join(columns)} FROM ONLY {table}) TO STDOUT"  # noqa: S608  quoted names
        return _copied_lines(self.connection, query)


def _key(columns: Sequence[str]) -> str:
    return f'pg_catalog.hashtextextended(ROW({", ".join(columns)})::pg_catalog.text COLLATE "C", 0)'


def _copied_lines(connection: psycopg.Connection, query: str) -> Iterator[bytes]:
    with connection.cursor() as cursor, cursor.copy(query.encode()) as copy:
        yield from split_lines(map(bytes, copy))


def lost_lines(old: Iterator[KeyedLine], new: Iterator[KeyedLine]) -> Iterator[bytes]:
    """The lines of `old` that `new` lacks, as EXCEPT ALL finds them. Both are sorted by their hashes."""
    others = groupby(new, key=itemgetter(0))
    key, group = next(others, (None, iter(())))
    for number, lines in groupby(old, key=itemgetter(0)):
        while key is not None and key < number:
            key, group = next(others, (None, iter(())))
        missing = Counter(line for _, line in lines)
        if key == number:
            missing -= Counter(line for _, line in group)
        yield from missing.elements()
    for _ in new:  # the server's COPY has to end before the next query
        pass


def choose_old_database(names: Sequence[str], database: str, name: str | None) -> str:
    """The kept database of this name, or else the newest one that a swap replaced. Raises ConfigurationError."""
    old = sorted((each for each in names if _OLD.search(each)), key=lambda each: each[-_TIME_LENGTH:])
    if name is None and old:
        return old[-1]
    if name is not None and name in names:
        return name
    problem = f'the database "{name}" was not' if name else "no old database was"
    raise ConfigurationError(
        f"{problem} kept by a restore of {database}",
        detail=f"Kept: {', '.join(names) or 'none'}.",
        hint="Before a restore, compare with a backup: `invoke restore --show-lost --backup=ID`.",
    )


Write = Callable[[str, Iterator[bytes]], tuple[int, str | None]]
"""Takes the lost rows of a table. Returns their number, and the name of the file that they were written to."""


def count(_table: str, lines: Iterator[bytes]) -> tuple[int, str | None]:
    """Count lost rows, without keeping them."""
    return sum(1 for _ in lines), None


def find_losses(
    connect_old: Callable[[], psycopg.Connection],
    connect_new: Callable[[], psycopg.Connection],
    history: History,
    write: Write = count,
) -> Losses:
    """Compare an old database with the restored one, table by table. Changes nothing on the server.

    The history is compared by the names of the migrations. Foreign tables and tables of extensions are left out.
    """
    old_facts, new_facts = _read_facts(connect_old, history), _read_facts(connect_new, history)
    with _open(connect_old, history) as old, _open(connect_new, history) as new:
        results = [_compare(old, new, table, write) for table in old.tables.values()]
        unread = old_facts.unread or new_facts.unread
        results += [TableLoss(f"{history.schema}.{history.table}", None, f"not compared: {unread}")] if unread else []
        return Losses(
            database=new.connection.info.dbname,
            old_database=old.connection.info.dbname,
            compared=len(old.tables),
            tables=tuple(loss for loss in results if loss.rows or loss.note),
            sequences=_sequence_losses(old_facts.sequences, new_facts.sequences),
            migrations=tuple(name for name in old_facts.migrations if name not in new_facts.migrations),
            large_objects=old_facts.large_objects,
            large_objects_now=new_facts.large_objects,
            load_order=_load_order(new.connection, tuple(old.tables)),
        )


@dataclass(frozen=True, slots=True)
class _Facts:
    sequences: Mapping[str, SequenceState]
    migrations: Sequence[str]
    unread: str
    large_objects: int


def _read_facts(connect: Callable[[], psycopg.Connection], history: History) -> _Facts:
    with open_snapshot(connect) as snapshot:
        history_objects = find_history_objects(snapshot.connection, history)
        sequences = {name: s for name, s in snapshot.read_sequences().items() if name not in history_objects}
        ((number,),) = _rows(snapshot.connection, "large_objects")
    applied, unread = list[str](), ""
    try:
        with translate_errors(), closing(connect()) as connection:
            exists = connection.execute(history.exists_query(connection)).fetchone()
            applied = [row.name for row in history.read(connection) if row.executed_at] if exists else []
    except RatchetError as error:  # a damaged history does not hide the other rows
        unread = error.message
    return _Facts(sequences, applied, unread, int(number))


def find_history_objects(connection: psycopg.Connection, history: History) -> frozenset[str]:
    """The quoted names of the history and of its sequences. It is compared by the names of migrations."""
    return frozenset(name for (name,) in _rows(connection, "history", schema=history.schema, table=history.table))


def _sequence_losses(old: Mapping[str, SequenceState], new: Mapping[str, SequenceState]) -> tuple[SequenceLoss, ...]:
    return tuple(
        SequenceLoss(name, state.last_value, new[name].last_value if name in new else None)
        for name, state in old.items()
        if name not in new or new[name].last_value != state.last_value
    )


@contextmanager
def _open(connect: Callable[[], psycopg.Connection], history: History) -> Iterator[Side]:
    with closing(connect()) as connection:
        connection.execute(queries.load(__file__, "lost_rows")["session"].encode())
        rows = _rows(connection, "tables", schema=history.schema, table=history.table)
        tables = [
            Table(name, tuple(columns or ()), frozenset(c for c, is_one in zip(columns, flags, strict=True) if is_one))
            for name, columns, flags in ((name, columns or (), flags or ()) for name, columns, flags in rows)
        ]
        yield Side(connection, {table.name: table for table in tables})


def _rows(connection: psycopg.Connection, query: str, **values: object) -> list[tuple[Any, ...]]:
    return connection.execute(queries.load(__file__, "lost_rows")[query].encode(), values or None).fetchall()


def _compare(old: Side, new: Side, table: Table, write: Write) -> TableLoss:
    """Compare a table. An error of the server for this table is noted, so that the others are compared too."""
    try:
        with old.reading(), new.reading():
            return _find_rows(old, new, table, write)
    except psycopg.Error as error:
        if old.connection.closed or new.connection.closed:
            raise
        return TableLoss(table.name, None, f"not compared: {first_line(error)}")


def _find_rows(old: Side, new: Side, table: Table, write: Write) -> TableLoss:
    other = new.tables.get(table.name)
    if other is None:
        columns = tuple(name for name in table.columns if name not in table.generated)
        number, file = write(table.name, old.all_lines(table.name, columns))
        return TableLoss(table.name, number, ABSENT, columns, file)
    generated = table.generated | other.generated
    columns = tuple(name for name in table.columns if name in other.columns and name not in generated)
    note = _columns_note(table, other)
    before, now = old.buckets(table.name, columns), new.buckets(table.name, columns)
    different = [bucket for bucket, sums in before.items() if now.get(bucket) != sums]
    if not different:
        return TableLoss(table.name, 0, note, columns)
    lines = lost_lines(old.lines(table.name, columns, different), new.lines(table.name, columns, different))
    number, file = write(table.name, lines)
    return TableLoss(table.name, number, note, columns, file)


def _columns_note(table: Table, other: Table) -> str:
    only_old = [name for name in table.columns if name not in other.columns and name not in table.generated]
    only_new = [name for name in other.columns if name not in table.columns and name not in other.generated]
    parts = [f"columns only in the old database: {', '.join(only_old)}"] if only_old else []
    parts += [f"columns only in the restored database: {', '.join(only_new)}"] if only_new else []
    return "; ".join(parts)


def _load_order(connection: psycopg.Connection, tables: Sequence[str]) -> tuple[str, ...]:
    """Order tables so that those to which foreign keys refer come first. In a cycle the order is any."""
    from graphlib import CycleError, TopologicalSorter

    edges: dict[str, set[str]] = {name: set() for name in tables}
    for name, referenced in _rows(connection, "references"):
        if name in edges and referenced in edges:
            edges[name].add(referenced)
    try:
        return tuple(TopologicalSorter(edges).static_order())
    except CycleError:
        return tuple(tables)
