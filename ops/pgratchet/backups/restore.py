"""Restoring: a backup into a fresh database, compared with its manifest, and swapped in under the live one's name.

Owns the order of a restore and what is done when it fails: nothing is ever restored over a live database. Refuses to
know stores and terminals: it is given an archive that was read back whole, and yields events.

What it rests on, measured (facts 2h): pg_restore over a live database stops half-way and leaves a mix; settings,
privileges and owner belong to the database's oid and not to its name, so they stay with the old one; two names change
hands in one transaction, so that a crash leaves both or neither; a slot stays with the old database, and DROP
DATABASE takes an inactive one along without a word; roles that are missing fail the restore half-way.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from pgratchet.backups import pg_programs, snapshot as contents
from pgratchet import events
from pgratchet.database import queries
from pgratchet.database import connection as sessions
from pgratchet.backups.pg_programs import Programs, Restoring
from pgratchet.errors import BackupFailed, ConfigurationError, Interrupted, LockBusy, MigrationFailed, OutcomeUnknown, Unreachable
from pgratchet.database.history import Ledger
from pgratchet.backups.manifest import Contents, Database, Manifest, differences, other_versions
from pgratchet.database.session import Session, listed

_NAME_LIMIT = 63
_SWAP_WAIT = 30.0
"""Seconds that sessions of the live database have to end in."""
_TICK = 0.1


@dataclass(frozen=True, slots=True)
class Site:
    """The server that is restored on: `connect` takes the name of a database there; `maintenance` is one to work from
    while the live one is swapped. `client_environment` lets libpq's programs connect."""

    connect: Callable[[str], psycopg.Connection]
    client_environment: Callable[[], AbstractContextManager[dict[str, str]]]
    maintenance: str
    ledger: Ledger
    pinned_identifier: str = ""


@dataclass(frozen=True, slots=True)
class Archive:
    """What is restored: an archive that was read back whole, as a path or a stream, and the programs for it."""

    manifest: Manifest
    source: Path | Iterator[bytes]
    programs: Programs


@dataclass(frozen=True, slots=True)
class Wishes:
    """How it is to be done. With `into`, beside the live database and without a swap. `leave_behind` lets slots
    and subscriptions stay with the old one; `accept` swaps in spite of differences."""

    into: str | None = None
    jobs: int = 1
    leave_behind: bool = False
    accept: bool = False
    wait: int = 30_000


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a restore would meet and undo. `lost` are migrations that were applied since; `obstacles` stay with the old
    database; `missing` are roles and extensions that the server does not have."""

    exists: bool
    server: sessions.Server
    lost: tuple[str, ...]
    obstacles: tuple[str, ...]
    missing: tuple[str, ...]
    encrypted: bool


def look(site: Site, database: str, made: Manifest) -> Outlook:
    """Look, without changing anything."""
    with translated(), closing(site.connect(site.maintenance)) as maintenance:
        server = sessions.inspect(maintenance)
        sessions.refuse_other_cluster(server, site.pinned_identifier)
        sessions.refuse_pooled(server, "nothing can be restored")
        found = _rows(maintenance, "database", name=database)
        obstacles = [f"The {kind} {name}." for kind, name in _rows(maintenance, "obstacles", name=database)]
        roles, extensions = missing(maintenance, made)
        encrypted = maintenance.pgconn.ssl_in_use
    lacks = [f"The role {name}." for name in roles] + [f"The extension {name}." for name in extensions]
    lost: list[str] = []
    if found and found[0][1]:
        with translated(), closing(site.connect(database)) as live:
            applied = [record.name for record in site.ledger.read(live) if record.executed_at]
            lost = [name for name in applied if name not in made.contents.history]
    return Outlook(bool(found), server, tuple(lost), tuple(obstacles), tuple(lacks), encrypted)


def missing(maintenance: psycopg.Connection, made: Manifest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The roles and the extensions of a backup that a server does not have."""
    roles = _rows(maintenance, "missing_roles", names=list(made.contents.roles))
    extensions = _rows(maintenance, "missing_extensions", names=list(made.contents.extensions))
    return tuple(name for (name,) in roles), tuple(name for (name,) in extensions)


