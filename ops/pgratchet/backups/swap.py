"""Swaps a restored database with the live database, after ending the sessions of the live database.

Both names change in the same transaction, so a crash leaves both or neither. The live database accepts no connections
from before the sessions are ended until the transaction ends.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgratchet.backups.restore_server import RestoreServer, fetch
from pgratchet.database import connection as sessions
from pgratchet.database import simple_query
from pgratchet.errors import BackupFailed, Interrupted, LockBusy, OutcomeUnknown, Unreachable

_SESSION_TIMEOUT = 30.0
"""Seconds that sessions of the live database have to end in."""
_POLL_INTERVAL = 0.1


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a swap: of the live database, of the restored database, and the old database's future name."""

    live: str
    restored: str
    old: str


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A swap whose outcome is unknown: the session's pid, and the oid of the restored database."""

    pid: int
    oid: int


def swap(server: RestoreServer, maintenance: psycopg.Connection, names: Names, timeout: int) -> None:
    """Give the restored database the live name.

    If the outcome is unknown, the server is asked for `timeout` milliseconds. Raises BackupFailed when the live
    database is unchanged, OutcomeUnknown when the server did not answer.
    """
    ((oid, _),) = fetch(maintenance, "database", name=names.restored)
    live, new, old = (sql.Identifier(name) for name in (names.live, names.restored, names.old))
    statements = sql.SQL(
        "BEGIN; ALTER DATABASE {live} RENAME TO {old}; ALTER DATABASE {new} RENAME TO {live};"
        " ALTER DATABASE {old} ALLOW_CONNECTIONS true; COMMIT"
    ).format(live=live, new=new, old=old)
    attempt = _Attempt(maintenance.info.backend_pid, oid)
    try:
        maintenance.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(live))
        _end_sessions(maintenance, names.live)
        answer = simple_query.send(maintenance, statements.as_string(maintenance).encode())
        if answer.error is not None:
            raise answer.error
    except BaseException as error:
        swapped = _find_outcome(server, maintenance, names.live, attempt, timeout)
        if swapped is None:
            raise _unknown(names, error) from error
        if not swapped:
            raise _not_swapped(names, error) from error


def _find_outcome(
    server: RestoreServer, maintenance: psycopg.Connection, database: str, attempt: _Attempt, timeout: int
) -> bool | None:
    """Tell whether a swap has happened; None when the server does not answer in time.

    The connection may have been lost after the COMMIT, or while the server still works on the swap. When the swap has
    not happened, the live database accepts connections again.
    """
    deadline = time.monotonic() + timeout / 1000
    while True:
        with suppress(psycopg.Error, Unreachable), server.usable(maintenance) as connection:
            if connection is maintenance:
                connection.execute("ROLLBACK")
            else:
                _end_sessions(connection, database, attempt.pid)
            swapped: bool = [row[0] for row in fetch(connection, "database", name=database)] == [attempt.oid]
            if not swapped:
                allow_connections(connection, database)
            return swapped
        if time.monotonic() >= deadline:
            return None
        time.sleep(_POLL_INTERVAL)


def _end_sessions(maintenance: psycopg.Connection, database: str, pid: int | None = None) -> None:
    """End the sessions of a database, or our session of this pid, and wait until they have ended."""
    deadline = time.monotonic() + _SESSION_TIMEOUT
    while fetch(maintenance, "end_sessions" if pid is None else "end_session", name=database, pid=pid):
        if time.monotonic() >= deadline:
            raise LockBusy(
                f"sessions of the database {database} do not end",
                detail=f"They were told to {_SESSION_TIMEOUT:g} s ago.",
                hint="See them in pg_stat_activity; the role must be a member of theirs, or of pg_signal_backend.",
            )
        time.sleep(_POLL_INTERVAL)


def allow_connections(maintenance: psycopg.Connection, database: str) -> None:
    """Let a database accept connections again, after an interrupted swap."""
    for _, allowed in fetch(maintenance, "database", name=database):
        if not allowed:
            statement = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true")
            maintenance.execute(statement.format(sql.Identifier(database)))


def _not_swapped(names: Names, error: BaseException) -> BaseException:
    outcome = f'The live database is as it was; what was restored is in "{names.restored}".'
    advice = "`invoke restore --drop-old` drops what is no longer wanted."
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(error, detail=outcome, hint=f"Run it again to go on; {advice}")
    if not isinstance(error, psycopg.Error | LockBusy):
        return error
    reason = error.message if isinstance(error, LockBusy) else sessions.first_line(error)
    return BackupFailed(
        f"the restored database could not take the name {names.live}",
        detail=f"{sessions.sentence(reason)}\n{outcome}",
        hint=f"Fix the cause and run again; {advice}",
    )


def _unknown(names: Names, error: BaseException) -> OutcomeUnknown:
    reason = sessions.first_line(error) if isinstance(error, psycopg.Error) else str(error) or type(error).__name__
    return OutcomeUnknown(
        f"the connection was lost, and whether the restored database has taken the name {names.live} is unknown",
        detail=f'{sessions.sentence(reason)}\nEither there is "{names.old}", which is the old one; or there is '
        f'"{names.restored}", the new one, and {names.live} is as it was, but may take no connections.',
        hint="When the server answers again, run `invoke restore` again, which lets them in.",
    )
