"""Reads the locks, the scans, the changes and the rewrites of a transaction.

The probe runs in the transaction itself, behind each statement, and looks only at locked relations. Invisible here are
statements outside a transaction, and locks released with a caught exception of PL/pgSQL: see `observer`. Scans, built
indexes and validated constraints come as messages of the level DEBUG1, in the words of
src/backend/commands/tablecmds.c and src/backend/catalog/index.c
(tests/integration/rehearsal/test_statement_kinds.py pins the words for each major version).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import psycopg

from pgratchet.database import queries
from pgratchet.rehearsal.lock_modes import MODES
from pgratchet.rehearsal.report import Changes, Lock, Rewrite, Scan

_REWRITTEN_KINDS = "rm"
_MESSAGES = {
    "index": re.compile(r'building index "(?P<name>.*)" on table "(?P<table>.*)" (?:serially|with request for)'),
    "constraint": re.compile(r'validating foreign key constraint "(?P<name>.*)"'),
    "temporary": re.compile(r"temporary file: .*size (?P<name>\d+)"),
}
_SETTINGS = ("SET client_min_messages = debug1", "SET log_temp_files = 0", "SET lc_messages = 'C'")


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation before a migration. `table` is the oid of an index's table. `is_hidden`: TOAST or temporary."""

    name: str
    kind: str
    file_node: int | None
    table: int | None
    rows: int
    size: int
    is_hidden: bool = False


@dataclass(frozen=True, slots=True)
class _Counters:
    scans: int = 0
    read: int = 0
    inserted: int = 0
    updated: int = 0
    deleted: int = 0


@dataclass(slots=True)
class Reading:
    """The effects of a statement, as the difference between two probes."""

    locks: tuple[Lock, ...] = ()
    rewrites: tuple[Rewrite, ...] = ()
    scans: tuple[Scan, ...] = ()
    changes: tuple[Changes, ...] = ()
    wal_bytes: int = 0
    growth_bytes: int = 0
    released: tuple[Lock, ...] = ()


