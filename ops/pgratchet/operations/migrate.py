"""Reads the history of a target and applies migrations to it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgratchet.database.target import Target
from pgratchet.errors import HistoryDisagrees
from pgratchet.migrations.files import Migration
from pgratchet.migrations.plan import HistoryRow
from pgratchet.migrations.repeatables import file_name_of_row
from pgratchet.operations.base import Machine

if TYPE_CHECKING:
    from psycopg import Connection

    from pgratchet.apply.applier import PreparedRun
    from pgratchet.apply.run import MigrateOptions
    from pgratchet.events import Stream


@dataclass(frozen=True, slots=True)
class AppliedMigrations:
    """The rows of the history, and phrases that warn the user about it."""

    rows: tuple[HistoryRow, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadHistory:
    """Read the history; HistoryDisagrees when it is replicated from another database.

    With `check_server`, raise ConfigurationError where migrations must not run.

    With `must_be_empty` too, raise HistoryDisagrees for a database that is not empty though its history is.
    `without_first` is for the hint about such a database: no file has a version as small as 001.
    """

    check_server: bool = False
    must_be_empty: bool = False
    without_first: bool = True

    def run(self, target: Target, machine: Machine) -> AppliedMigrations:
        if self.check_server:
            from pgratchet.apply import applier

            pinned = target.variables.pg_system_identifier
            rows = applier.read_history(
                target.connect,
                target.history,
                pinned,
                target.identity,
                must_be_empty=self.must_be_empty,
                without_first=self.without_first,
            )
            return AppliedMigrations(tuple(rows))
        from pgratchet.database import contents
        from pgratchet.database.replication import read_own_rows

        with target.connected() as connection:
            rows, replication = read_own_rows(connection, target.history, target.identity)
            warnings = (
                replication.warning(target.history),
                "" if rows else contents.warning(connection, target.history, without_first=self.without_first),
            )
        return AppliedMigrations(tuple(rows), tuple(filter(None, warnings)))


@dataclass(frozen=True, slots=True)
class ReadTexts:
    """Read the texts of applied migrations, by name, as far as the history has them."""

    names: tuple[str, ...]

    def run(self, target: Target, machine: Machine) -> dict[str, str]:
        with target.connected() as connection:
            return target.history.read_bodies(connection, self.names)


@dataclass(frozen=True, slots=True)
class TransferredMigration(Migration):
    """A migration that was sent to a host. Only those that were pending when they were sent have their text."""

    body: bytes | None = None

    def text(self) -> bytes:
        if self.body is None:
            raise HistoryDisagrees(
                f"the history no longer has {self.name}",
                detail="It was applied when this run read the history, and is pending now.",
                hint="Run `invoke status` to see the present state.",
            )
        return self.body


@dataclass(frozen=True, slots=True)
class Migrate:
    """Apply what is pending of the files. The first event is Planned, the last one Finished.

    `without_backup` is the reason for running without a backup. With `stops_at_contract`, the run ends before the first
    contract file. With `not_empty`, the first run is allowed on a
    database that has tables already.
    """

    run_id: str
    files: tuple[TransferredMigration, ...]
    to: str | None = None
    without_backup: str | None = None
    not_empty: bool = False
    stops_at_contract: bool = False

    def run(self, target: Target, machine: Machine) -> Stream:
        with prepare(target, machine, self.files, self) as run:
            yield run.planned
            yield from run.apply()


def prepare(
    target: Target, machine: Machine, files: Sequence[Migration], request: Migrate
) -> AbstractContextManager[PreparedRun]:
    """Connect and plan a run of the files. The block may show the plan, ask for consent and call `apply()`."""
    from pgratchet.apply import applier
    from pgratchet.operations.backups import take_backup

    def backup(connection: Connection) -> Stream:
        return take_backup(target, machine, connection)

    needed = needs_backup(target, request.without_backup)
    options = _options(target, request)
    return applier.prepare(target.connect, target.history, files, backup if needed else None, options)


def needs_backup(target: Target, without_backup: str | None) -> bool:
    """Return whether a run may need a backup. An unusable pgpass template is reported here, before any connection."""
    from pgratchet.apply import applier

    needed = applier.needs_backup(target.variables.backup_policy, without_backup)
    if needed:
        target.pgpass(masked=True)
    return needed


def _options(target: Target, request: Migrate) -> MigrateOptions:
    from pgratchet.apply.run import MigrateOptions

    variables = target.variables
    return MigrateOptions(
        run_id=request.run_id,
        to=request.to,
        stops_at_contract=request.stops_at_contract,
        without_backup=request.without_backup,
        wait=variables.migration_timeout,
        lock_timeout=variables.lock_timeout,
        statement_timeout=variables.migration_timeout,
        batch_size=variables.migration_batch_size,
        pinned_identifier=variables.pg_system_identifier,
        only_destructive=variables.backup_policy == "when-destructive",
        not_empty=request.not_empty,
        identity=target.identity,
    )


@dataclass(frozen=True, slots=True)
class SettleRun:
    """Wait until no run is under way and read the rows that one run wrote: the outcome of a run that was lost."""

    run_id: str
    names: tuple[str, ...]

    def run(self, target: Target, machine: Machine) -> tuple[HistoryRow, ...]:
        from pgratchet.database.connection import translate_errors
        from pgratchet.database.session import Session

        variables = target.variables
        wait, pinned = variables.migration_timeout, variables.pg_system_identifier
        session = Session(target.connect, target.history, wait, 0, pinned, target.identity)
        with translate_errors(), closing(session):
            session.open()
            for _ in session.lock():
                pass
            connection, history = session.connection, target.history
            rows = [row.name for row in history.read(connection) if file_name_of_row(row.name) in self.names]
            return tuple(history.read_run(connection, self.run_id, rows))
