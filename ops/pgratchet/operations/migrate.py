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
from pgratchet.operations.base import Machine

if TYPE_CHECKING:
    from psycopg import Connection

    from pgratchet.apply.applier import PreparedRun
    from pgratchet.apply.run import MigrateOptions
    from pgratchet.events import Stream


@dataclass(frozen=True, slots=True)
class ReadHistory:
    """Read the history. With `check_server`, raise ConfigurationError where migrations must not run."""

    check_server: bool = False

    def run(self, target: Target, machine: Machine) -> tuple[HistoryRow, ...]:
        if self.check_server:
            from pgratchet.apply import applier

            return tuple(applier.read_history(target.connect, target.history, target.variables.pg_system_identifier))
        with target.connected() as connection:
            return tuple(target.history.read(connection))


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
                f"the history lost {self.name} since it was read",
                detail="It was applied a moment ago, and now it is pending.",
                hint="Run `invoke status` to see what is there now.",
            )
        return self.body


@dataclass(frozen=True, slots=True)
class Migrate:
    """Apply what is pending of the files. The first event is Planned, the last one Finished."""

    run_id: str
    files: tuple[TransferredMigration, ...]
    to: str | None = None
    without_backup: str | None = None

    def run(self, target: Target, machine: Machine) -> Stream:
        with prepare(target, machine, self.files, self.run_id, self.to, self.without_backup) as run:
            yield run.planned
            yield from run.apply()


def prepare(
    target: Target,
    machine: Machine,
    files: Sequence[Migration],
    run_id: str,
    to: str | None,
    without_backup: str | None,
) -> AbstractContextManager[PreparedRun]:
    """Connect and plan a run. The block may show the plan, ask for consent and call `apply()`."""
    from pgratchet.apply import applier
    from pgratchet.operations.backups import take_backup

    def backup(connection: Connection) -> Stream:
        return take_backup(target, machine, connection)

    needed = needs_backup(target, without_backup)
    options = _options(target, run_id, to, without_backup)
    return applier.prepare(target.connect, target.history, files, backup if needed else None, options)


def needs_backup(target: Target, without_backup: str | None) -> bool:
    """Return whether a run may need a backup. An unusable pgpass template is reported here, before any connection."""
    from pgratchet.apply import applier

    needed = applier.needs_backup(target.variables.backup_policy, without_backup)
    if needed:
        target.pgpass(masked=True)
    return needed


def _options(target: Target, run_id: str, to: str | None, without_backup: str | None) -> MigrateOptions:
    from pgratchet.apply.run import MigrateOptions

    variables = target.variables
    return MigrateOptions(
        run_id=run_id,
        to=to,
        without_backup=without_backup,
        wait=variables.migration_timeout,
        lock_timeout=variables.lock_timeout,
        statement_timeout=variables.migration_timeout,
        batch_size=variables.migration_batch_size,
        pinned_identifier=variables.pg_system_identifier,
        only_destructive=variables.backup_policy == "when-destructive",
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
        session = Session(
            target.connect, target.history, variables.migration_timeout, 0, variables.pg_system_identifier
        )
        with translate_errors(), closing(session):
            session.open()
            for _ in session.lock():
                pass
            return tuple(target.history.read_run(session.connection, self.run_id, self.names))