@dataclass(slots=True)
class _Messages:
    """The server's messages while a statement ran."""

    indexes: list[str] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    temporary_bytes: int = 0

    def add(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        text = diagnostic.message_primary or ""
        if match := _MESSAGES["index"].match(text):
            self.indexes += [] if match["table"].startswith("pg_toast_") else [match["name"]]
        elif match := _MESSAGES["constraint"].match(text):
            self.constraints.append(match["name"])
        elif match := _MESSAGES["temporary"].match(text):
            self.temporary_bytes += int(match["name"])


def read_relations(connection: psycopg.Connection) -> dict[int, Relation]:
    """Return the relations of users, by oid."""
    rows = connection.execute(queries.load(__file__, "probe")["relations"].encode()).fetchall()
    return {oid: Relation(*rest) for oid, *rest in rows}


def write_ahead_position(connection: psycopg.Connection) -> int:
    """Return the end of the write-ahead log, as a number of bytes."""
    ((position,),) = connection.execute("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint").fetchall()
    return int(position)


@dataclass(slots=True)
class Probe:
    """Reads the effects of each statement of a session.

    `relations` are the relations before the present migration. New relations of a migration are left out: no other
    session can use one before COMMIT.
    """

    connection: psycopg.Connection
    relations: Mapping[int, Relation] = field(default_factory=dict)
    messages: _Messages = field(default_factory=_Messages)
    _sizes: dict[int, int] = field(default_factory=dict)
    _modes: set[tuple[int, str]] = field(default_factory=set)
    _nodes: dict[int, int | None] = field(default_factory=dict)
    _counters: dict[int, _Counters] = field(default_factory=dict)
    _position: int = 0

    def __post_init__(self) -> None:
        self.connection.add_notice_handler(lambda diagnostic: self.messages.add(diagnostic))

    def set_up(self) -> None:
        """Make the server send messages about scans and indexes. Those about temporary files need a superuser."""
        for setting in _SETTINGS:
            with suppress(psycopg.errors.InsufficientPrivilege):
                self.connection.execute(setting.encode())

    def begin(self) -> None:
        """Note the state at the begin of a transaction. The counters may not be zero."""
        self.relations = read_relations(self.connection)
        self._modes = set()
        self._nodes = {oid: relation.file_node for oid, relation in self.relations.items()}
        self._read_counters()
        self._position = write_ahead_position(self.connection)

    def _read_counters(self) -> None:
        """Read the counters above zero at the begin of a transaction: earlier work of the session."""
        query = queries.load(__file__, "probe")["counters"].encode()
        rows = self.connection.execute(query, {"oids": list(self._counters)}).fetchall()
        self._counters = {oid: _Counters(*(int(number or 0) for number in counters)) for oid, *counters in rows}

    def name(self, oid: int) -> str:
        relation = self.relations.get(oid)
        return relation.name if relation else ""

    def is_shown(self, oid: int) -> bool:
        """Return whether a relation existed before the migration, and can be used by name."""
        relation = self.relations.get(oid)
        return relation is not None and not relation.is_hidden

    def lock(self, oid: int, mode: str) -> Lock:
        relation = self.relations[oid]
        table = self.name(relation.table) if relation.table is not None else ""
        return Lock(relation.name, MODES[mode], table)

    def read(self) -> Reading:
        """Return the effects since the last call, or since `begin`."""
        position, before = self._position, dict(self._counters)
        rows = self._read()
        reading = Reading(wal_bytes=self._position - position)
        locks, rewrites, scans, changes = [], [], [], []
        now_held: set[tuple[int, str]] = set()
        for oid, modes, node, size in rows:
            reading.growth_bytes += self._grow(oid, size)
            if not self.is_shown(oid):
                continue
            locks += [self.lock(oid, mode) for mode in modes if (oid, mode) not in self._modes]
            now_held |= {(oid, mode) for mode in modes}
            relation, now, then = self.relations[oid], self._counters[oid], before.get(oid, _Counters())
            if node is not None and node != self._nodes[oid] and relation.kind in _REWRITTEN_KINDS:
                rewrites.append(Rewrite(relation.name, size))
            self._nodes[oid] = node if node is not None else self._nodes[oid]
            if now.scans > then.scans and relation.kind in _REWRITTEN_KINDS:
                scans.append(Scan(relation.name, self._rows_read(relation, now.read - then.read)))
            change = Changes(
                relation.name, now.inserted - then.inserted, now.updated - then.updated, now.deleted - then.deleted
            )
            if change.rows > 0:
                changes.append(change)
        reading.locks, reading.rewrites = tuple(locks), tuple(rewrites)
        reading.scans, reading.changes = tuple(scans), tuple(changes)
        reading.released = tuple(self.lock(*each) for each in self._modes - now_held)  # by ROLLBACK TO SAVEPOINT
        self._modes = now_held
        return reading

    def take_messages(self) -> _Messages:
        messages, self.messages = self.messages, _Messages()
        return messages

    def _rows_read(self, relation: Relation, count: int) -> int:
        """The rows of a scan. Several scans of a statement count as one, and scans by parallel workers not at all."""
        return relation.rows or count if self.messages.indexes else min(count, relation.rows or count)

    def _grow(self, oid: int, size: int) -> int:
        relation = self.relations.get(oid)
        before = self._sizes.get(oid, relation.size if relation else 0)
        self._sizes[oid] = size
        return size - before

    def _read(self) -> list[tuple[int, list[str], int | None, int]]:
        """Probe the session; returns the locked oids, with modes, file nodes and sizes."""
        locked = []
        for row in self.connection.execute(queries.load(__file__, "probe")["locks"].encode()).fetchall():
            oid, modes, node, *counters, size, self._position = row
            if oid is not None:
                self._counters[oid] = _Counters(*(int(number or 0) for number in counters))
                locked.append((oid, modes, node, int(size or 0)))
        return locked
