"""The server that a backup is restored on: new databases, their names, and what the server lacks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import psycopg
from psycopg import sql

from pgratchet.backups.manifest import Database, Manifest
from pgratchet.backups.swap import _take_lock, _usable
from pgratchet.database import connection as sessions
from pgratchet.database import queries
from pgratchet.database.history import History
from pgratchet.database.session import listed
from pgratchet.errors import (
    BackupFailed,
    ConfigurationError,
    MigrationFailed,
    Unreachable,
)

_NAME_LIMIT = 63


@dataclass(frozen=True, slots=True)
class RestoreServer:
    """The server that is restored on: `connect` takes the name of a database there; `maintenance` is one to work from
    while the live one is swapped. `client_environment` lets libpq's programs connect."""

    connect: Callable[[str], psycopg.Connection]
    client_environment: Callable[[], AbstractContextManager[dict[str, str]]]
    maintenance: str
    history: History
    pinned_identifier: str = ""


def missing(maintenance: psycopg.Connection, made: Manifest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The roles and the extensions of a backup that a server does not have."""
    roles = _rows(maintenance, "missing_roles", names=list(made.contents.roles))
    extensions = _rows(maintenance, "missing_extensions", names=list(made.contents.extensions))
    return tuple(name for (name,) in roles), tuple(name for (name,) in extensions)


@contextmanager
def translated() -> Iterator[None]:
    """Turn what the server says to statements of a restore into our errors."""
    try:
        with sessions.translate_errors():
            yield
    except MigrationFailed as error:
        refused = error.__cause__
        if not isinstance(refused, psycopg.Error):
            raise
        raise BackupFailed(
            f"the server refused what the restore needs: {sessions.first_line(refused)}",
            detail="\n".join([*sessions.error_details(refused), "The live database is as it was."]),
            hint="Give the role of this environment that right, or mend what the server names, and run again.",
        ) from refused


def _refuse_own(site: RestoreServer, database: str) -> None:
    if database == site.maintenance:
        raise ConfigurationError(
            f"the database {database} cannot be swapped from within itself",
            detail="It is the maintenance database, and no session can rename the database that it is in.",
            hint="Name another of the server's as pg_maintenance_dbname in the inventory, or give --into=NAME.",
        )


@contextmanager
def new_database(
    site: RestoreServer, maintenance: psycopg.Connection, name: str, like: Database, *, exact: bool = True
) -> Iterator[None]:
    """An empty database with the encoding and locale of another, that is dropped again when the block fails.

    Where the server does not know that locale, and it need not be `exact`, with the server's own.
    """
    if not name or "\0" in name or len(name.encode(errors="surrogateescape")) > _NAME_LIMIT:
        raise ConfigurationError(
            f'"{name}" cannot be the name of a database', hint="Give one of 1 to 63 bytes with --into=NAME."
        )
    quoted = sql.Identifier(name)
    made = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {}").format(quoted, sql.Literal(like.encoding))
    try:
        try:
            maintenance.execute(made + _locale(like, maintenance.info.server_version))
        except _UNKNOWN_LOCALE:
            if exact:
                raise
            maintenance.execute(made)
    except psycopg.Error as error:
        raise ConfigurationError(
            f'the database "{name}" cannot be made',
            detail=f"{error.diag.message_primary or error}.",
            hint="Choose another name, a role that may create databases, or a server that has this locale.",
        ) from error
    try:
        yield
    except BaseException:
        for _ in range(2):  # the first may be what notices that the line was cut while it was idle
            with suppress(psycopg.Error, Unreachable), _usable(site, maintenance) as connection:
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(quoted))
                break
        raise


_UNKNOWN_LOCALE = (
    psycopg.errors.WrongObjectType,
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.InvalidParameterValue,
    psycopg.errors.SyntaxError,
)
"""What a server answers that does not have a locale, was built without its provider, or is older than that."""


def _locale(like: Database, server: int) -> sql.Composed:
    words = sql.SQL(" LC_COLLATE {} LC_CTYPE {}").format(sql.Literal(like.collate), sql.Literal(like.ctype))
    if like.provider == "i":
        words += sql.SQL(" LOCALE_PROVIDER icu ICU_LOCALE {}").format(sql.Literal(like.locale))
    elif like.provider == "b":
        words += sql.SQL(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {}").format(sql.Literal(like.locale))
    elif server >= _HAS_PROVIDERS:
        words += sql.SQL(" LOCALE_PROVIDER libc")  # else it is template0's, whichever that is
    return words


_HAS_PROVIDERS = 150000
"""The first server_version_num that has another provider of locales than libc for a whole database."""


def derived_name(database: str, kind: str) -> str:
    """A name beside that of a database: its beginning, `old` or `restore`, and the time in UTC."""
    ending = f"_{kind}_{datetime.now(timezone.utc):%Y%m%d%H%M%S}"
    return database.encode()[: _NAME_LIMIT - len(ending)].decode(errors="ignore") + ending


def kept_databases(site: RestoreServer, database: str) -> tuple[str, ...]:
    """The databases that restores of this one left beside it: the old ones, and those that were not swapped in."""
    stem = database.encode()[: _NAME_LIMIT - len("_restore_") - 14].decode(errors="ignore")
    pattern = f"^{re.escape(stem)}.*_(old|restore)_[0-9]{{14}}$"
    with translated(), closing(site.connect(site.maintenance)) as maintenance:
        found = [name for (name,) in _rows(maintenance, "left", pattern=pattern)]
    return tuple(name for name in found if name in _possible(database, name))


def _possible(database: str, name: str) -> tuple[str, ...]:
    """What the name would be, were it derived from this database at the time that it says."""
    kind, moment = name.rsplit("_", 2)[1:]
    ending = f"_{kind}_{moment}"
    return (database.encode()[: _NAME_LIMIT - len(ending)].decode(errors="ignore") + ending,)


def drop_databases(site: RestoreServer, database: str, names: Sequence[str]) -> None:
    """Drop what restores of a database left; refused as a whole where one of them has what would go with it in
    silence, and while a restore is under way, whose own new database is among them."""
    with translated(), closing(site.connect(site.maintenance)) as maintenance:
        _take_lock(maintenance, database)
        held = [
            f"{name}: the {kind} {each}." for name in names for kind, each in _rows(maintenance, "obstacles", name=name)
        ]
        if held:
            raise ConfigurationError(
                f"{listed(names)} cannot be dropped",
                detail="\n".join(held),
                hint="Drop the slots and subscriptions, and finish the prepared transactions, first.",
            )
        for name in names:
            maintenance.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _rows(connection: psycopg.Connection, query: str, **values: object) -> list[tuple[Any, ...]]:
    return connection.execute(queries.load(__file__, "restore")[query].encode(), values).fetchall()
