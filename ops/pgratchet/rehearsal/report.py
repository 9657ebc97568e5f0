"""The result of a rehearsal, as values. Durations are in milliseconds, sizes in bytes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pgratchet.rehearsal.lock_modes import Blocked

TOLERANCE = 0.1
LEAST_TOLERANCE_MS = 50
"""The largest difference between a measured wait and the wait by the locks: the larger of the two."""

LEAST_STOP_MS = 50
"""Shorter stops are counted in one line, and have no remedy."""

LEAST_CALIBRATION_MS = 100
"""The least rehearsed milliseconds for a comparison with the target."""


@dataclass(frozen=True, slots=True)
class Position:
    """A statement, by migration and first line."""

    migration: str
    line: int

    def __str__(self) -> str:
        return f"{self.migration}:{self.line}"


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock taken by a statement. The name is qualified and quoted, the mode as in PostgreSQL's documentation.

    `table` is the table of an index, empty for other relations: planning a query on a table locks the indexes too.
    """

    relation: str
    mode: str
    table: str = ""


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A table or materialized view with new files, and the size of the files."""

    relation: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Scan:
    """A table read from the beginning, with the number of rows."""

    relation: str
    rows: int


@dataclass(frozen=True, slots=True)
class Changes:
    """The rows of a table inserted, updated or deleted by a statement. New rows are in no other session's way."""

    relation: str
    inserted: int = 0
    updated: int = 0
    deleted: int = 0

    @property
    def rows(self) -> int:
        return self.inserted + self.updated + self.deleted

    @property
    def locks_rows(self) -> bool:
        return self.updated + self.deleted > 0


@dataclass(frozen=True, slots=True)
class StatementReport:
    """The effects of a statement. `started_ms` counts from the begin of the first statement.

    `locks` are new locks of the transaction. `is_sampled`: the statement ran outside a transaction, so another session
    observed the locks every few milliseconds. `released` are locks with an end before that of the transaction.
    """

    migration: str
    line: int
    text: str
    started_ms: float
    duration_ms: float
    locks: tuple[Lock, ...] = ()
    rewrites: tuple[Rewrite, ...] = ()
    scans: tuple[Scan, ...] = ()
    changes: tuple[Changes, ...] = ()
    indexes_built: tuple[str, ...] = ()
    constraints_validated: tuple[str, ...] = ()
    wal_bytes: int = 0
    temporary_bytes: int = 0
    growth_bytes: int = 0
    is_sampled: bool = False
    released: tuple[Lock, ...] = ()

    @property
    def position(self) -> Position:
        return Position(self.migration, self.line)

    @property
    def rows_changed(self) -> int:
        return sum(change.rows for change in self.changes)


@dataclass(frozen=True, slots=True)
class Stop:
    """A time without work on a table, from the statement with the lock (`locked_at`) to the end of the transaction.

    `blocks` is `reads` when neither reads nor writes go on, `writes` when reads do, and `rows` when only writes of the
    changed rows wait. `spent_at` is the longest statement under the lock. `measured_ms` is the real wait of another
    session for the table; None where the stop was too short, or was not tried.
    """

    relation: str
    blocks: Blocked
    mode: str
    started_ms: float
    duration_ms: float
    locked_at: Position
    spent_at: Position
    spent_ms: float
    measured_ms: float | None = None

    @property
    def is_confirmed(self) -> bool | None:
        """True when the measured wait is as long as the locks tell; None without a measured wait."""
        if self.measured_ms is None:
            return None
        return abs(self.measured_ms - self.duration_ms) <= max(LEAST_TOLERANCE_MS, TOLERANCE * self.duration_ms)


@dataclass(frozen=True, slots=True)
class TableReport:
    """The longest stops of a table, with the lines of the longest of all."""

    relation: str
    blocks_reads_ms: float
    blocks_writes_ms: float
    locked_at: Position
    spent_at: Position


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """A migration. `duration_ms` is measured with the real applier, on a second copy; None behind a failure."""

    name: str
    checksum: str
    traced_ms: float
    duration_ms: int | None = None
    wal_bytes: int = 0
    growth_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed migration. `rows` is the number of rows in the way, None without a count.

    `keys` are some primary keys of such rows; other values stay in the database.
    """

    migration: str
    line: int
    message: str
    sqlstate: str
    relation: str = ""
    rows: int | None = None
    key_columns: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Calibration:
    """Earlier migrations of this target: the durations in rehearsals, and then on the target."""

    migrations: int = 0
    rehearsed_ms: int = 0
    actual_ms: int = 0

    @property
    def ratio(self) -> float | None:
        """The duration on the target divided by the rehearsed duration; None for short durations."""
        return self.actual_ms / self.rehearsed_ms if self.rehearsed_ms >= LEAST_CALIBRATION_MS else None


@dataclass(frozen=True, slots=True)
class Report:
    """A rehearsal of migrations on a restored backup.

    `server_version` belongs to the backup's server, `scratch_version` to the server of the rehearsal, both as
    server_version_num. `notes` are sentences about the limits of the report.
    """

    backup: str
    server_version: int
    scratch_version: int
    database_size: int
    restore_ms: int
    migrations: tuple[MigrationReport, ...] = ()
    statements: tuple[StatementReport, ...] = ()
    stops: tuple[Stop, ...] = ()
    failure: Failure | None = None
    calibration: Calibration = field(default_factory=Calibration)
    notes: tuple[str, ...] = ()

    @property
    def duration_ms(self) -> float:
        """The duration of all migrations, with the real applier where possible."""
        return sum(each.traced_ms if each.duration_ms is None else each.duration_ms for each in self.migrations)

    @property
    def wal_bytes(self) -> int:
        return sum(each.wal_bytes for each in self.migrations)

    @property
    def tables(self) -> tuple[TableReport, ...]:
        """The blocked tables, the longest wait first."""
        by_table: dict[str, list[Stop]] = {}
        for stop in self.stops:
            if stop.blocks != "rows":
                by_table.setdefault(stop.relation, []).append(stop)
        tables = [_table_report(relation, stops) for relation, stops in by_table.items()]
        return tuple(sorted(tables, key=lambda table: -max(table.blocks_reads_ms, table.blocks_writes_ms)))


def _table_report(relation: str, stops: Sequence[Stop]) -> TableReport:
    longest = max(stops, key=lambda stop: (stop.duration_ms, stop.blocks == "reads"))
    reads = max((stop.duration_ms for stop in stops if stop.blocks == "reads"), default=0.0)
    writes = max(stop.duration_ms for stop in stops)  # what blocks reads blocks writes too
    return TableReport(relation, reads, writes, longest.locked_at, longest.spent_at)