def refuse(outlook: Outlook, made: Manifest, wishes: Wishes) -> None:
    """Raise where a restore would fail, or take something along in silence; before anything is changed."""
    if outlook.missing:
        raise ConfigurationError(
            f"backup {made.backup_id} cannot be restored on this server",
            detail="\n".join(["It lacks:", *outlook.missing]),
            hint="Make the roles, as globals.sql in the backup has them, and install the extensions; then run again.",
        )
    if any("prepared transaction" in each for each in outlook.obstacles) and wishes.into is None:
        raise ConfigurationError(
            "the live database has prepared transactions",
            detail="\n".join([*outlook.obstacles, "A database that has one cannot be renamed."]),
            hint="End each with COMMIT PREPARED or ROLLBACK PREPARED; or restore beside it with --into=NAME.",
        )
    if outlook.obstacles and not wishes.leave_behind and wishes.into is None:
        raise ConfigurationError(
            "the live database has what a swap would leave behind",
            detail="\n".join([*outlook.obstacles, "They stay with the old database, under its new name."]),
            hint="End them first, or give --leave-behind; or restore beside it with --into=NAME.",
        )


def restore(site: Site, database: str, archived: Archive, wishes: Wishes) -> Generator[events.Event, None, None]:
    """Restore an archive; yields events, the last of them Compared or Swapped.

    Whatever fails leaves the live database as it was, under its name. What was restored and does not compare stays,
    for a person to look at; anything else that was begun is dropped.
    """
    with translated(), closing(site.connect(site.maintenance)) as maintenance:
        if wishes.into is not None:
            yield from _fill(site, maintenance, wishes.into, archived, wishes)
            return
        _refuse_own(site, database)
        _take_lock(maintenance, database)
        _admit(maintenance, database)
        restored = derived(database, "restore")
        if not _rows(maintenance, "database", name=database):
            yield from _fill(site, maintenance, restored, archived, wishes)
            rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
            maintenance.execute(rename.format(sql.Identifier(restored), sql.Identifier(database)))
            yield events.Swapped(database, None)
            return
        session = Session(lambda: site.connect(database), site.ledger, wishes.wait, 3_000, site.pinned_identifier)
        with closing(session):
            session.open()
            yield from session.lock()
            refuse(look(site, database, archived.manifest), archived.manifest, wishes)
            yield from _fill(site, maintenance, restored, archived, wishes)
        kept = derived(database, "old")
        _swap(site, maintenance, _Swap(database, restored, kept), wishes.wait)
        yield events.Swapped(database, kept)


def _fill(
    site: Site, maintenance: psycopg.Connection, name: str, archived: Archive, wishes: Wishes
) -> Generator[events.Event, None, None]:
    """A new database that holds what the archive holds, compared, with what belongs to the database itself."""
    made, started = archived.manifest, time.monotonic()
    with new_database(site, maintenance, name, made.database):
        yield from pour(site, archived, Restoring(name, wishes.jobs))
        yield events.Restored(name, round((time.monotonic() - started) * 1000))
        held = measure(site, name)
        for statement in contents.reapply(made.database, name, made.contents.roles):
            maintenance.execute(statement)
    told = (*differences(made.contents, held), *other_versions(made.contents, held))
    yield events.Compared(len(held.tables), held.rows, told)
    if told and not wishes.accept:
        raise BackupFailed(
            f"what was restored is not what backup {made.backup_id} says",
            detail="\n".join([*told[:20], f'It is in the database "{name}"; nothing else was changed.']),
            hint="Look at it there. To go on in spite of that, give --accept-differences.",
        )


