"""From the statements of a transaction to the times for which tables are blocked."""

from __future__ import annotations

from pgratchet.rehearsal.report import Changes, Lock, Position
from pgratchet.rehearsal.stops import Measured, MeasuredWait, find_stops
from tests.unit.rehearsal.samples import EXCLUSIVE, REPORT, ROWS, SHARE, statement

ACCESS_SHARE = "ACCESS SHARE"


def test_a_lock_lasts_to_the_end_of_the_transaction() -> None:
    (stop,) = find_stops(
        [
            statement(1, "a", 0, 5, locks=(Lock("t", EXCLUSIVE),)),
            statement(2, "b", 5, 100, locks=(Lock("other", ACCESS_SHARE),)),
            statement(3, "c", 105, 7),
        ],
        2,
        {},
    )
    assert (stop.relation, stop.blocks, stop.duration_ms, stop.spent_ms) == ("t", "reads", 114, 100)
    assert (stop.locked_at, stop.spent_at) == (Position("002_release", 1), Position("002_release", 2))


def test_a_weaker_stop_counts_only_where_it_begins_earlier() -> None:
    statements = [
        statement(1, "a", 0, 1, changes=(Changes("t", updated=1),)),
        statement(2, "b", 1, 1, locks=(Lock("t", SHARE),)),
        statement(3, "c", 2, 1, locks=(Lock("t", EXCLUSIVE), Lock("t", SHARE))),
    ]
    assert [(s.blocks, s.locked_at.line, s.duration_ms) for s in find_stops(statements, 0, {})] == [
        ("reads", 3, 1),
        ("writes", 2, 2),
        ("rows", 1, 3),
    ]
    assert [s.blocks for s in find_stops(statements[2:], 0, {})] == ["reads"]


def test_new_rows_and_weak_locks_stop_nobody() -> None:
    inserted = statement(1, "a", 0, 50, locks=(Lock("t", ROWS),), changes=(Changes("t", inserted=5),))
    assert find_stops([inserted], 0, {}) == []


def test_a_locked_index_stops_its_table() -> None:
    (stop,) = find_stops([statement(1, "a", 0, 50, locks=(Lock("i", EXCLUSIVE, "t"),))], 0, {})
    assert (stop.relation, stop.blocks) == ("t", "reads")


def test_a_lock_that_was_noticed_late_begins_then() -> None:
    statements = [statement(1, "DO", 0, 400, locks=(Lock("t", EXCLUSIVE),))]
    (soon,) = find_stops(statements, 0, {("t", "reads"): MeasuredWait(9, 390, EXCLUSIVE)})
    assert (soon.started_ms, soon.duration_ms, soon.measured_ms, soon.is_confirmed) == (0, 400, 390, True)
    (late,) = find_stops(statements, 0, {("t", "reads"): MeasuredWait(200, 201, EXCLUSIVE)})
    assert (late.started_ms, late.duration_ms, late.measured_ms, late.is_confirmed) == (200, 200, 201, True)
    (wrong,) = find_stops(statements, 0, {("t", "reads"): MeasuredWait(9, 100, EXCLUSIVE)})
    assert wrong.is_confirmed is False


def test_the_tables_of_a_report_have_their_longest_stops_first() -> None:
    assert [(t.relation, round(t.blocks_reads_ms), round(t.blocks_writes_ms)) for t in REPORT.tables] == [
        ("public.users", 7823, 7823),
        ("public.events", 923, 923),
        ("public.small", 0, 23),
    ]
    assert REPORT.tables[0].spent_at == Position("002_release", 3)


def test_a_lock_that_ended_before_the_transaction_stops_until_then() -> None:
    lock = Lock("t", EXCLUSIVE)
    statements = [
        statement(1, "LOCK", 0, 1, locks=(lock,)),
        statement(2, "ROLLBACK TO", 1, 2, released=(lock,)),
        statement(3, "SELECT", 3, 600),
    ]
    (stop,) = find_stops(statements, 5, {})
    assert stop.duration_ms == 3


def test_a_lock_that_only_others_met_is_a_stop() -> None:
    statements = [statement(1, "SELECT", 0, 10), statement(2, "DO", 10, 500), statement(3, "SELECT", 510, 1)]
    wait = MeasuredWait(60, 400, EXCLUSIVE)
    waits: Measured = {("t", "reads"): wait, ("t", "writes"): wait}
    (stop,) = find_stops(statements, 0, waits)
    assert (stop.relation, stop.blocks, stop.duration_ms, stop.locked_at.line) == ("t", "reads", 400, 2)
