"""From a target's settings to what the rooms take: how to connect, where backups lie, what a run may do.

Owns nothing but this: each function takes settings, and gives what one room is called with. So the tasks, here or on
another machine, call rooms and say nothing of how these are fitted together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from pgratchet.errors import BackupFailed, ConfigurationError

if TYPE_CHECKING:
    from psycopg import Connection

    from pgratchet.apply.run import MigrateOptions
    from pgratchet.backups import restore
    from pgratchet.backups.backup import BackupOptions, BackupSource
    from pgratchet.backups.listing import BackupEntry
    from pgratchet.backups.manifest import Manifest
    from pgratchet.backups.pg_programs import Programs
    from pgratchet.backups.restore_server import RestoreServer
    from pgratchet.backups.store import Store
    from pgratchet.database.history import History
    from pgratchet.database.session import Session
    from pgratchet.database.target import Target
    from pgratchet.events import Event
    from pgratchet.variables import Variables


def ledger(given: Target) -> History:
    from pgratchet.database.history import History

    return History(given.variables.history_schema, given.variables.history_table)


def connect(given: Target) -> Connection:
    from pgratchet.database.connection import connect

    return connect(given.parameters())


@contextmanager
def connected(given: Target) -> Iterator[Connection]:
    """A connection for the block, and our errors for what the server says in it."""
    from pgratchet.database.connection import translate_errors

    with translate_errors(), closing(connect(given)) as connection:
        yield connection


@contextmanager
def session(given: Target) -> Iterator[Session]:
    """A session for the block that may take the migration lock, and our errors for what the server says in it."""
    from pgratchet.database.connection import translate_errors
    from pgratchet.database.session import Session

    variables = given.variables
    if variables.reach == "ssh":
        raise ConfigurationError(
            f"{given.environment}: {given.target} is reached by ssh, and a history is taken over from here",
            detail="The other tool's files are on this machine, and the server is not reached from it.",
            hint="Set reach: tunnel for this target while its history is taken over.",
        )
    made = Session(
        functools.partial(connect, given),
        ledger(given),
        variables.migration_timeout,
        variables.lock_timeout,
        variables.pg_system_identifier,
    )
    with translate_errors(), closing(made):
        yield made


def options(given: Target, run_id: str, to: str | None, waiver: str | None) -> MigrateOptions:
    """What a migration run may take, by the target's variables."""
    from pgratchet.apply.run import MigrateOptions

    variables = given.variables
    return MigrateOptions(
        run_id=run_id,
        to=to,
        waiver=waiver,
        wait=variables.migration_timeout,
        lock_timeout=variables.lock_timeout,
        statement_timeout=variables.migration_timeout,
        batch_size=variables.migration_batch_size,
        pinned_identifier=variables.pg_system_identifier,
        only_destructive=variables.backup_policy == "when-destructive",
    )


def backups(environment: str, target: str, variables: Variables, root: Path) -> Store:
    """Where the backups of a target lie on this machine, or in a store that is reached from it."""
    from pgratchet.backups import store

    folder = root / variables.backup_dir
    return store.open_store(variables.backup_store, variables.backup_store_options, folder, environment, target)


def needs_backup(given: Target, waiver: str | None) -> bool:
    """Whether a run may need a backup, by its policy and its waiver."""
    from pgratchet.apply import applier

    needed = applier.needs_backup(given.variables.backup_policy, waiver)
    if needed:
        given.pgpass(masked=True)  # what is wrong with its template is told before anything is connected to
    return needed


def take_backup(
    given: Target, kept: Store, connection: Connection, *, label: str | None = None, keep: bool = False
) -> Generator[Event, None, str]:
    """A backup of what the connection leads to, by pg_dump or by the target's own command; returns its id."""
    from pgratchet.backups import backup, external

    variables = given.variables
    if variables.backup_command:
        with given.client_environment() as environ:
            about = {"PGRATCHET_ENV": given.environment, "PGRATCHET_TARGET": given.target}
            command, max_age = variables.backup_command, variables.backup_max_age
            return (yield from external.external(command, environ | about, max_age))
    from_here = source(given, connection)
    programs = programs_for(from_here.server_version, tls=connection.pgconn.ssl_in_use)
    taken = yield from backup.take(from_here, kept, programs, _wishes(variables, label, keep))
    return taken.backup_id


def prune(variables: Variables, kept: Store) -> Iterator[Event]:
    """Delete what the target's retention lets go, and say so."""
    from pgratchet.backups.retention import Retention, prune

    retention = Retention(variables.backup_keep_count, variables.backup_keep_days)
    yield from prune(kept, retention, datetime.now(timezone.utc))


def source(given: Target, connection: Connection) -> BackupSource:
    """What a backup is taken from, by a connection that leads there."""
    from pgratchet.backups.backup import BackupSource
    from pgratchet.database import connection as sessions

    server = sessions.inspect(connection)
    sessions.refuse_other_cluster(server, given.variables.pg_system_identifier)
    sessions.refuse_pooled(server, "no backup can be taken")
    return BackupSource(
        environment=given.environment,
        target=given.target,
        server_version=server.version,
        system_identifier=server.system_identifier,
        ledger=ledger(given),
        connect=functools.partial(connect, given),
        client_environment=given.client_environment,
    )


