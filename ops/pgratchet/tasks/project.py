"""Finds the project's folders and targets from Invoke's configuration, for one call of a task.

Paths are configured under the key `pgratchet` (see `DEFAULTS`) with `ns.configure`, invoke.yaml or INVOKE_PGRATCHET_...
environment variables, and are relative to the project: the folder of its tasks.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from pgratchet.config import env_file, inventory, local_servers, settings
from pgratchet.config.inventory import InventoryTarget
from pgratchet.config.settings import RenderedTarget
from pgratchet.console import commands, output
from pgratchet.database.target import TargetStorage
from pgratchet.errors import BackupFailed, ConfigurationError, RatchetError
from pgratchet.formatting import suggest
from pgratchet.variables import DatabaseVariables, Group, StorageVariables, Variables

if TYPE_CHECKING:
    from invoke.context import Context

    from pgratchet.backups.choice import Choice, TargetStore
    from pgratchet.backups.listing import BackupEntry
    from pgratchet.backups.store import Store

_T = TypeVar("_T", bound=Group)

DEFAULTS = {"sql": "sql", "inventory": "inventory", "templates": "templates", "backups": "backups"}
"""The folders of a project, by their configuration keys."""


class ChosenBackup(NamedTuple):
    """A chosen backup, with its target and store. `skipped` are newer ones that are damaged, or not trusted."""

    target: InventoryTarget
    store: Store
    entry: BackupEntry
    skipped: tuple[BackupEntry, ...] = ()


@dataclass
class Project:
    """The project that uses pgratchet. `open_until_end` closes what a task opened, when the task ends."""

    root: Path
    folders: Mapping[str, str]
    open_until_end: ExitStack = field(default_factory=ExitStack)
    _printed_notes: set[str] = field(default_factory=set)

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

    def require(self) -> None:
        """Raise ConfigurationError where no project is."""
        names = ("tasks.py", "tasks", "invoke.yaml", "invoke.yml", self.folders["inventory"], self.folders["sql"])
        if not any((self.root / name).exists() for name in names):
            raise ConfigurationError(
                "there is no project here",
                detail="There is no tasks.py and no folder inventory here or above.",
                hint="Change to the project's folder, or run `pgratchet init`.",
            )

    def require_migrations(self, folder: Path) -> None:
        """Raise ConfigurationError for a folder of migrations that does not exist, and name a similar one."""
        if folder.is_dir():
            return
        self.require()
        flag = "" if folder == self.sql(None) else f" --sql={folder}"
        others = [path.name for path in folder.parent.glob("*") if path.is_dir()]
        raise ConfigurationError(
            f"no migrations folder {folder}",
            detail=f"The folder does not exist.{suggest(folder.name, others)}",
            hint=f"Name the folder with --sql=DIR, or create it with `invoke new NAME{flag}`.",
        )

    @property
    def templates(self) -> Path:
        return self.root / self.folders["templates"]

    @cached_property
    def environ(self) -> dict[str, str]:
        """The environment variables that the inventory may read."""
        return dict(os.environ)

    def targets(
        self, env: str | None, limit: str | None = None, *, named_by: str = "--env=NAME"
    ) -> tuple[InventoryTarget, ...]:
        """The targets of an environment: the one that a flag or a variable names, else $OPS_ENV, else dev."""
        name = env or self.environ.get("OPS_ENV") or "dev"
        if not env and self.environ.get("OPS_ENV"):
            named_by = "OPS_ENV=NAME"
        if not (self.root / self.folders["inventory"]).exists():
            self.require()
        targets = inventory.load(self.root / self.folders["inventory"], name, limit, named_by=named_by)
        self._print_notes(note for target in targets for note in target.notes)
        return self._with_backup_folder(targets)

    def _with_backup_folder(self, targets: Sequence[InventoryTarget]) -> tuple[InventoryTarget, ...]:
        return tuple(replace(t, variables={"backup_dir": self.folders["backups"], **t.variables}) for t in targets)

    def _print_notes(self, notes: Iterable[str]) -> None:
        """Print notes that have not been printed yet."""
        for note in dict.fromkeys(notes):
            if note not in self._printed_notes:
                self._printed_notes.add(note)
                output.say(f"note: {note}")

    def connect_settings(
        self, target: InventoryTarget, *, start: bool, connects: bool = True, for_application: bool = False
    ) -> RenderedTarget:
        """A target's rendered settings; with `for_application` they contain the application's login.

        Its bundled server, if any, is started, or without `start` must run already. Its tunnel, if any, is opened when
        the target is going to be connected to.
        """

        def embedded_server() -> Mapping[str, str]:
            return self._embedded_server(target, start)

        tunnel = self._open_tunnel if connects else None
        used = target if for_application else settings.without_application(target)
        rendered = settings.render_target(used, self.templates, self._environ_of(target), embedded_server, tunnel)
        if connects and self._leads_to_own_server(target, rendered):
            embedded_server()
            rendered = replace(rendered, embedded=True)
        if connects:
            local_servers.require_local(rendered)
        return rendered

    def other_target(self, variable: str, environment: str) -> RenderedTarget:
        """The first target of the environment that a variable of the inventory names."""
        targets = self.targets(environment, named_by=f"`{variable}: NAME`")
        return self.connect_settings(targets[0], start=True)

    def drill_target(self, variables: StorageVariables) -> RenderedTarget | None:
        """The target on whose server drills and trials run; None for a bundled server."""
        name = variables.drill_environment
        return self.other_target("drill_environment", name) if name else None

    def _leads_to_own_server(self, target: InventoryTarget, rendered: RenderedTarget) -> bool:
        """Tell whether a variable of the environment names the target's own bundled server, as after `render`."""
        if rendered.embedded or not rendered.variables.embedded:
            return False
        from pgratchet import embedded

        return rendered.connection.get("host") == str(embedded.locate(self.root, target.environment).socket_folder)

    def _embedded_server(self, target: InventoryTarget, start: bool) -> Mapping[str, str]:
        from pgratchet import embedded

        server = embedded.locate(self.root, target.environment, make=start)
        if not start:
            return embedded.attach(server)
        roles = inventory.listed_roles([target])
        if embedded.start(server, self.variables(target, DatabaseVariables).pg_dbname, roles):
            name = target.environment
            stop = f"`invoke down --env={name}` stops it"
            output.say(commands.typed(f"started the bundled PostgreSQL for {name}; {stop}"))
        return server.parameters()

    def _open_tunnel(self, variables: Variables, host: str, port: int, hidden: frozenset[str]) -> int:
        from pgratchet.remote.tunnel import open_tunnel

        return self.open_until_end.enter_context(open_tunnel(variables, host, port, hidden))

    def variables(self, target: InventoryTarget, kind: type[_T]) -> _T:
        """One group of a target's variables, for work that does not connect."""
        return settings.group_of(target, kind, self._environ_of(target))

    def _environ_of(self, target: InventoryTarget) -> Mapping[str, str]:
        """The environment variables that a target's values may read, with those of its `env_file`."""
        self._print_notes(env_file.unread_lines(self.root, target))
        return env_file.with_file(self.root, target, self.environ)

    def storage(self, target: InventoryTarget) -> TargetStorage:
        """Where a target's backups are kept, without its connection settings."""
        return TargetStorage(target.environment, target.name, self.variables(target, StorageVariables))

    def backup_store(self, target: InventoryTarget) -> Store:
        """The store of a target's backups, wherever they are kept."""
        from pgratchet.remote import dispatch

        return dispatch.backup_store(self.storage(target), self.root)

    def choose_newest_backup(self, env: str | None, limit: str | None) -> ChosenBackup:
        """The newest good backup of the environment's targets."""
        from pgratchet.backups import choice

        return self._choose_backup(env, limit, choice.choose_newest)

    def choose_backup(self, env: str | None, limit: str | None, backup_id: str) -> ChosenBackup:
        """The backup of the environment's targets that an id names."""
        from pgratchet.backups import choice

        try:
            return self._choose_backup(env, limit, lambda stores: choice.choose_named(stores, backup_id))
        except BackupFailed as error:
            if other := choice.find_elsewhere(self._stores_on_this_disk(), backup_id):
                is_near = other.environment == self.targets(env, limit)[0].environment
                name, flag = (other.target, "limit") if is_near else (other.environment, "env")
                error.hint = f"That backup is one of {name}: give --{flag}={name}."
            raise

    def _choose_backup(
        self, env: str | None, limit: str | None, choose: Callable[[Sequence[TargetStore]], Choice]
    ) -> ChosenBackup:
        from pgratchet.backups.listing import require_own

        targets = self.targets(env, limit)
        stores = [self._target_store(target) for target in targets]
        try:
            chosen = choose(stores)
        except BackupFailed as error:
            self._explain_backup_command(targets, error)
            raise
        target = targets[chosen.index]
        if chosen.entry.manifest:
            require_own(chosen.entry.manifest, target.environment, target.name)
        return ChosenBackup(target, stores[chosen.index].store, chosen.entry, chosen.skipped)

    def _target_store(self, target: InventoryTarget) -> TargetStore:
        from pgratchet.backups.choice import TargetStore
        from pgratchet.backups.signing import trusted_keys

        keys = trusted_keys(self.storage(target).variables)
        return TargetStore(target.environment, target.name, self.backup_store(target), keys)

    def refuse_database_of_other(self, target: RenderedTarget, database: str) -> None:
        """Raise ConfigurationError when another target of the inventory has this database, on the target's server."""
        for other in self._renderable_targets():
            is_there = other.variables.pg_dbname == database and _server_of(other) == _server_of(target)
            if is_there and (other.environment, other.target) != (target.environment, target.target):
                raise _database_of_other(other, database)

    def _renderable_targets(self) -> Iterator[RenderedTarget]:
        """The targets of all environments, without those whose variables or bundled server are missing here."""
        for entry in self._all_targets():
            with suppress(RatchetError):
                yield self.connect_settings(entry, start=False, connects=False)

    def _stores_on_this_disk(self) -> Iterator[TargetStore]:
        """The stores of all environments whose backups are kept in a folder of this machine."""
        from pgratchet.remote import dispatch

        for target in self._all_targets():
            with suppress(RatchetError):
                if dispatch.is_kept_on_this_disk(self.storage(target)):
                    yield self._target_store(target)

    def _all_targets(self) -> Iterator[InventoryTarget]:
        """The targets of all environments that can be read."""
        folder = self.root / self.folders["inventory"]
        for environment in inventory.environments(folder):
            with suppress(RatchetError):
                yield from self._with_backup_folder(inventory.load(folder, environment))

    def _explain_backup_command(self, targets: Sequence[InventoryTarget], error: BackupFailed) -> None:
        """Say in the error that there is no backup where the backups of a `backup_command` are."""
        from pgratchet.backups.external import kept_by_command

        commands = [self.storage(target).variables.backup_command for target in targets]
        sentences = dict.fromkeys(kept_by_command(command[0]) for command in commands if command)
        if sentences:
            error.message = error.message.replace("there is no backup", "pgratchet has no backup")
            error.detail = "\n".join([error.detail, *sentences])
            error.hint = "Restore with the tool of the backup_command. pgratchet reads only backups of its own."


def _server_of(target: RenderedTarget) -> tuple[object, ...]:
    variables = target.variables
    host = "localhost" if variables.pg_host in ("127.0.0.1", "::1") else variables.pg_host
    return variables.reach, variables.ssh_host, host, variables.pg_port


def _database_of_other(other: RenderedTarget, database: str) -> ConfigurationError:
    return ConfigurationError(
        f'"{database}" is the database of {other.environment}: {other.target}',
        detail="The inventory names it, on the same server. Nothing was changed.",
        hint=f"Give the name of a new database, such as --into={database}_restored.",
    )
