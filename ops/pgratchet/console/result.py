"""The result of a target's run, built from events, and the JSON of `migrate`.

An event that `take` does not handle is a type error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from typing_extensions import assert_never

from pgratchet import events
from pgratchet.console import commands
from pgratchet.errors import RatchetError
from pgratchet.formatting import were_applied


@dataclass(slots=True)
class RunResult:
    """The result of a target's run, also of a failed run.

    Counts are None while unknown. `location` says where the database is. `kept_database` is the new name of
    the database replaced by a restore.
    """

    environment: str
    target: str
    run_id: str
    backup_id: str | None = None
    backup_path: str | None = None
    left_out: tuple[str, ...] = ()
    plan: tuple[str, ...] = ()
    applied: list[str] = field(default_factory=list)
    total: int | None = None
    pending: int | None = None
    duration_ms: int = 0
    database: str | None = None
    kept_database: str | None = None
    is_swapped: bool = False
    not_restored: list[events.ItemNotRestored] = field(default_factory=list)
    error: RatchetError | None = None
    location: str = ""
    rehearsed_ms: int | None = None

    @property
    def title(self) -> str:
        """The environment, the target and, if known, where the target's database is."""
        return f"{self.environment}: {self.target}" + (f" ({self.location})" if self.location else "")

    def take(self, event: events.Event) -> None:
        """Add an event of the run."""
        match event:
            case events.Planned(todo, total, pending):
                self.plan, self.total, self.pending = todo, total, pending
            case events.BackupTaken() | events.LeftOut():
                self._take_backup(event)
            case events.MigrationApplied(name):
                self.applied.append(name)
                self.pending = self.pending - 1 if self.pending else self.pending
            case events.Restored() | events.ItemNotRestored() | events.Swapped():
                self._take_restored(event)
            case events.Finished(total, pending):
                self.total, self.pending = total, pending
            case (
                events.LockAwaited()
                | events.BatchSent()
                | events.MigrationBegun()
                | events.StatementDone()
                | events.Retrying()
                | events.SnapshotsAwaited()
                | events.ServerNotice()
                | events.BackupProgress()
                | events.BackupRetried()
                | events.BackupsRemoved()
                | events.RetentionSkipped()
                | events.SpaceLow()
                | events.RightsMissing()
                | events.Compared()
                | events.SessionsAwaited()
                | events.Rehearsed()
            ):
                pass  # progress, which a result does not have
            case _:
                assert_never(event)

    def _take_restored(self, event: events.Restored | events.ItemNotRestored | events.Swapped) -> None:
        match event:
            case events.Restored(database):
                self.database = database
            case events.ItemNotRestored():
                self.not_restored.append(event)
            case events.Swapped(database, kept_database):
                self.database, self.kept_database, self.is_swapped = database, kept_database, True

    def _take_backup(self, event: events.BackupTaken | events.LeftOut) -> None:
        if isinstance(event, events.LeftOut):
            self.left_out = event.objects
        else:
            self.backup_id, self.backup_path = event.backup_id, event.path

    @property
    def applied_so_far(self) -> str:
        """A sentence that names the migrations that were applied; empty without one."""
        return f"{were_applied(self.applied)}." if self.applied else ""

    def effects(self) -> str:
        """Sentences that say what a backup or a restore has done so far; empty when it has done nothing."""
        sentences = []
        if self.backup_path and not self.plan:
            sentences.append(f"The backup {self.backup_id} was taken.")
        if self.is_swapped:
            sentences.append(f'The database "{self.database}" was replaced by the backup.')
        if self.kept_database:
            sentences.append(f'The old one is kept as "{self.kept_database}".')
        return " ".join(sentences)

    def as_json(self, *, plan: bool = False) -> dict[str, Any]:
        """The object of `migrate --json`, with the plan for a dry run. Unknown counts are null."""
        shape: dict[str, Any] = {
            "env": self.environment,
            "target": self.target,
            "run_id": self.run_id,
            "backup": self.backup_id,
            "applied": self.applied,
            "total": self.total,
            "pending": self.pending,
            "duration_ms": self.duration_ms,
        }
        if plan:
            shape["plan"] = self.plan
        return shape | ({"error": commands.typed_error(self.error)} if self.error else {})
