"""Finds what a restore loses or has lost: by counts before it, row by row after it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pgratchet.backups.lost_counts import CountedLosses
from pgratchet.backups.lost_rows import Losses
from pgratchet.database.target import Target
from pgratchet.operations.base import Machine

if TYPE_CHECKING:
    from pgratchet.backups.lost_rows import Write


@dataclass(frozen=True, slots=True)
class CountLosses:
    """Compare the counts of the live database with those in a manifest."""

    manifest: str

    def run(self, target: Target, machine: Machine) -> CountedLosses:
        from pgratchet.backups import lost_counts, manifest
        from pgratchet.backups.restore_server import translate_errors

        with translate_errors():
            return lost_counts.count_losses(target.connect, target.history, manifest.loads(self.manifest.encode()))


@dataclass(frozen=True, slots=True)
class FindLostRows:
    """Compare a database that a restore kept with the live one; without a name, the newest that a swap replaced."""

    old: str | None = None

    def run(self, target: Target, machine: Machine) -> Losses:
        from pgratchet.backups.lost_rows import count

        return _find(target, self.old, count)


@dataclass(frozen=True, slots=True)
class ExportLostRows:
    """Write the lost rows into a new folder of this machine. `limit` is in bytes."""

    folder: Path
    limit: int
    old: str | None = None

    def run(self, target: Target, machine: Machine) -> Losses:
        from pgratchet.backups.lost_rows_export import LostRowsExport

        export = LostRowsExport(self.folder, self.limit)
        losses = _find(target, self.old, export.write)
        # The port of a tunnel is another one each time.
        names = ("user",) if target.variables.reach == "tunnel" else ("host", "port", "user")
        export.finish(losses, {name: target.connection.get(name, "") for name in names})
        return losses


def _find(target: Target, old: str | None, write: Write) -> Losses:
    from pgratchet.backups.kept_databases import list_kept_databases
    from pgratchet.backups.lost_rows import choose_old_database, find_losses
    from pgratchet.backups.restore_server import translate_errors
    from pgratchet.operations.restore import restore_server

    server, live = restore_server(target), target.connection["dbname"]
    name = choose_old_database(list_kept_databases(server, live), live, old)
    with translate_errors():
        return find_losses(lambda: server.open_session(name), lambda: server.open_session(live), target.history, write)
