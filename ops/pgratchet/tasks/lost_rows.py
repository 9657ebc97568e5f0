"""Runs `restore --show-lost` and `restore --export-lost`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pgratchet.console.lost_rows import show_counted_losses, show_lost_rows
from pgratchet.errors import ConfigurationError
from pgratchet.remote import dispatch
from pgratchet.tasks.flags import whole_number

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgratchet.config.inventory import InventoryTarget
    from pgratchet.config.settings import RenderedTarget
    from pgratchet.operations.lost_rows import ExportLostRows, FindLostRows
    from pgratchet.tasks.project import Project

_DEFAULT_MAX_SIZE = 1000
"""The largest size of an export of lost rows, in megabytes."""


@dataclass(frozen=True, slots=True)
class LostRowsRequest:
    """The flags of the task. `max_size` is in megabytes."""

    env: str | None
    limit: str | None
    backup: str | None
    export_to: str | None
    old: str | None
    max_size: int


def max_size_of(text: str | None) -> int:
    """The value of --max-size, in megabytes."""
    hint = f"Give megabytes, such as --max-size={_DEFAULT_MAX_SIZE}."
    return _DEFAULT_MAX_SIZE if text is None else whole_number("max_size", text, hint=hint)


def report_lost_rows(
    project: Project,
    request: LostRowsRequest,
    settings: Callable[[InventoryTarget], RenderedTarget],
    *,
    json: bool,
) -> None:
    """Show what a restore would lose or has lost. Changes nothing in any database.

    `settings` are those to restore a target with.
    """
    if request.backup is not None:
        _count(project, request, request.backup, settings, json=json)
        return
    targets = project.targets(request.env, request.limit)
    if request.export_to is not None and len(targets) > 1:
        raise ConfigurationError(
            "the rows of only one target can be exported",
            detail=f"{len(targets)} targets: {', '.join(entry.name for entry in targets)}.",
            hint="Choose one with --limit=NAME.",
        )
    for entry in targets:
        target = settings(entry)
        losses = dispatch.ask(target, _operation(target, request), project.root)
        show_lost_rows(target.environment, target.target, losses, request.export_to, json=json)


def _operation(target: RenderedTarget, request: LostRowsRequest) -> FindLostRows | ExportLostRows:
    from pgratchet.operations.lost_rows import ExportLostRows, FindLostRows

    if request.export_to is None:
        return FindLostRows(request.old)
    if target.variables.reach == "ssh":
        raise ConfigurationError(
            f"{target.environment}: the lost rows of {target.target} cannot be exported from here",
            detail="With reach: ssh the comparison runs on the host, and the files would be written there.",
            hint="Set reach: tunnel for this target in the inventory, and run the command again. `--show-lost` works "
            "without it.",
        )
    return ExportLostRows(Path(request.export_to), request.max_size * 1_000_000, request.old)


def _count(
    project: Project,
    request: LostRowsRequest,
    backup_id: str,
    settings: Callable[[InventoryTarget], RenderedTarget],
    *,
    json: bool,
) -> None:
    from pgratchet.backups.listing import require_manifest
    from pgratchet.backups.manifest import dumps
    from pgratchet.operations.lost_rows import CountLosses

    if request.export_to is not None or request.old is not None:
        raise ConfigurationError(
            "--backup compares counts, so it has no rows to export",
            detail="Before a restore there is only one database. After it, the old database is kept with all its rows.",
            hint="Leave out --backup to compare the database that the last restore kept. Before a restore use "
            "--show-lost alone.",
        )
    chosen = project.choose_backup(request.env, request.limit, backup_id)
    target, manifest = settings(chosen.target), require_manifest(chosen.entry)
    losses = dispatch.ask(target, CountLosses(dumps(manifest).decode()), project.root)
    show_counted_losses(target.environment, target.target, manifest.backup_id, losses, json=json)
