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


@dataclass(slots=True)
class RunResult:
    """The result of a target's run, also of a failed run.

    Counts are None while unknown. `kept_database` is the new name of the database replaced by a restore.
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
    kept_database: str | None = None
    error: RatchetError | None = None

    def take(self, event: events.Event) -> None:
        """Add an event of the run."""
        match event:
            case events.Planned(todo, total, pending):
                self.plan, self.total, self.pending = todo, total, pending
            case events.BackupTaken(backup_id, path):
                self.backup_id, self.backup_path = backup_id, path
            case events.MigrationApplied(name):
                self.applied.append(name)
                self.pending = self.pending - 1 if self.pending else self.pending
            case events.Restored(database):
                self.database = database
            case events.Swapped(database, kept_database):
                self.database, self.kept_database = database, kept_database
            case events.Finished(total, pending):
                self.total, self.pending = total, pending
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
                pass  # progress, which a result does not have
            case _:
                assert_never(event)

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
