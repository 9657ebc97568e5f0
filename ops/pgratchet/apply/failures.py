"""Builds the errors of a run: the failure, the effects so far, and the next step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import psycopg

from pgratchet.apply.retry import Retry
from pgratchet.database.connection import error_details, first_line
from pgratchet.database.history import failed_assertion
from pgratchet.errors import (
    HistoryDisagrees,
    Interrupted,
    Location,
    LockBusy,
    MigrationFailed,
    OutcomeUnknown,
    StoppedPartWay,
)
from pgratchet.formatting import join_names
from pgratchet.migrations.scripts import Script

if TYPE_CHECKING:
    from pgratchet.apply.batch import Failure


def migration_failed(
    error: psycopg.Error,
    failure: Failure,
    script: Script,
    *,
    applied: Sequence[str],
    backup_id: str | None,
    blockers: Sequence[str],
) -> MigrationFailed:
    """A migration in a transaction failed and was rolled back. `applied` are the migrations applied before."""
    location = failure.location
    at = "" if location.line is None else f" at line {location.line}, column {location.column}"
    before = f"{join_names(applied)} {_was(applied)} applied; " if applied else ""
    backup = f" The backup taken before this run is {backup_id}." if backup_id else ""
    details = [*error_details(error), *waited_for(error, blockers), f"{before}{script.name} was rolled back."]
    return MigrationFailed(
        f"migration {script.name} failed{at}: {describe(error)}",
        detail="\n".join(details),
        hint=f"{_advice(error)} {script.migration.path}; then run `invoke migrate` again.{backup}",
        location=location,
    )


def describe(error: psycopg.Error) -> str:
    """Return the text of our own assertion, or the server's message, in a line."""
    return failed_assertion(error) or first_line(error)


def waited_for(error: psycopg.Error, blockers: Sequence[str]) -> list[str]:
    """Describe the blockers of a statement in sentences, when a lock is the reason of the error."""
    return [f"It waited for {blocker}." for blocker in blockers if error.sqlstate in Retry.ERRORS]


def ended_own_transaction(name: str) -> StoppedPartWay:
    """After an error the history has an unfinished row of this run: the file has ended our transaction."""
    return StoppedPartWay(
        f"migration {name} ended its own transaction and then failed",
        detail="What came before that end took effect, and stays; its row in the history has no end.",
        hint="See what is there, and put it right by hand: finish the row, or undo that part and delete it.",
        location=Location(name),
    )


def begun_by_other_run(name: str) -> LockBusy:
    """The history has an unfinished row of another run."""
    return LockBusy(
        f"another run has begun {name} and not finished it",
        detail="Its row is in the history without an end.",
        hint="Wait for that run, then look at `invoke status`.",
        location=Location(name),
    )


def interrupted(signal: KeyboardInterrupt, applied: Sequence[str] | None) -> Interrupted:
    """A signal ended the run. `applied` are the migrations applied by then, None when the server did not answer."""
    if applied is None:
        effect = "What took effect could not be asked: `invoke status` tells."
    elif applied:
        stays = "stays" if len(applied) == 1 else "stay"
        effect = f"{join_names(applied)} {_was(applied)} applied, and {stays}."
    else:
        effect = "Nothing was applied."
    return Interrupted(
        signal,
        detail=f"{effect} What was under way was rolled back; a file without a transaction keeps what it finished.",
        hint="Run `invoke migrate` again to go on.",
    )


def not_in_history(names: Sequence[str]) -> HistoryDisagrees:
    """The server acknowledged the migrations, and the history has no finished rows of them."""
    return HistoryDisagrees(
        f"the server acknowledged {join_names(names)}, but the history has no finished row",
        detail="The migration must have ended its transaction or changed the history itself.",
        hint="See what it did before anything else is run; `invoke rollback` names the backup.",
        location=Location(names[0]),
    )


def not_known_to_server(names: Sequence[str]) -> OutcomeUnknown:
    """After reconnecting, the history lacks migrations committed by this run."""
    return OutcomeUnknown(
        f"the server that was returned to does not know of {join_names(names)}",
        detail="The connection was lost, and what this run had committed before is not in the history there: "
        "it was restored from an older state, or another server has taken its place.",
        hint="Find out which server is the right one before anything else is run.",
        location=Location(names[0]),
    )


def _was(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"


def _advice(error: psycopg.Error) -> str:
    """Return the beginning of the hint; the name of the file follows."""
    if error.sqlstate is None or error.sqlstate.startswith("57P"):
        return "The connection was lost, which need not be the fault of"
    if failed_assertion(error):
        return "It must leave its own row of the history, and its transaction, alone: fix"
    if error.sqlstate == "57014":
        return "Give it time with `-- migrate: statement-timeout=5min` in"
    if error.sqlstate in Retry.ERRORS:
        return "See who holds the lock, or give it time with `-- migrate: lock-timeout=10s` in"
    return "Fix"
