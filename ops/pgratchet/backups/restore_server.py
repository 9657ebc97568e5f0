"""The server to restore on: connections, the lock for restores, and new databases."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg import sql

from pgratchet import embedded
from pgratchet.backups.manifest import Database, Manifest
from pgratchet.database import connection as sessions
from pgratchet.database import queries
from pgratchet.database.contents import read_contents
from pgratchet.database.history import History
from pgratchet.database.target import program_environment
from pgratchet.database.timeouts import clear_timeouts
from pgratchet.errors import BackupFailed, ConfigurationError, LockBusy, MigrationFailed, RatchetError, Unreachable

NAME_LIMIT = 63
"""Bytes of a database's name."""
_DEFAULT = "postgres"
_MOST_LOCKS = 20_000
_HAS_PROVIDERS = 150000
"""The first server_version_num whose databases may have another locale provider than libc."""
_IS_OWNER = "SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database()"
_UNKNOWN_LOCALE = (
    psycopg.errors.WrongObjectType,
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.InvalidParameterValue,
    psycopg.errors.SyntaxError,
)
"""Errors of a server that lacks a locale, was built without the locale's provider, or is older than the provider."""


@dataclass(frozen=True, slots=True)
class RestoreServer:
    """The server to restore on.

    `connect` takes the name of a database on the server. `client_environment` provides environment variables for libpq
    programs. `maintenance` is the database to work from while the live database is swapped.
    """

    connect: Callable[[str], psycopg.Connection]
    client_environment: Callable[[], AbstractContextManager[dict[str, str]]]
    maintenance: str
    history: History
    pinned_identifier: str = ""

    def open_session(self, database: str) -> psycopg.Connection:
        """Open a session without timeouts on a database of the server."""
        return clear_timeouts(self.connect(database))

    @contextmanager
    def usable(self, maintenance: psycopg.Connection) -> Iterator[psycopg.Connection]:
        """The same maintenance connection, or a new connection for the block when the first was closed."""
        if not maintenance.closed:
            yield maintenance
        else:
            with closing(self.open_session(self.maintenance)) as connection:
                yield connection


