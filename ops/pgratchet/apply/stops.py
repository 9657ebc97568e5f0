"""Builds the errors of a migration without a transaction: the statement, the effects so far, and the next step."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from pgratchet.apply.failures import describe, waited_for
from pgratchet.apply.numbered import NumberedStatements
from pgratchet.database.connection import error_details, first_line
from pgratchet.errors import HistoryDisagrees, Location, LockBusy, StoppedPartWay


def statement_failed(
    statements: NumberedStatements, number: int, error: psycopg.Error, *, opening: int, blockers: Sequence[str]
) -> StoppedPartWay:
    """A statement failed. `opening` is the length of our own text before the statement's, in characters."""
    position = error.diag.statement_position
    return _stop(
        statements,
        number,
        f": {describe(error)}",
        [*error_details(error), *waited_for(error, blockers)],
        "Fix the cause, or the file from there on, and run `invoke migrate` again: it goes on at that statement.",
        location=statements.locate(number, int(position) - opening if position else None, error.sqlstate),
    )


def kept_waiting(statements: NumberedStatements, number: int, holders: Sequence[str]) -> StoppedPartWay:
    """Open transactions, waited for by a statement, did not end in time."""
    return _stop(
        statements,
        number,
        ": open transactions would keep it waiting",
        [f"In its way is {holder}." for holder in holders],
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
        "Drop what it left, and run `invoke migrate` again:\n" + "\n".join(drops),
        location=statements.locate(number, sqlstate=error.sqlstate if error else None),
    )


def invalid_index(statements: NumberedStatements, number: int, index: str, repair: str | None) -> StoppedPartWay:
    """The index of a statement exists already, and is INVALID."""
    return _stop(
        statements,
        number,
        f": the index {index} is there already, and it is INVALID",
        ["An earlier build of it failed; it is not used, enforces nothing, and IF NOT EXISTS would pass it over."],
        f"Drop it, and run `invoke migrate` again:\n{repair}",
    )


def outcome_unknown(statements: NumberedStatements, number: int) -> StoppedPartWay:
    """A statement began, the end is not recorded, and the catalog cannot show an effect."""
    return _stop(
        statements,
        number,
        ", and whether that took effect is unknown",
        ["It was begun, its end was not heard of, and nothing in the catalog tells."],
        "See what it did. Then take it out of the file, or change it, and run `invoke migrate` again.",
    )


def part_changed(name: str, done: int) -> HistoryDisagrees:
    """Completed statements were changed in the file."""
    return HistoryDisagrees(
        f"{name} was changed in the part that has already run",
        detail=f"{_statements(done)} took effect before it stopped.",
        hint="Put that part back as it was; only what comes behind it can be changed.",
        location=Location(name),
    )


def resumed_by_other_run(statements: NumberedStatements, done: int) -> LockBusy:
    """The history row of the migration belongs to another run."""
    return LockBusy(
        f"another run has taken up {statements.name} while the connection was lost",
        detail=f"Statement {done} of {len(statements)} was the last that this one knows to be done.",
        hint="Wait for that run to end, then look at `invoke status`.",
        location=Location(statements.name),
    )


def row_missing(statements: NumberedStatements, done: int) -> HistoryDisagrees:
    """The history row of the migration does not exist any more."""
    return HistoryDisagrees(
        f"statement {done} of {len(statements)} of {statements.name} took effect, but its history row is gone",
        detail="The migration, or someone else meanwhile, has changed the history itself.",
        hint="See what it did before anything else is run; `invoke rollback` names the backup.",
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
) -> StoppedPartWay:
    location = location or statements.locate(number)
    effect = "No statement took effect." if number == 1 else f"{_statements(number - 1)} took effect, and that stays."
    return StoppedPartWay(
        f"migration {statements.name} stopped at statement {number} of {len(statements)},"
        f" line {location.line}, column {location.column}{reason}",
        detail="\n".join([*details, effect]),
        hint=hint,
        location=location,
    )


def _statements(count: int) -> str:
    return "Statement 1" if count == 1 else f"Statements 1 to {count}"
