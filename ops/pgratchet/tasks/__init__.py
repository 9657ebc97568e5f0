"""The tasks, as an Invoke collection: flags in, one call, the result shown. The rules are in the other packages."""

from __future__ import annotations

from invoke.collection import Collection

from pgratchet.tasks import adopting, backups, checking, migrating, rehearsing, runs, schema, settings, squashing
from pgratchet.tasks.project import DEFAULTS

__all__ = ["ns"]

ns = Collection(
    migrating.migrate,
    migrating.status,
    migrating.doctor,
    migrating.new,
    backups.backup,
    backups.backups,
    backups.verify,
    backups.restore,
    backups.drill,
    rehearsing.rehearse,
    backups.rollback,
    runs.attach,
    runs.runs,
    runs.cancel,
    adopting.adopt,
    checking.ci,
    schema.snapshot,
    schema.drift,
    squashing.squash,
    settings.render,
    settings.up,
    settings.down,
)
ns.configure({"pgratchet": dict(DEFAULTS)})
