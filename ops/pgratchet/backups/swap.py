"""Swaps a restored database with the live one, and ends the sessions that would prevent it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgratchet.backups.restore_server import RestoreServer, _rows
from pgratchet.database import connection as sessions
from pgratchet.errors import (
    BackupFailed,
    Interrupted,
    LockBusy,
    OutcomeUnknown,
    Unreachable,
)

_SWAP_WAIT = 30.0
"""Seconds that sessions of the live database have to end in."""


_TICK = 0.1


@dataclass(frozen=True, slots=True)
class _Swap:
    """Three names: the live one, that of what takes it, and that under which the old one is kept."""

    live: str
    restored: str
    kept: str


def _swap(site: RestoreServer, maintenance: psycopg.Connection, names: _Swap, wait: int) -> None:
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


def _settle(site: RestoreServer, maintenance: psycopg.Connection, database: str, lost: _Lost) -> bool | None:
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
def _usable(site: RestoreServer, maintenance: psycopg.Connection) -> Iterator[psycopg.Connection]:
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
