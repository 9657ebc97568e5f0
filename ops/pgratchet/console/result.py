"""The result of one target's run, built from its events, and the JSON of `migrate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pgratchet import events
from pgratchet.console import commands
from pgratchet.errors import RatchetError


@dataclass(slots=True)
class RunResult:
    """The result of one target's run. It is complete even when the run failed."""

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
        """Add what an event says to the result."""
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
            case _:
                pass  # progress that a result does not record

    def as_json(self, *, plan: bool = False) -> dict[str, Any]:
        """The shape of `migrate --json`. Counts are null when the run ended before they were known."""
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
