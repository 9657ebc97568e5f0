"""Finds the stops of tables, from the statements of a transaction. Pure.

The cost of a lock is rarely the locking statement: the statements behind it, before COMMIT, take the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pgratchet.rehearsal.lock_modes import Blocked, blocked_by
from pgratchet.rehearsal.report import Lock, StatementReport, Stop

_LATE_MS = 50
"""A lock noticed later was not taken at the begin of the statement, as in a DO block."""


@dataclass(frozen=True, slots=True)
class MeasuredWait:
    """A wait of another session: the begin, as `started_ms`, the duration, and the mode of the lock in the way."""

    began_ms: float
    duration_ms: float
    mode: str


Measured = Mapping[tuple[str, Blocked], MeasuredWait]
"""Waits of other sessions, by relation and kind of work."""


def find_stops(statements: Sequence[StatementReport], commit_ms: float, measured: Measured) -> list[Stop]:
    """Return the stops of a transaction with these statements, and with this duration of COMMIT."""
    stops = [stop for relation in _relations(statements) for stop in _stops_of(relation, statements, commit_ms)]
    stops = [_with_wait(stop, wait) if (wait := measured.get((stop.relation, stop.blocks))) else stop for stop in stops]
    return [*stops, *_unseen_stops(stops, statements, measured)]


def _with_wait(stop: Stop, wait: MeasuredWait) -> Stop:
    """Add a measured wait to a stop. A stop by a lock noticed much later begins then."""
    late = wait.began_ms - stop.started_ms
    if late <= _LATE_MS:
        return replace(stop, measured_ms=wait.duration_ms)
    duration = max(stop.duration_ms - late, 0.0)
    return replace(stop, started_ms=wait.began_ms, duration_ms=duration, measured_ms=wait.duration_ms)


def _unseen_stops(stops: Sequence[Stop], statements: Sequence[StatementReport], measured: Measured) -> Iterator[Stop]:
    """Yield stops by locks with an end inside a statement, after a caught exception: only other sessions see these."""
    known = {(stop.relation, stop.blocks) for stop in stops}
    for (relation, blocks), wait in measured.items():
        is_known = (relation, "reads") in known or (relation, blocks) in known
        is_weaker = blocks == "writes" and (relation, "reads") in measured
        before = [each for each in statements if each.started_ms <= wait.began_ms]
        if before and not is_known and not is_weaker:
            at, duration = before[-1].position, wait.duration_ms
            yield Stop(relation, blocks, wait.mode, wait.began_ms, duration, at, at, duration, duration)


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
    """The mode of a statement's lock against this work; empty without one."""
    if blocks == "rows":
        is_locking = any(change.relation == relation and change.locks_rows for change in statement.changes)
        return "ROW EXCLUSIVE" if is_locking else ""
    modes = (lock.mode for lock in statement.locks if _blocked_table(lock) == relation)
    return next((mode for mode in modes if blocked_by(mode) == blocks), "")


def _stop(relation: str, blocks: Blocked, statements: Sequence[StatementReport], commit_ms: float) -> Stop:
    """The stop from the first of some statements to the end of the transaction, or to the end of the lock."""
    first = statements[0]
    mode = _mode(first, relation, blocks)
    end = next((i for i, each in enumerate(statements) if _releases(each, relation, mode)), None)
    under_lock = statements if end is None else statements[: end + 1]
    longest = max(under_lock, key=lambda statement: statement.duration_ms)
    duration = sum(statement.duration_ms for statement in under_lock) + (commit_ms if end is None else 0)
    return Stop(
        relation, blocks, mode, first.started_ms, duration, first.position, longest.position, longest.duration_ms
    )


def _releases(statement: StatementReport, relation: str, mode: str) -> bool:
    """Return whether a lock ends with a statement: ROLLBACK TO SAVEPOINT gives back the younger locks."""
    return any(_blocked_table(lock) == relation and lock.mode == mode for lock in statement.released)
