"""Finds the project's folders and targets from Invoke's configuration, for one call of a task.

Paths are configured under the key `pgratchet` (see `DEFAULTS`) with `ns.configure`, invoke.yaml or INVOKE_PGRATCHET_...
environment variables, and are relative to the project: the folder of its tasks.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pgratchet.config import inventory, settings
from pgratchet.config.inventory import InventoryTarget
from pgratchet.config.settings import RenderedTarget
from pgratchet.console import commands, output
from pgratchet.database.target import TargetStorage
from pgratchet.variables import DatabaseVariables, StorageVariables, Variables

if TYPE_CHECKING:
    from invoke.context import Context

    from pgratchet.backups.listing import BackupEntry
    from pgratchet.backups.store import Store

_T = TypeVar("_T")

DEFAULTS = {"sql": "sql", "inventory": "inventory", "templates": "templates", "backups": "backups"}
"""The folders of a project, by their configuration keys."""


@dataclass
class Project:
    """The project that uses pgratchet. `open_until_end` closes what a task opened, when the task ends."""

    root: Path
    folders: Mapping[str, str]
    open_until_end: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def of(cls, context: Context) -> Project:
        """The project of a task's call. Without a tasks.py, as in the program `pgratchet`, it is the working folder."""
        # Invoke gives tasks no public name for the folder that it loaded tasks.py from.
        prefix = getattr(context.config, "_project_prefix", None)
        root = Path(os.path.relpath(prefix)) if prefix else Path()
        configured = context.config.get("pgratchet", {})
        return cls(root, {name: str(configured.get(name, default)) for name, default in DEFAULTS.items()})

    def sql(self, folder: str | None) -> Path:
        """The folder of migrations: the one that a flag names, relative to the working folder, or the project's."""
        return Path(folder) if folder else self.root / self.folders["sql"]

    @property
    def templates(self) -> Path:
        return self.root / self.folders["templates"]

    @cached_property
    def environ(self) -> dict[str, str]:
        """The environment variables that the inventory may read."""
        return dict(os.environ)

    def targets(self, env: str | None, limit: str | None = None) -> tuple[InventoryTarget, ...]:
        """The targets of an environment: the one that a flag names, else $OPS_ENV, else dev."""
        name = env or self.environ.get("OPS_ENV") or "dev"
        targets = inventory.load(self.root / self.folders["inventory"], name, limit)
        return tuple(replace(t, variables={"backup_dir": self.folders["backups"], **t.variables}) for t in targets)

    def connect_settings(self, target: InventoryTarget, *, start: bool, connects: bool = True) -> RenderedTarget:
        """A target's rendered settings.

        Its bundled server, if any, is started, or without `start` must run already. Its tunnel, if any, is opened when
        the target is going to be connected to.
        """

        def embedded_server() -> Mapping[str, str]:
            return self._embedded_server(target, start)

        tunnel = self._open_tunnel if connects else None
        return settings.render_target(target, self.templates, self.environ, embedded_server, tunnel)

    def _embedded_server(self, target: InventoryTarget, start: bool) -> Mapping[str, str]:
        from pgratchet import embedded

        server = embedded.locate(self.root, target.environment, make=start)
        if not start:
            return embedded.attach(server)
        if embedded.start(server, self.variables(target, DatabaseVariables).pg_dbname):
            name = target.environment
            output.talk(commands.typed(f"started PostgreSQL for {name}; invoke down --env={name} stops it"))
        return server.parameters()

    def _open_tunnel(self, variables: Variables, host: str, port: int, hidden: frozenset[str]) -> int:
        from pgratchet.remote.tunnel import open_tunnel

        return self.open_until_end.enter_context(open_tunnel(variables, host, port, hidden))

    def variables(self, target: InventoryTarget, kind: type[_T]) -> _T:
        """One group of a target's variables, for work that does not connect."""
        return settings.group_of(target, kind, self.environ)

    def storage(self, target: InventoryTarget) -> TargetStorage:
        """Where a target's backups are kept, without its connection settings."""
        return TargetStorage(target.environment, target.name, self.variables(target, StorageVariables))

    def backup_store(self, target: InventoryTarget) -> Store:
        """The store of a target's backups, wherever they are kept."""
        from pgratchet.remote import dispatch

        return dispatch.backup_store(self.storage(target), self.root)

    def choose_backup(
        self, env: str | None, limit: str | None, backup_id: str | None
    ) -> tuple[InventoryTarget, Store, BackupEntry]:
        """A backup by its id, or the newest one, of the environment's targets."""
        from pgratchet.backups import listing

        targets = self.targets(env, limit)
        stores = [(target.environment, target.name, self.backup_store(target)) for target in targets]
        index, entry = listing.choose_backup(stores, backup_id)
        if entry.manifest:
            listing.require_own(entry.manifest, targets[index].environment, targets[index].name)
        return targets[index], stores[index][2], entry