@contextmanager
def bundled_server(
    history: History,
    tables: int,
    user: str = "",
    settings: Mapping[str, int] = MappingProxyType({}),
    programs: Path | None = None,
) -> Iterator[RestoreServer]:
    """A bundled server to restore a number of tables on, which ends with the block.

    With `user`, sessions are those of a superuser of that name. `programs` is the folder of other programs than the
    bundled ones. A statement on a table with partitions locks all of them and their indexes, and the default has 64
    locks per session (https://www.postgresql.org/docs/current/runtime-config-locks.html).
    """
    locks = min(64 + tables // 10, _MOST_LOCKS)
    with embedded.scratch({"max_locks_per_transaction": locks, **settings}, programs) as bundled:
        parameters = bundled.parameters()
        if user and user != parameters["user"]:
            with closing(sessions.connect({**parameters, "dbname": "postgres"})) as connection:
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN SUPERUSER").format(sql.Identifier(user)))
            parameters = {**parameters, "user": user}
        yield server_at(parameters, "postgres", history)


def server_at(parameters: Mapping[str, str], maintenance: str, history: History) -> RestoreServer:
    """The server at libpq's parameters, which its programs get as environment variables."""
    environ = {**program_environment(), **{f"PG{key.upper()}": value for key, value in parameters.items()}}
    return RestoreServer(
        lambda database: sessions.connect({**parameters, "dbname": database}),
        lambda: nullcontext(environ),
        maintenance,
        history,
    )


def fetch(connection: psycopg.Connection, query: str, **values: object) -> list[tuple[Any, ...]]:
    """Run a query of restore.sql and return the rows."""
    return connection.execute(queries.load(__file__, "restore")[query].encode(), values).fetchall()


def find_missing(maintenance: psycopg.Connection, manifest: Manifest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Find the roles and the extensions of a backup missing on the server."""
    roles = fetch(maintenance, "missing_roles", names=list(manifest.contents.roles))
    extensions = fetch(maintenance, "missing_extensions", names=list(manifest.contents.extensions))
    return tuple(name for (name,) in roles), tuple(name for (name,) in extensions)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise the server's errors in the block as BackupFailed or another RatchetError."""
    try:
        with sessions.translate_errors():
            yield
    except MigrationFailed as error:
        cause = error.__cause__
        if not isinstance(cause, psycopg.Error):
            raise
        raise BackupFailed(
            f"the server refused a step of the restore: {sessions.first_line(cause)}",
            detail="\n".join([*sessions.error_details(cause), "The live database was not changed."]),
            hint="Grant the missing right to this environment's role, or fix what the server names. Then run again.",
        ) from cause


def take_lock(maintenance: psycopg.Connection, database: str) -> None:
    """Lock a database against other restores. Raises LockBusy while another restore is running.

    Advisory locks belong to the database of their session, so the lock is taken in the maintenance database.
    """
    digest = hashlib.sha256(f"pgratchet:restore:{database}".encode()).digest()
    key = int.from_bytes(digest[:8], "big", signed=True)
    if not fetch(maintenance, "lock", key=key)[0][0]:
        raise LockBusy(
            f"another restore of {database} is running",
            detail="It holds its lock in the maintenance database.",
            hint="Wait until it ends, then run this again.",
        )


def require_name(name: str) -> None:
    """Raise ConfigurationError for a text that cannot be the name of a database."""
    if not name or "\0" in name or len(name.encode(errors="surrogateescape")) > NAME_LIMIT:
        raise ConfigurationError(
            f'"{name}" is not a valid database name', hint="Give a name of 1 to 63 bytes with --into=NAME."
        )


def require_usable(server: RestoreServer, maintenance: psycopg.Connection, name: str) -> None:
    """Raise ConfigurationError for a name that `--into` must not have: no name at all, or one of the server's own."""
    require_name(name)
    if name == server.maintenance:
        raise _cannot_restore_into(name, "It is the maintenance database, which restores work from.")
    if name == _DEFAULT:
        raise _cannot_restore_into(name, "It is the database of the server that programs connect to by default.")
    if fetch(maintenance, "template", name=name):
        raise _cannot_restore_into(name, "It is a template, from which other databases are created.")


def _cannot_restore_into(name: str, problem: str) -> ConfigurationError:
    return ConfigurationError(
        f'the database "{name}" exists, and cannot be restored into',
        detail=f"{problem} Nothing was changed.",
        hint="Give another name with --into=NAME. A database that exists must be empty, and belong to this role.",
    )


@contextmanager
def new_database(
    server: RestoreServer, maintenance: psycopg.Connection, name: str, like: Database, *, exact: bool = True
) -> Iterator[None]:
    """Create an empty database with the properties of another, and drop the new database if the block fails.

    Unless `exact`, a locale missing on the server is replaced with the server's default, and so is the tablespace.
    """
    _create(maintenance, name, like, exact=exact)
    try:
        _remove(server, name, like)
        yield
    except BaseException:
        drop_database(server, maintenance, name)
        raise


_REMOVABLE = {"SCHEMA public": "DROP SCHEMA public", "EXTENSION plpgsql": "DROP EXTENSION plpgsql"}
"""The statements that drop what every new database has. A dump does not say that it was dropped."""


def _remove(server: RestoreServer, name: str, like: Database) -> None:
    """Drop from a new database what was dropped from another. What this role may not drop stays."""
    if statements := [_REMOVABLE[each] for each in like.removed if each in _REMOVABLE]:
        with closing(server.open_session(name)) as connection:
            for statement in statements:
                with suppress(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement.encode())


@contextmanager
def empty_database(server: RestoreServer, name: str, like: Database) -> Iterator[None]:
    """Check that an existing database can be restored into: empty, and with the encoding of another.

    When the block fails, the database keeps the part that was restored, because the role could not make it again.
    """
    with closing(server.open_session(name)) as connection:
        contents = read_contents(connection, server.history)
        encoding = connection.info.parameter_status("server_encoding")
        (is_owner,) = connection.execute(_IS_OWNER).fetchone() or (False,)
    problem = (
        f"It has {', '.join(contents.relations)}."
        if contents
        else "This role does not own it."
        if not is_owner
        else f"Its encoding is {encoding}, and {like.encoding} in the backup."
        if encoding != like.encoding
        else ""
    )
    if problem:
        raise _cannot_restore_into(name, problem)
    try:
        _remove(server, name, like)
        yield
    except RatchetError as error:
        error.detail = f'{error.detail}\nThe database "{name}" has the part that was restored before.'
        raise


def _create(maintenance: psycopg.Connection, name: str, like: Database, *, exact: bool) -> None:
    create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {}")
    statement = create.format(sql.Identifier(name), sql.Literal(like.encoding))
    if exact and like.tablespace is not None:
        statement += sql.SQL(" TABLESPACE {}").format(sql.Identifier(like.tablespace))
    try:
        try:
            maintenance.execute(statement + _locale(like, maintenance.info.server_version))
        except _UNKNOWN_LOCALE:
            if exact:
                raise
            maintenance.execute(statement)
    except psycopg.Error as error:
        raise ConfigurationError(
            f'the database "{name}" cannot be made',
            detail=f"{error.diag.message_primary or error}.",
            hint=_creation_advice(error, maintenance.info.user),
        ) from error


def _creation_advice(error: psycopg.Error, role: str) -> str:
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return f'Let an administrator run ALTER ROLE "{role}" CREATEDB, or connect as a role that may create databases.'
    if isinstance(error, psycopg.errors.DuplicateDatabase):
        return "Choose a name that is not taken, such as with --into=NAME."
    if isinstance(error, _UNKNOWN_LOCALE):
        return "Use a server that has this locale: install it on the server's host, or restore on another server."
    return "Read the reason above, and the server's log. Nothing was changed."


def _locale(like: Database, server_version: int) -> sql.Composed:
    options = sql.SQL(" LC_COLLATE {} LC_CTYPE {}").format(sql.Literal(like.collate), sql.Literal(like.ctype))
    if like.provider == "i":
        options += sql.SQL(" LOCALE_PROVIDER icu ICU_LOCALE {}").format(sql.Literal(like.locale))
        options += sql.SQL(" ICU_RULES {}").format(sql.Literal(like.icu_rules)) if like.icu_rules else sql.SQL("")
    elif like.provider == "b":
        options += sql.SQL(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {}").format(sql.Literal(like.locale))
    elif server_version >= _HAS_PROVIDERS:
        options += sql.SQL(" LOCALE_PROVIDER libc")  # the default would be the provider of template0
    return options


def database_into(
    server: RestoreServer, maintenance: psycopg.Connection, name: str, like: Database
) -> AbstractContextManager[None]:
    """The database named by `--into`: a new one, or an empty one that exists, for a role without CREATEDB."""
    require_usable(server, maintenance, name)
    if fetch(maintenance, "database", name=name):
        return empty_database(server, name, like)
    return new_database(server, maintenance, name, like)


def drop_database(server: RestoreServer, maintenance: psycopg.Connection, name: str) -> None:
    """Drop a database of ours if it exists, and if the server can be reached. A signal meanwhile is raised later."""
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
    signal: KeyboardInterrupt | None = None
    for _ in range(3):  # the first attempt may reveal that the connection was lost while it was idle
        try:
            with suppress(psycopg.Error, Unreachable), server.usable(maintenance) as connection:
                make_droppable(connection, name)
                connection.execute(drop)
                break
        except KeyboardInterrupt as stop:  # a second signal, which cancels the statement
            signal = stop
    if signal is not None:
        raise signal


def make_droppable(maintenance: psycopg.Connection, name: str) -> None:
    """Let a database that is a template be dropped."""
    if fetch(maintenance, "template", name=name):
        maintenance.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(sql.Identifier(name)))
