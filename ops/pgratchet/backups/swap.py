"""Swaps a restored database with the live database, after ending the sessions of the live database.

Both names change in the same transaction, so a crash leaves both or neither. ALTER DATABASE ... RENAME locks the live
database: new connections wait, instead of being refused, while its sessions are ended. The transaction ends after two
seconds at most, and then everything is as before (src/backend/commands/dbcommands.c, RenameDatabase; a new connection
takes a lock on its database in src/backend/utils/init/postinit.c).
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgratchet import events
from pgratchet.backups.database_settings import comment_on
from pgratchet.backups.restore_rights import describe_sessions, sessions_to_wait_for
from pgratchet.backups.restore_server import RestoreServer, fetch
from pgratchet.database import connection as sessions
from pgratchet.database import simple_query
from pgratchet.database.simple_query import Answer
from pgratchet.errors import BackupFailed, Interrupted, LockBusy, OutcomeUnknown, Unreachable

_LONGEST_SWAP_MS = 2_000
"""The longest time that clients of the live database wait for a swap, also for one that fails."""
_POLL_INTERVAL = 0.1
CONTINUE = (
    "`invoke restore --continue` repeats this step alone, `invoke restore --drop-old` drops the restored database."
)
_END_SESSIONS = (
    'End these sessions, or have a superuser run GRANT pg_signal_backend TO "{}"; '
    "Sessions of superusers are ended by superusers only."
)
_IN_USE = ("57014", "55006")
"""SQLSTATEs of a rename that sessions of the database prevented: query_canceled, object_in_use."""


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a swap: of the live database, of the restored database, and the old database's future name."""

    live: str
    restored: str
    old: str


@dataclass(frozen=True, slots=True)
class NewComments:
    """The comments of both databases after a swap: the restored one's own, and the record of the old one."""

    live: str | None
    old: str


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A swap whose outcome is unknown: the session's pid, and the oid of the restored database."""

    pid: int
    oid: int


def await_sessions(maintenance: psycopg.Connection, database: str, timeout: int) -> events.Stream:
    """Wait for at most `timeout` milliseconds for the sessions of a database that this role may not end.

    Nobody is shut out meanwhile. Raises BackupFailed, which names the sessions.
    """
    deadline = time.monotonic() + timeout / 1000
    announced: tuple[str, ...] = ()
    while holders := sessions_to_wait_for(maintenance, database):
        if time.monotonic() >= deadline:
            raise BackupFailed(
                f"sessions of the database {database} did not end",
                detail=f"This role may not end them: {'; '.join(holders[:5])}. Waited {timeout / 1000:g} s.\n"
                "The live database was not changed.",
                hint=f"{_END_SESSIONS.format(maintenance.info.user)} {CONTINUE}",
            )
        if holders != announced:
            yield events.SessionsAwaited(database, holders)
            announced = holders
        time.sleep(_POLL_INTERVAL)


def take_free_name(maintenance: psycopg.Connection, names: Names, comment: str | None) -> None:
    """Give the restored database the live name, when no database has that name."""
    with maintenance.transaction():
        rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
        maintenance.execute(rename.format(sql.Identifier(names.restored), sql.Identifier(names.live)))
        maintenance.execute(comment_on(names.live, comment))


def swap(
    server: RestoreServer, maintenance: psycopg.Connection, names: Names, comments: NewComments, timeout: int
) -> None:
    """Give the restored database the live name.

    If the outcome is unknown, the server is asked for `timeout` milliseconds. Raises BackupFailed when the live
    database is unchanged, OutcomeUnknown when the server did not answer.
    """
    ((oid, _),) = fetch(maintenance, "database", name=names.restored)
    attempt = _Attempt(maintenance.info.backend_pid, oid)
    try:
        answer = _rename(server, maintenance, names, comments)
        if answer.error is not None:
            raise _in_use(server, names.live) if answer.error.sqlstate in _IN_USE else answer.error
    except BaseException as error:
        swapped = _find_outcome(server, maintenance, names.live, attempt, timeout)
        if swapped is None:
            raise _unknown(names, error) from error
        if not swapped:
            raise _not_swapped(names, error) from error