def _wishes(variables: Variables, label: str | None, keep: bool) -> BackupOptions:
    from pgratchet.backups.backup import BackupOptions

    return BackupOptions(
        label, keep, variables.backup_jobs, variables.backup_parallel_from, variables.backup_recipients
    )


def programs_for(server: int | None, *, tls: bool = False, reads: str | None = None) -> Programs:
    """PostgreSQL's programs for a server, for an archive that pg_dump `reads` wrote, or for both."""
    from pgratchet.backups import pg_programs

    return pg_programs.find_programs(server=server, tls=tls, embedded=packaged, reads=reads)


def packaged() -> Path | None:
    """The programs of the package, where it is installed; on a host that was reached by a line it is not."""
    try:
        from pgratchet import embedded
    except ImportError:
        return None
    return embedded.programs()


def identity(variables: Variables) -> Path | None:
    """The file that opens encrypted backups, where there is one."""
    return Path(variables.backup_identity).expanduser() if variables.backup_identity else None


def chosen(kept: Sequence[tuple[Target, Store]], backup_id: str | None) -> tuple[int, BackupEntry]:
    """The backup of that id among those of some targets, or without one the newest of the first; and whose it is."""
    from pgratchet.backups import listing

    for index, (_, each) in enumerate(kept):
        found = listing.list_backups(each) if backup_id is None or backup_id in each.ids() else ()
        for listed in found:
            if listed.backup_id == backup_id or (backup_id is None and listed.manifest):
                return index, listed
    names = ", ".join(f"{target.environment}: {target.name}" for target, _ in kept)
    which = f' "{backup_id}"' if backup_id else ""
    raise BackupFailed(
        f"there is no backup{which}",
        detail=f"Looked among those of {names}.",
        hint=f"`invoke backups --env={kept[0][0].environment}` lists them.",
    )


def refuse_foreign(made: Manifest, target: Target) -> None:
    """A folder that was copied over from another environment or target is not one of this one's backups."""
    if (made.environment, made.target) != (target.environment, target.name):
        raise BackupFailed(
            f"backup {made.backup_id} is of {made.environment}: {made.target}",
            detail=f"It lies among those of {target.environment}: {target.name}.",
            hint="Restore it where it belongs; its manifest says where that is.",
        )


def wishes(variables: Variables, into: str | None, *, leave_behind: bool, accept: bool) -> restore.RestoreOptions:
    """How a restore is to be done, by the target's variables and by what is asked for."""
    from pgratchet.backups import restore

    jobs, wait = variables.backup_jobs, variables.migration_timeout
    return restore.RestoreOptions(into, jobs, leave_behind=leave_behind, accept=accept, wait=wait)


def site(given: Target) -> RestoreServer:
    """The server of a target, to restore on."""
    from pgratchet.backups.restore_server import RestoreServer

    variables = given.variables
    to, named = _connector(given), variables.pg_maintenance_dbname
    return RestoreServer(to, given.client_environment, named, ledger(given), variables.pg_system_identifier)


def _connector(given: Target) -> Callable[[str], Connection]:
    from pgratchet.database.connection import connect

    return lambda database: connect({**given.parameters(), "dbname": database})


def schema_dump(given: Target, session: Session) -> Callable[[str], bytes]:
    """How to have the schema of a database of the target's server, by name, without the history."""
    from pgratchet.backups import pg_programs

    programs = programs_for(session.server.version, tls=session.connection.pgconn.ssl_in_use)
    history = ".".join('"' + name.replace('"', '""') + '"' for name in (session.ledger.schema, session.ledger.table))

    def dump(database: str) -> bytes:
        with given.client_environment() as environ:
            return pg_programs.dump_schema(programs, environ, database, history)

    return dump


@contextmanager
def scratch(given: Target | None, like: History, made: Manifest) -> Iterator[tuple[RestoreServer, Programs]]:
    """Where to drill a backup, and by which programs: the server of the environment that the inventory names for it,
    else one of the package's own."""
    if given is not None:
        with connected(given) as connection:
            version, tls = connection.info.server_version, connection.pgconn.ssl_in_use
        yield site(given), programs_for(version, tls=tls, reads=made.client_version)
        return
    from pgratchet import embedded
    from pgratchet.backups import pg_programs
    from pgratchet.backups.restore_server import RestoreServer
    from pgratchet.database.connection import connect

    version = int(float(pg_programs.version_of(embedded.programs() / "postgres") or 0)) * 10_000
    ours, theirs = version // 10_000, made.server_version // 10_000
    if ours < theirs:
        raise ConfigurationError(
            f"a backup of PostgreSQL {theirs} does not go into the package's {ours}",
            hint="Name an environment with such a server as drill_environment in the inventory.",
        )
    programs = programs_for(version, reads=made.client_version)
    with embedded.scratch() as server:
        parameters = server.parameters()
        to = functools.partial(_plain_environment, parameters)
        yield (
            RestoreServer(lambda database: connect({**parameters, "dbname": database}), to, "postgres", like),
            programs,
        )


@contextmanager
def _plain_environment(parameters: dict[str, str]) -> Iterator[dict[str, str]]:
    """For libpq's programs, where there is no secret: its variables alone."""
    import os

    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    yield {**inherited, **{f"PG{key.upper()}": value for key, value in parameters.items()}}
