"""Finds out how a connection pooler assigns the server's sessions, and refuses what a pooler cannot carry.

A pooler in session mode keeps one of the server's sessions for each client, as a direct connection has. A pooler in
transaction mode lends a session for each transaction (https://www.pgbouncer.org/features.html), and does not say which
mode it has. So a second connection asks for a session again and again while the first one is idle: in session mode it
never gets that of the first, and the first one always has the same.
"""

from __future__ import annotations

from contextlib import closing

import psycopg
from psycopg import generators

from pgratchet.database.connection import connect
from pgratchet.database.inspection import Server
from pgratchet.errors import ConfigurationError, RatchetError

_ROUNDS = 10
"""Each round would show a pooler in transaction mode, unless another client of it takes the session at that moment."""
_PATIENCE = 5.0
"""Seconds to wait for a session from the pooler, which can have none left."""
_PID = b"SELECT pg_catalog.pg_backend_pid()"


def refuse_pooled(server: Server, what: str, connection: psycopg.Connection | None = None) -> None:
    """Raise ConfigurationError behind a connection pooler; `what` is a phrase for the operation.

    With a `connection` to the server a pooler in session mode is accepted.
    """
    if not server.pooled or (connection is not None and keeps_session(connection)):
        return
    detail = (
        "The pooler keeps connections to the database."
        if connection is None
        else "The pooler gives each transaction another of the server's sessions, and settings of a session stay for "
        "others: it is in transaction or statement mode, or has no free session to find out."
    )
    raise ConfigurationError(
        f'database "{server.database}" is reached through a connection pooler, where {what}',
        detail=detail,
        hint="Set pg_direct_host and pg_direct_port to the server's own address. `invoke render` still shows the "
        "pooler's address, for the application.",
    )


def keeps_session(connection: psycopg.Connection) -> bool:
    """Return whether the pooler keeps one of the server's sessions for the connection; False when in doubt."""
    parameters = {**connection.info.get_parameters(), "password": connection.info.password}
    try:
        with closing(connect(parameters)) as other:
            return all(_have_own_sessions(connection, other) for _ in range(_ROUNDS))
    except (psycopg.Error, RatchetError):
        return False


def _have_own_sessions(connection: psycopg.Connection, other: psycopg.Connection) -> bool:
    own = _ask(connection, _PID)
    borrowed = _ask(other, b"BEGIN;" + _PID)
    if borrowed == own:
        return False
    try:
        again = _ask(connection, _PID)
    except psycopg.Error:  # it waits for the session that the other connection holds
        other.close()
        _receive(connection, timeout=None)
        return False
    _ask(other, b"ROLLBACK;" + _PID)
    return own == again


def _ask(connection: psycopg.Connection, text: bytes) -> bytes | None:
    with connection.lock:
        connection.pgconn.send_query(text)
        return _receive(connection, timeout=_PATIENCE)


def _receive(connection: psycopg.Connection, *, timeout: float | None) -> bytes | None:
    results = connection.wait(generators.execute(connection.pgconn), timeout=timeout)
    value = results[-1].get_value(0, 0) if results and results[-1].ntuples else None
    return None if value is None else bytes(value)
