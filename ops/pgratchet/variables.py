"""The inventory's variables as typed values, in groups. The same classes are used here and on the targets' hosts.

Each group is what one part of the tool needs. `Variables` has all of them. A part that does not connect takes its
group alone, so it never sees a default in the place of a value that was not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from typing_extensions import dataclass_transform

_T = TypeVar("_T", bound="Group")


class Range(NamedTuple):
    """The smallest and the largest value that a number may have, and its unit: seconds, days or bytes, if any."""

    least: int
    most: int
    unit: str = ""


class NotEmpty:
    """A text of at least one character. No tuple: typing takes Annotated types with equal marks for the same."""


class Ports:
    """Port numbers separated by commas: one for all hosts, or one for each."""


Text = Annotated[str, NotEmpty()]
PortList = Annotated[str, Ports()]
Milliseconds = Annotated[int, Range(0, 2**31 - 1, "milliseconds")]


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Group:
    """A group of variables: a value with the annotated names of its class, and their defaults.

    It is a frozen dataclass to type checkers. The methods are written once here, because generating them for every
    group takes longer than everything else that a short run does with its inventory.
    """

    def __init__(self, **values: Any) -> None:
        unknown = values.keys() - set(names(type(self)))
        missing = [name for name in required(type(self)) if name not in values]
        if unknown or missing:
            raise TypeError(f"{type(self).__name__}: unknown {sorted(unknown)}, missing {missing}")
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} cannot be set: variables do not change")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and as_dict(self) == as_dict(other)

    def __hash__(self) -> int:
        return hash((type(self), self.__dict__.get("pg_dbname")))

    def __repr__(self) -> str:
        """The class and the database's name alone: some of the values are secrets."""
        name = self.__dict__.get("pg_dbname")
        return f"{type(self).__name__}({f'pg_dbname={name!r}' if name else '...'})"


def names(kind: type[Group]) -> tuple[str, ...]:
    """The names of a group's variables."""
    return tuple(
        dict.fromkeys(name for base in reversed(kind.__mro__) for name in vars(base).get("__annotations__", ()))
    )


def required(kind: type[Group]) -> list[str]:
    """The names of a group's variables that have no default."""
    return [name for name in names(kind) if not hasattr(kind, name)]


def as_dict(group: Group) -> dict[str, Any]:
    """A group's variables by name, with the defaults."""
    return {name: getattr(group, name) for name in names(type(group))}


def replaced(group: _T, **values: Any) -> _T:
    """A copy of a group with other values for some of its variables."""
    return type(group)(**{**group.__dict__, **values})


class SshVariables(Group):
    """How a target's host is reached. Empty or 0 leaves a value to ssh_config; times are seconds."""

    reach: Literal["local", "ssh", "tunnel"] = "local"
    ssh_host: str = ""
    ssh_port: Annotated[int, Range(0, 65535)] = 0
    ssh_user: str = ""
    ssh_gateway: str = ""
    ssh_key: str = ""
    ssh_config: str = "~/.ssh/config"
    ssh_known_hosts: str = "~/.ssh/known_hosts"
    ssh_python: Text = "python3"
    ssh_timeout: Annotated[int, Range(1, 600, "seconds")] = 10
    ssh_silence: Annotated[int, Range(2, 3600, "seconds")] = 20
    ssh_patience: Annotated[int, Range(0, 86_400, "seconds")] = 60


