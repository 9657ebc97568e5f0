"""Builds the errors of a migration without a transaction: the statement, the effects so far, and the next step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import psycopg

from pgratchet.apply.diagnosis import Diagnosis
from pgratchet.apply.failures import describe, missing_role, waited_for, what_is_missing
from pgratchet.apply.numbered import NumberedStatements
from pgratchet.database.connection import error_details, first_line
from pgratchet.errors import HistoryDisagrees, Location, LockBusy, StoppedPartWay


def statement_failed(
    statements: NumberedStatements, number: int, error: psycopg.Error, *, opening: int, blockers: Sequence[str]
) -> StoppedPartWay:
    """A statement failed. `opening` is the length of our own text before the statement's, in characters."""
    diagnosis = Diagnosis.of(error)
    if diagnosis.position is not None:
        diagnosis = replace(diagnosis, position=diagnosis.position - opening)
    location = statements.locate(number, diagnosis)
    stopped = _stop(
        statements,
        number,
        f": {describe(error)}",
        [*error_details(error), *waited_for(error, blockers)],
        f"{what_is_missing(error, location) or 'Fix the cause, or the file from there on'}. "
        "Then run `invoke migrate` again: it continues at that statement.",
        location=location,
    )
    stopped.missing_role = missing_role(error)
    return stopped


def kept_waiting(statements: NumberedStatements, number: int, holders: Sequence[str]) -> StoppedPartWay:
    """Open transactions, waited for by a statement, did not end in time."""
    return _stop(
        statements,
        number,
        ": open transactions would keep it waiting",
        [f"It would wait for {holder}." for holder in holders],
        "Wait for them to end, or end them with pg_terminate_backend; then run `invoke migrate` again.",
    )


def reindex_left(
    statements: NumberedStatements,
    number: int,
    error: psycopg.Error | None,
    indexes: Sequence[tuple[str, str]],
    drops: Sequence[str],
) -> StoppedPartWay:
    """An interrupted REINDEX CONCURRENTLY left INVALID indexes; the statements `drops` remove them."""
    return _stop(
        statements,
        number,
        f": {first_line(error)}" if error else ": an earlier REINDEX CONCURRENTLY broke off",
        [f"It left the INVALID index {'.'.join(index)}." for index in indexes],
        "Drop these indexes, and run `invoke migrate` again:\n" + "\n".join(drops),
        location=statements.locate(number, Diagnosis(sqlstate=error.sqlstate if error else None)),
    )


def invalid_index(statements: NumberedStatements, number: int, index: str, repair: str | None) -> StoppedPartWay:
    """The index of a statement exists already, and is INVALID."""
    return _stop(
        statements,
        number,
        f": the index {index} is there already, and it is INVALID",
        ["An earlier build failed. Queries do not use it, it enforces no constraint, and IF NOT EXISTS keeps it."],
        f"Drop it, and run `invoke migrate` again:\n{repair}",
    )


def name_taken(statements: NumberedStatements, number: int, index: str) -> StoppedPartWay:
    """A statement with IF NOT EXISTS created no index, because the name is that of another object."""
    return _stop(
        statements,
        number,
        f": no index was created, because the name {index} is taken",
        ["Another object of the schema has this name, and IF NOT EXISTS ignores the statement."],
        "Choose another name in the file, and run `invoke migrate` again.",
    )


def outcome_unknown(statements: NumberedStatements, number: int) -> StoppedPartWay:
    """A statement began, the end is not recorded, and the catalog cannot show an effect."""
    return _stop(
        statements,
        number,
        ", and whether that took effect is unknown",
        ["The statement began, its end was not reported, and the catalog does not show its effect."],
        "Check what it did. Replace it in the file by what is left to do or by SELECT 1. Then run `invoke migrate`.",
        is_known=False,
    )


def part_changed(name: str, done: int) -> HistoryDisagrees:
    """Completed statements were changed in the file."""
    return HistoryDisagrees(
        f"{name} was changed in the part that has already run",
        detail=f"{_statements(done)} took effect before it stopped.",
        hint="Restore that part of the file; only the statements after it can be changed.",
        location=Location(name),
    )


def resumed_by_other_run(statements: NumberedStatements, done: int) -> LockBusy:
    """The history row of the migration belongs to another run."""
    return LockBusy(
        f"another run resumed {statements.name} while the connection was lost",
        detail=f"The last statement that this run completed is {done} of {len(statements)}.",
        hint="Wait for that run to end, then run `invoke status`.",
        location=Location(statements.name),
    )


def row_missing(statements: NumberedStatements, done: int) -> HistoryDisagrees:
    """The history row of the migration does not exist any more."""
    return HistoryDisagrees(
        f"statement {done} of {len(statements)} of {statements.name} took effect, but its history row is gone",
        detail="The migration, or another session, changed the history table.",
        hint="Check what it did before you run anything else; `invoke rollback` names the backup.",
        location=Location(statements.name),
    )


def _stop(
    statements: NumberedStatements,
    number: int,
    reason: str,
    details: Sequence[str],
    hint: str,
    *,
    location: Location | None = None,
    is_known: bool = True,
) -> StoppedPartWay:
    """The error of a stop at a statement; `is_known`: that statement had no effect."""
    location = location or statements.locate(number)
    if number > 1:
        effect = f"{_statements(number - 1)} took effect and {'stays' if number == 2 else 'stay'}."
    else:
        effect = "No statement took effect." if is_known else "It is the first statement of the file."
    place = f"statement {number} of {len(statements)}, {location.describe()}"
    return StoppedPartWay(
        f"migration {statements.name} stopped at {place}{reason}",
        detail="\n".join([*details, effect]),
        hint=hint,
        location=location,
    )


def _statements(count: int) -> str:
    return "Statement 1" if count == 1 else f"Statements 1 to {count}"
