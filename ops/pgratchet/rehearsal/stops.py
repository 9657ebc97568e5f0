"""Finds the times for which tables are blocked, from the statements of a transaction. Pure.

The cost of a lock is rarely its own statement: it is what runs behind it, before COMMIT.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from pgratchet.rehearsal.lock_modes import Blocked, blocked_by
from pgratchet.rehearsal.report import Lock, StatementReport, Stop

Measured = Mapping[tuple[str, Blocked], tuple[float, float]]
"""Waits of other sessions by the relation and by what waited: begin, as `started_ms`, and duration in milliseconds."""
_LATE_MS = 50
"""A lock that is noticed later than this was not taken at the begin of its statement, as in a DO block."""


def find_stops(statements: Sequence[StatementReport], commit_ms: float, measured: Measured) -> list[Stop]:
    """Return the stops of a transaction with these statements, and with this duration of its COMMIT."""
    stops = [stop for relation in _relations(statements) for stop in _stops_of(relation, statements, commit_ms)]
    return [_with_wait(stop, *wait) if (wait := measured.get((stop.relation, stop.blocks))) else stop for stop in stops]


def _with_wait(stop: Stop, began_ms: float, duration_ms: float) -> Stop:
    """Add a measured wait to a stop, which begins when the lock was noticed if that is much later."""
    late = began_ms - stop.started_ms
    if late <= _LATE_MS:
        return replace(stop, measured_ms=duration_ms)
    return replace(stop, started_ms=began_ms, duration_ms=stop.duration_ms - late, measured_ms=duration_ms)


def _relations(statements: Sequence[StatementReport]) -> dict[str, None]:
    return dict.fromkeys(
        relation
        for statement in statements
        for relation in (*(_blocked_table(lock) for lock in statement.locks), *(c.relation for c in statement.changes))
    )


def _blocked_table(lock: Lock) -> str:
    return lock.table or lock.relation


def _stops_of(relation: str, statements: Sequence[StatementReport], commit_ms: float) -> Iterator[Stop]:
    """Yield the stop of each kind, unless a stronger one began at the same statement or before."""
    begun = len(statements)
    for blocks in ("reads", "writes", "rows"):
        first = next((i for i, each in enumerate(statements) if _mode(each, relation, blocks)), None)
        if first is not None and first < begun:
            begun = first
            yield _stop(relation, blocks, statements[first:], commit_ms)


def _mode(statement: StatementReport, relation: str, blocks: Blocked) -> str:
    """The mode by which a statement begins to block; empty for one that does not."""
    if blocks == "rows":
        is_locking = any(change.relation == relation and change.locks_rows for change in statement.changes)
        return "ROW EXCLUSIVE" if is_locking else ""
    modes = (lock.mode for lock in statement.locks if _blocked_table(lock) == relation)
    return next((mode for mode in modes if blocked_by(mode) == blocks), "")


def _stop(relation: str, blocks: Blocked, under_lock: Sequence[StatementReport], commit_ms: float) -> Stop:
    """The stop from the first of some statements to the end of the transaction."""
    first, longest = under_lock[0], max(under_lock, key=lambda statement: statement.duration_ms)
    duration = sum(statement.duration_ms for statement in under_lock) + commit_ms
    mode = _mode(first, relation, blocks)
    return Stop(
        relation, blocks, mode, first.started_ms, duration, first.position, longest.position, longest.duration_ms
    )