def _rename(server: RestoreServer, maintenance: psycopg.Connection, names: Names, comments: NewComments) -> Answer:
    """Rename both databases in one transaction, while another session ends the sessions of the live database."""
    live, new, old = (sql.Identifier(name) for name in (names.live, names.restored, names.old))
    statements = sql.SQL(
        "BEGIN; ALTER DATABASE {live} RENAME TO {old}; ALTER DATABASE {new} RENAME TO {live}; {comments}; COMMIT"
    ).format(
        live=live,
        new=new,
        old=old,
        comments=sql.SQL("; ").join([comment_on(names.old, comments.old), comment_on(names.live, comments.live)]),
    )
    maintenance.execute(sql.SQL("SET statement_timeout = {}").format(sql.Literal(_LONGEST_SWAP_MS)))
    rename = statements.as_string(maintenance).encode()
    with closing(server.open_session(server.maintenance)) as other, ThreadPoolExecutor(1) as background:
        renaming = background.submit(simple_query.send, maintenance, rename)
        while not renaming.done():
            with suppress(psycopg.errors.InsufficientPrivilege):  # the rename then fails, and the error names them
                fetch(other, "end_sessions", name=names.live)
            wait([renaming], timeout=_POLL_INTERVAL / 2)
        return renaming.result()


def _in_use(server: RestoreServer, database: str) -> LockBusy:
    """The error for a live database whose sessions did not end. It names them."""
    with closing(server.open_session(server.maintenance)) as connection:
        described = describe_sessions(fetch(connection, "sessions", name=database))
    return LockBusy(
        f"sessions of the database {database} did not end",
        detail=f"{'; '.join(described) or 'They have ended meanwhile'}.",
        hint="Have these sessions ended by their own role, by a member of pg_signal_backend or by a superuser.",
    )


def _find_outcome(
    server: RestoreServer, maintenance: psycopg.Connection, database: str, attempt: _Attempt, timeout: int
) -> bool | None:
    """Tell whether a swap has happened; None when the server does not answer in time.

    The connection may have been lost after the COMMIT, or while the server still works on the swap.
    """
    deadline = time.monotonic() + timeout / 1000
    while True:
        with suppress(psycopg.Error, Unreachable), server.usable(maintenance) as connection:
            if connection is maintenance:
                connection.execute("ROLLBACK; SET statement_timeout = 0")
            if connection is maintenance or not fetch(connection, "end_session", pid=attempt.pid):
                return [row[0] for row in fetch(connection, "database", name=database)] == [attempt.oid]
        if time.monotonic() >= deadline:
            return None
        time.sleep(_POLL_INTERVAL)


def allow_connections(maintenance: psycopg.Connection, database: str) -> None:
    """Let a database accept connections again, after an interrupted swap."""
    for _, allowed in fetch(maintenance, "database", name=database):
        if not allowed:
            statement = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true")
            maintenance.execute(statement.format(sql.Identifier(database)))


def _not_swapped(names: Names, error: BaseException) -> BaseException:
    if isinstance(error, KeyboardInterrupt):
        outcome = "The live database was not changed; the restored one was dropped."
        return Interrupted(error, detail=outcome, hint="Run the same command again to repeat the restore.")
    outcome = f'The live database was not changed; the restored one is "{names.restored}".'
    if not isinstance(error, psycopg.Error | LockBusy):
        return error
    if isinstance(error, LockBusy):
        reason, remedy = f"{error.message}: {error.detail}", error.hint
    else:
        reason, remedy = sessions.sentence(sessions.first_line(error)), "Fix the cause."
    return BackupFailed(
        f"the restored database could not be given the name {names.live}",
        detail=f"{reason}\n{outcome}",
        hint=f"{remedy} {CONTINUE}",
    )


def _unknown(names: Names, error: BaseException) -> OutcomeUnknown:
    reason = sessions.first_line(error) if isinstance(error, psycopg.Error) else str(error) or type(error).__name__
    return OutcomeUnknown(
        f"the connection was lost, and it is unknown whether the restored database has the name {names.live}",
        detail=f'{sessions.sentence(reason)}\nIf "{names.old}" exists, it is the old database and the swap is done. '
        f'If "{names.restored}" exists, it is the restored one, and {names.live} was not replaced.',
        hint="When the server answers again, look for these names. To repeat it, run `invoke restore` again.",
    )
