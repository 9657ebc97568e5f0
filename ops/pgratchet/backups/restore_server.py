"""The server to restore on: connections, the lock for restores, and new databases."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from pgratchet.backups.manifest import Database, Manifest
from pgratchet.database import connection as sessions
from pgratchet.database import queries
from pgratchet.database.history import History
from pgratchet.errors import BackupFailed, ConfigurationError, LockBusy, MigrationFailed, Unreachable

NAME_LIMIT = 63
"""Bytes of a database's name."""
_HAS_PROVIDERS = 150000
"""The first server_version_num whose databases may have another locale provider than libc."""
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

    @contextmanager
    def usable(self, maintenance: psycopg.Connection) -> Iterator[psycopg.Connection]:
        """The same maintenance connection, or a new connection for the block when the first was closed."""
        if not maintenance.closed:
            yield maintenance
        else:
            with closing(self.connect(self.maintenance)) as connection:
                yield connection


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
            f"the server refused what the restore needs: {sessions.first_line(cause)}",
            detail="\n".join([*sessions.error_details(cause), "The live database is as it was."]),
            hint="Give the role of this environment that right, or fix what the server names, and run again.",
        ) from cause


def take_lock(maintenance: psycopg.Connection, database: str) -> None:
    """Lock a database against other restores. Raises LockBusy while another restore is running.

    Advisory locks belong to the database of their session, so the lock is taken in the maintenance database.
    """
    digest = hashlib.sha256(f"pgratchet:restore:{database}".encode()).digest()
    key = int.from_bytes(digest[:8], "big", signed=True)
    if not fetch(maintenance, "lock", key=key)[0][0]:
        raise LockBusy(
            f"another restore of {database} is under way",
            detail="It holds the lock for that in the maintenance database.",
            hint="Wait for it to end.",
        )


@contextmanager
def new_database(
    server: RestoreServer, maintenance: psycopg.Connection, name: str, like: Database, *, exact: bool = True
) -> Iterator[None]:
    """Create an empty database with the encoding and locale of another, and drop the new database if the block fails.

    Unless `exact`, a locale missing on the server is replaced with the server's default.
    """
    if not name or "\0" in name or len(name.encode(errors="surrogateescape")) > NAME_LIMIT:
        raise ConfigurationError(
            f'"{name}" cannot be the name of a database', hint="Give one of 1 to 63 bytes with --into=NAME."
        )
    _create(maintenance, name, like, exact=exact)
    try:
        yield
    except BaseException:
        _drop(server, maintenance, name)
        raise


def _create(maintenance: psycopg.Connection, name: str, like: Database, *, exact: bool) -> None:
    create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {}")
    statement = create.format(sql.Identifier(name), sql.Literal(like.encoding))
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
            hint="Choose another name, a role that may create databases, or a server that has this locale.",
        ) from error


def _locale(like: Database, server_version: int) -> sql.Composed:
    options = sql.SQL(" LC_COLLATE {} LC_CTYPE {}").format(sql.Literal(like.collate), sql.Literal(like.ctype))
    if like.provider == "i":
        options += sql.SQL(" LOCALE_PROVIDER icu ICU_LOCALE {}").format(sql.Literal(like.locale))
    elif like.provider == "b":
        options += sql.SQL(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {}").format(sql.Literal(like.locale))
    elif server_version >= _HAS_PROVIDERS:
        options += sql.SQL(" LOCALE_PROVIDER libc")  # the default would be the provider of template0
    return options


def _drop(server: RestoreServer, maintenance: psycopg.Connection, name: str) -> None:
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
    for _ in range(2):  # the first attempt may reveal that the connection was lost while it was idle
        with suppress(psycopg.Error, Unreachable), server.usable(maintenance) as connection:
            connection.execute(drop)
            break