def pour(site: Site, archived: Archive, given: Restoring) -> Generator[events.Event, None, None]:
    """Restore an archive into an empty database."""
    expected = archived.manifest.contents
    rows = {table.replace('"', ""): count for table, count in expected.tables.items()}
    shown = 0.0
    with site.client_environment() as environ:
        for begun in pg_programs.restore(archived.programs, environ, given, archived.source):
            if time.monotonic() - shown > _TICK:
                shown = time.monotonic()
                done = sum(rows.get(table.replace('"', ""), 0) for table in begun[: -given.jobs])
                yield events.BackupProgress("restore", done, expected.rows)
    with closing(site.connect(given.database)) as connection:
        connection.execute("ANALYZE")  # an archive holds no statistics before 18, and a plan without them is a bad one


def measure(site: Site, name: str) -> Contents:
    """What a database of the site holds."""
    with contents.snapshot(lambda: site.connect(name)) as snapshot:
        return snapshot.contents(site.ledger)


@contextmanager
def translated() -> Iterator[None]:
    """Turn what the server says to statements of a restore into our errors."""
    try:
        with sessions.translated():
            yield
    except MigrationFailed as error:
        refused = error.__cause__
        if not isinstance(refused, psycopg.Error):
            raise
        raise BackupFailed(
            f"the server refused what the restore needs: {sessions.first_line(refused)}",
            detail="\n".join([*sessions.told(refused), "The live database is as it was."]),
            hint="Give the role of this environment that right, or mend what the server names, and run again.",
        ) from refused


def _refuse_own(site: Site, database: str) -> None:
    if database == site.maintenance:
        raise ConfigurationError(
            f"the database {database} cannot be swapped from within itself",
            detail="It is the maintenance database, and no session can rename the database that it is in.",
            hint="Name another of the server's as pg_maintenance_dbname in the inventory, or give --into=NAME.",
        )


@contextmanager
def new_database(
    site: Site, maintenance: psycopg.Connection, name: str, like: Database, *, exact: bool = True
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


@dataclass(frozen=True, slots=True)
class _Swap:
    """Three names: the live one, that of what takes it, and that under which the old one is kept."""

    live: str
    restored: str
    kept: str


def _swap(site: Site, maintenance: psycopg.Connection, names: _Swap, wait: int) -> None:
    """Both names in one transaction. No one gets in from before the sessions are ended until it is done, or undone."""
    ((oid, _),) = _rows(maintenance, "database", name=names.restored)
    live, new, old = (sql.Identifier(name) for name in (names.live, names.restored, names.kept))
    swap = sql.SQL(
        "BEGIN; ALTER DATABASE {live} RENAME TO {old}; ALTER DATABASE {new} RENAME TO {live};"
        " ALTER DATABASE {old} ALLOW_CONNECTIONS true; COMMIT"
    ).format(live=live, new=new, old=old)
    lost = _Lost(maintenance.info.backend_pid, oid, wait)
    try:
        maintenance.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(live))
        _end_sessions(maintenance, names.live)
        answer = sessions.send(maintenance, swap.as_string(maintenance).encode())
        if answer.error is not None:
            raise answer.error
    except BaseException as error:
        swapped = _settle(site, maintenance, names.live, lost)
        if swapped is None:
            raise _unknown(names, error) from error
        if not swapped:
            raise _not_swapped(names, error) from error


@dataclass(frozen=True, slots=True)
class _Lost:
    """A swap that may not have been heard of: the pid of its session, the oid that is to have the live name, and for
    how long the server is asked, in milliseconds."""

    pid: int
    oid: int
    wait: int


def _settle(site: Site, maintenance: psycopg.Connection, database: str, lost: _Lost) -> bool | None:
    """Whether the restored database has the live one's name, which is let in again where not; None where no one could
    be asked. The line may have been lost behind the COMMIT, or before it while the server still works on it."""
    deadline = time.monotonic() + lost.wait / 1000
    while True:
        with suppress(psycopg.Error, Unreachable), _usable(site, maintenance) as connection:
            if connection is maintenance:
                connection.execute("ROLLBACK")
            else:
                _end_sessions(connection, database, lost.pid)
            swapped: bool = [row[0] for row in _rows(connection, "database", name=database)] == [lost.oid]
            if not swapped:
                _admit(connection, database)
            return swapped
        if time.monotonic() >= deadline:
            return None
        time.sleep(_TICK)


