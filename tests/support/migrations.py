"""Writing migrations, running them in this process, and reading the history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.database.history import History
from pgratchet.errors import RatchetError
from pgratchet.events import Event, MigrationApplied
from pgratchet.migrations import files as migrations
from pgratchet.migrations.files import Migration
from tests.servers.databases import Database

HISTORY = History()
WriteMigrations = Callable[..., tuple[migrations.Migration, ...]]
WriteRepeatables = Callable[..., tuple[migrations.Migration, ...]]


@dataclass
class RunEvents:
    """The events of a run."""

    events: list[Event]

    @property
    def applied(self) -> list[str]:
        return [e.name for e in self.events if isinstance(e, MigrationApplied)]

    def of(self, kind: type[Event]) -> list[Event]:
        return [e for e in self.events if isinstance(e, kind)]


def migrate(
    database: Database, files: Sequence[Migration], backup: applier.Backup | None = None, **options: object
) -> RunEvents:
    """Run migrations in this process, with `options` of MigrateOptions. The database may have tables already."""
    return RunEvents(list(applier.migrate(database.connect, HISTORY, files, backup, _options(options))))


def _options(options: dict[str, object]) -> MigrateOptions:
    return MigrateOptions(**{"run_id": "run", "not_empty": True, **options})  # type: ignore[arg-type]


def history(database: Database) -> list[tuple[object, ...]]:
    """The names in the history, and whether each is finished. Empty if there is no history table."""
    if database.rows("SELECT to_regclass('ratchet.migrations')") == [(None,)]:
        return []
    return database.rows("SELECT name, executed_at IS NOT NULL FROM ratchet.migrations ORDER BY id")


class Attempt:
    """A run that may fail, to be run in a thread. Keeps its events and a RatchetError; other errors are raised."""

    def __init__(self, database: Database, files: Sequence[Migration], **options: object) -> None:
        self._stream = applier.migrate(database.connect, HISTORY, files, None, _options(options))
        self.ran = RunEvents([])
        self.error: RatchetError | None = None

    def run(self) -> Attempt:
        try:
            for event in self._stream:
                self.ran.events.append(event)
        except RatchetError as error:
            self.error = error
        return self

    @property
    def applied(self) -> list[str]:
        return self.ran.applied
