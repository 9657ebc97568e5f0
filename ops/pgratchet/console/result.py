"""What a run of one target came to, gathered from its events; and the JSON of `migrate`.

Owns the gathering. Refuses to know who draws the events or shows the result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pgratchet import events
from pgratchet.console import commands
from pgratchet.errors import RatchetError


@dataclass(slots=True)
class RunResult:
    """What a run of one target came to, gathered from its events, complete even when it failed."""

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
    kept: str | None = None
    error: RatchetError | None = None

    def take(self, event: events.Event) -> None:
        if isinstance(event, events.Planned):
            self.plan, self.total, self.pending = event.todo, event.total, event.pending
        elif isinstance(event, events.BackupTaken):
            self.backup_id, self.backup_path = event.backup_id, event.path
        elif isinstance(event, events.MigrationApplied):
            self.applied.append(event.name)
            self.pending = self.pending - 1 if self.pending else self.pending
        elif isinstance(event, events.Restored):
            self.database = event.database
        elif isinstance(event, events.Swapped):
            self.database, self.kept = event.database, event.old_database
        elif isinstance(event, events.Finished):
            self.total, self.pending = event.total, event.pending

    def as_json(self, *, plan: bool = False) -> dict[str, Any]:
        """The shape of `migrate --json`; counts are null where the run did not come so far as to know them."""
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