def _end_sessions(maintenance: psycopg.Connection, database: str, pid: int | None = None) -> None:
    """Until there are none: one that is ended takes a moment, and one may have been let in a moment before. With a
    `pid` that session of our own alone."""
    deadline = time.monotonic() + _SWAP_WAIT
    while _rows(maintenance, "end_sessions" if pid is None else "end_session", name=database, pid=pid):
        if time.monotonic() >= deadline:
            raise LockBusy(
                f"sessions of the database {database} do not end",
                detail=f"They were told to {_SWAP_WAIT:g} s ago.",
                hint="See them in pg_stat_activity; the role must be a member of theirs, or of pg_signal_backend.",
            )
        time.sleep(_TICK)


@contextmanager
def _usable(site: Site, maintenance: psycopg.Connection) -> Iterator[psycopg.Connection]:
    """The same connection, or another where it broke."""
    if not maintenance.closed:
        yield maintenance
    else:
        with closing(site.connect(site.maintenance)) as connection:
            yield connection


def _not_swapped(names: _Swap, error: BaseException) -> BaseException:
    stays = f'The live database is as it was; what was restored is in "{names.restored}".'
    drops = "`invoke restore --drop-old` drops what is no longer wanted."
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(error, detail=stays, hint=f"Run it again to go on; {drops}")
    if not isinstance(error, psycopg.Error | LockBusy):
        return error
    reason = error.message if isinstance(error, LockBusy) else sessions.first_line(error)
    return BackupFailed(
        f"the restored database could not take the name {names.live}",
        detail=f"{sessions.sentence(reason)}\n{stays}",
        hint=f"Mend the cause and run again; {drops}",
    )


def _unknown(names: _Swap, error: BaseException) -> OutcomeUnknown:
    reason = sessions.first_line(error) if isinstance(error, psycopg.Error) else str(error) or type(error).__name__
    return OutcomeUnknown(
        f"the connection was lost, and whether the restored database has taken the name {names.live} is unknown",
        detail=f'{sessions.sentence(reason)}\nEither there is "{names.kept}", which is the old one; or there is '
        f'"{names.restored}", the new one, and {names.live} is as it was, but may take no connections.',
        hint="When the server answers again, run `invoke restore` again, which lets them in.",
    )


def _admit(maintenance: psycopg.Connection, database: str) -> None:
    """Let sessions in, where a restore that broke off left them locked out."""
    for _, allowed in _rows(maintenance, "database", name=database):
        if not allowed:
            admit = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true")
            maintenance.execute(admit.format(sql.Identifier(database)))


def _take_lock(maintenance: psycopg.Connection, database: str) -> None:
    """One restore of a database at a time; advisory locks are per database, so this one is in the maintenance one."""
    digest = hashlib.sha256(f"pgratchet:restore:{database}".encode()).digest()
    key = int.from_bytes(digest[:8], "big", signed=True)
    if not _rows(maintenance, "lock", key=key)[0][0]:
        raise LockBusy(
            f"another restore of {database} is under way",
            detail="It holds the lock for that in the maintenance database.",
            hint="Wait for it to end.",
        )


def derived(database: str, kind: str) -> str:
    """A name beside that of a database: its beginning, `old` or `restore`, and the time in UTC."""
    ending = f"_{kind}_{datetime.now(timezone.utc):%Y%m%d%H%M%S}"
    return database.encode()[: _NAME_LIMIT - len(ending)].decode(errors="ignore") + ending


def left(site: Site, database: str) -> tuple[str, ...]:
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


def drop(site: Site, database: str, names: Sequence[str]) -> None:
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
