"""Builds the errors of a run: the failure, the effects so far, and the next step."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import psycopg

from pgratchet.apply.diagnosis import Diagnosis
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
    role_advice,
)
from pgratchet.formatting import join_names, was_or_were, were_applied
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
    rolled_back: Sequence[str],
) -> MigrationFailed:
    """A migration in a transaction failed and was rolled back. `applied` are the migrations applied before."""
    location = failure.location
    at = "" if location.line is None else f" at {location.describe()}"
    before = f"{were_applied(applied)}; " if applied else ""
    backup = f" The backup taken before this run is {backup_id}." if backup_id else ""
    advice = what_is_missing(error, location) or f"{_advice(error, script)} {script.migration.path}"
    unclosed = ["The parenthesis there is not closed."] if failure.unclosed else []
    details = [*unclosed, *error_details(error), *waited_for(error, blockers)]
    failed = MigrationFailed(
        f"migration {script.name} failed{at}: {describe(error)}",
        detail="\n".join([*details, f"{before}{join_names(rolled_back)} {was_or_were(rolled_back)} rolled back."]),
        hint=f"{advice}; then run `invoke migrate` again.{backup}",
        location=location,
    )
    failed.missing_role = missing_role(error)
    return failed


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
        detail="The statements before that end are committed, and its history row is unfinished.",
        hint="Check what it changed. Then finish its history row by hand, or undo the changes and delete the row.",
        location=Location(name),
    )


def begun_by_other_run(name: str) -> LockBusy:
    """The history has an unfinished row of another run."""
    return LockBusy(
        f"another run began {name} and did not finish it",
        detail="Its history row is unfinished.",
        hint="Wait for that run to end, then run `invoke status`.",
        location=Location(name),
    )


def interrupted(signal: KeyboardInterrupt, applied: Sequence[str] | None) -> Interrupted:
    """A signal ended the run. `applied` are the migrations applied by then, None when the server did not answer."""
    if applied is None:
        effect = "The server could not be asked what took effect: run `invoke status`."
    elif applied:
        stays = "stays" if len(applied) == 1 else "stay"
        effect = f"{were_applied(applied)} and {stays}."
    else:
        effect = "Nothing was applied."
    return Interrupted(
        signal,
        detail=f"{effect} The statement that was running was rolled back. A file without a transaction keeps its "
        "finished statements.",
        hint="Run `invoke migrate` again to continue.",
    )


def not_in_history(names: Sequence[str]) -> HistoryDisagrees:
    """The server acknowledged the migrations, and the history has no finished rows of them."""
    return HistoryDisagrees(
        f"the server acknowledged {join_names(names)}, but the history has no finished row",
        detail="The migration ended its transaction, or changed the history table.",
        hint="Check what it did before you run anything else; `invoke rollback` names the backup.",
        location=Location(names[0]),
    )


def not_known_to_server(names: Sequence[str]) -> OutcomeUnknown:
    """After reconnecting, the history lacks migrations committed by this run."""
    return OutcomeUnknown(
        f"the server has lost {join_names(names)}",
        detail="After the connection was lost and made again, earlier commits of this run are not in the history: "
        "the server was restored from an older state, or is another server.",
        hint="Check which server is the right one before you run anything else.",
        location=Location(names[0]),
    )


def what_is_missing(error: psycopg.Error, location: Location) -> str | None:
    """Return the beginning of the hint when the server lacks what the file needs, and the file may be right."""
    name = f'"{quoted}"' if (quoted := Diagnosis.of(error).quoted) else "it"
    is_extension = re.search(r"\bextension\b", location.before + location.after, re.IGNORECASE)
    if is_extension and error.sqlstate in ("0A000", "58P01", "22023"):
        return (
            "List the extensions that the server has with `SELECT * FROM pg_available_extensions`. Install the missing "
            "one on the server's host, or set DATABASE_URL to a server that has it"
        )
    if error.sqlstate == "3F000":
        return (
            f"Create the schema {name} in this file or an earlier one, or set DATABASE_URL if this is not the database "
            "that you mean"
        )
    if role := missing_role(error):
        return role_advice(role)
    if error.sqlstate == "42501":
        return "Let an administrator grant the right to the role of this environment, or do this step as the owner"
    return None


def missing_role(error: psycopg.Error) -> str:
    """Return the name of the role that the server lacks; an empty text for another error."""
    if error.sqlstate != "42704" or not first_line(error).startswith("role "):
        return ""
    return Diagnosis.of(error).quoted or ""


def _advice(error: psycopg.Error, script: Script) -> str:
    """Return the beginning of the hint; the name of the file follows."""
    if error.sqlstate is None or error.sqlstate.startswith("57P"):
        return "Find the reason in the server's log, and check"
    if failed_assertion(error):
        return "Remove what changes the history table or ends the transaction from"
    if error.sqlstate == "57014":
        return "Allow more time with `-- migrate: statement-timeout=5min` in"
    if error.sqlstate in ("25001", "2D000"):
        return _outside_transaction(error, script)
    if error.sqlstate == "55P04":
        return "Move what uses the new value to a later migration: change"
    if error.sqlstate in Retry.ERRORS:
        return "Find the session that holds the lock, or wait longer with `-- migrate: lock-timeout=10s` in"
    return "Fix"


def _outside_transaction(error: psycopg.Error, script: Script) -> str:
    """The beginning of the hint for a statement that cannot run in a transaction."""
    if script.is_repeatable:
        return "Put that statement into a versioned migration with the line `-- migrate: no-transaction`: change"
    if error.sqlstate == "25001" and error.diag.context:  # where no transaction block, but a function, is around it
        return "Take the statement out of its function or DO block, and put it into a file without a transaction: fix"
    return "Put the line `-- migrate: no-transaction` above all statements of"
