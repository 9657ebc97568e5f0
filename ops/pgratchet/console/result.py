"""The result of a target's run, and the JSON of `migrate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from typing_extensions import assert_never

from pgratchet import events
from pgratchet.console import commands
from pgratchet.errors import RatchetError


@dataclass(slots=True)
class RunResult:
    """The result of a run, built from the run's events. A failed run's result is complete too.

    Counts are None while unknown. `old_database` is the new name of the database replaced by a restore.
    """

    environment: str
    target: str
    run_id: str
    backup_id: str | None = None
    backup_path: str | None = None
    plan: tuple[str, ...] = ()
    applied: list[str] = field(default_factory=list)
    total: int | None = None
    pending: int | None = None
    duration_ms: int = 0
    database: str | None = None
    old_database: str | None = None
    error: RatchetError | None = None

    def take(self, event: events.Event) -> None:
        """Add an event of the run."""
        match event:
            case events.Planned():
                self.plan, self.total, self.pending = event.todo, event.total, event.pending
            case events.BackupTaken():
                self.backup_id, self.backup_path = event.backup_id, event.path
            case events.MigrationApplied():
                self.applied.append(event.name)
                self.pending = self.pending - 1 if self.pending else self.pending
            case events.Restored():
                self.database = event.database
            case events.Swapped():
                self.database, self.old_database = event.database, event.kept
            case events.Finished():
                self.total, self.pending = event.total, event.pending
            case (
                events.LockAwaited()
                | events.BatchSent()
                | events.StatementDone()
                | events.Retrying()
                | events.SnapshotsAwaited()
                | events.ServerNotice()
                | events.BackupProgress()
                | events.BackupRetried()
                | events.BackupsRemoved()
                | events.Compared()
            ):
                pass
            case _:
                assert_never(event)

    def as_json(self, *, plan: bool = False) -> dict[str, Any]:
        """The object of `migrate --json`, with the plan for a dry run."""
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