class BackupVariables(Group):
    """How backups are taken, where they are kept and for how long. Sizes are bytes.

    `backup_max_age` and `backup_command_timeout` are seconds.
    """

    backup_policy: Literal["always", "when-destructive", "never"] = "always"
    backup_at: Literal["host", "here"] = "host"
    backup_dir: Text = "backups"
    backup_store: str = ""
    backup_store_options: Mapping[str, str] = MappingProxyType({})
    backup_recipients: tuple[Text, ...] = ()
    backup_identity: str = ""
    backup_signing_key: str = ""
    backup_verify_keys: tuple[Text, ...] = ()
    backup_jobs: Annotated[int, Range(1, 64)] = 4
    backup_parallel_from: Annotated[int, Range(0, 2**63 - 1, "bytes")] = 10_000_000_000
    backup_keep_count: Annotated[int, Range(0, 100_000)] = 0
    backup_keep_days: Annotated[int, Range(0, 100_000, "days")] = 0
    backup_command: tuple[Text, ...] = ()
    backup_command_timeout: Annotated[int, Range(1, 10_000_000, "seconds")] = 3_600
    backup_max_age: Annotated[int, Range(0, 10_000_000, "seconds")] = 3_600
    drill_environment: str = ""
    restore_environment: str = ""

    @property
    def identity_file(self) -> Path | None:
        """The file with the age identities that decrypt backups; None when backups are only encrypted here."""
        return Path(self.backup_identity).expanduser() if self.backup_identity else None

    @property
    def signing_key_file(self) -> Path | None:
        """The file with the private key that signs backups; None when they are not signed here."""
        return Path(self.backup_signing_key).expanduser() if self.backup_signing_key else None


class HistoryVariables(Group):
    """The name of the history table, and other environments whose databases this one may use as its own."""

    history_schema: Text = "ratchet"
    history_table: Text = "migrations"
    history_from: tuple[Text, ...] = ()


class RunVariables(Group):
    """How long a run waits, and how many migrations it sends at once. Times are milliseconds."""

    migration_timeout: Milliseconds = 30_000
    migration_batch_size: Annotated[int, Range(1, 1000)] = 100
    lock_timeout: Milliseconds = 3_000


class RehearsalPolicyVariables(Group):
    """The policy about rehearsals: the need for one, the seconds that it is good for, and its limits."""

    rehearsal: Literal["off", "advised", "required"] = "off"
    rehearsal_max_age: Annotated[int, Range(0, 10_000_000, "seconds")] = 86_400
    rehearsal_budget: Mapping[str, str] = MappingProxyType({})


class DatabaseVariables(Group):
    """The name of the database."""

    pg_dbname: Text


class StorageVariables(BackupVariables, SshVariables):
    """Where a target's backups are kept, and how that machine is reached."""


class DrillVariables(StorageVariables, HistoryVariables):
    """The variables of a drill: the backups, and the history table inside them."""


class RehearsalVariables(DrillVariables, RunVariables, RehearsalPolicyVariables):
    """The variables of a rehearsal: the backups, the history table inside them, and the limits of a run."""


class Variables(StorageVariables, HistoryVariables, RunVariables, RehearsalPolicyVariables, DatabaseVariables):
    """Every variable that a target may have.

    Those that begin with pg_ have the meaning of the libpq parameter of that name
    (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS), and the templates read them.
    `pg_host` may be a connection pooler's address, which the application uses; `pg_direct_host` and `pg_direct_port`
    are then the server's own. Each may name several servers, separated by commas, as in libpq.
    """

    pg_url: str = ""
    pg_host: str = ""
    pg_port: PortList = "5432"
    pg_direct_host: str = ""
    pg_direct_port: PortList = "5432"
    pg_user: str = ""
    pg_password: str = ""
    app_user: str = ""
    app_password: str = ""
    pg_sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    pg_sslrootcert: str = ""
    pg_require_auth: str = ""
    pg_channel_binding: Literal["disable", "prefer", "require"] = "prefer"
    pg_connect_timeout: Annotated[int, Range(2, 3600, "seconds")] = 10
    pg_target_session_attrs: Literal["any", "read-write", "primary", "prefer-standby", "standby", "read-only"] = "any"
    pg_system_identifier: str = ""
    pg_maintenance_dbname: Text = "postgres"
    password_command: tuple[Text, ...] = ()
    password_timeout: Annotated[int, Range(1, 600, "seconds")] = 30
    env_file: str = ""
    roles: tuple[Text, ...] = ()
    embedded: bool = False
    remote: bool = False
    confirm: bool = False
    drift: Literal["off", "warn", "refuse"] = "off"
    drift_ignore: tuple[Text, ...] = ()
