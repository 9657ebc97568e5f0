"""Clears the timeouts that a role or a database sets for its sessions.

They are meant for an application's sessions. A backup, a restore, or a run that waits for an answer of its user takes
longer than these, and the server would end its session. An option on the command line of a session takes precedence
over those of role and database (https://www.postgresql.org/docs/current/config-setting.html).
"""

from __future__ import annotations

from collections.abc import Mapping

import psycopg

TIMEOUTS = {
    "statement_timeout": 130000,
    "lock_timeout": 130000,
    "idle_in_transaction_session_timeout": 130000,
    "idle_session_timeout": 140000,
    "transaction_timeout": 170000,
}
"""The timeouts of a session, each with the first server_version_num that has it; 130000 is the oldest supported."""
_NAMES = "'{" + ",".join(TIMEOUTS) + "}'"
_CLEAR = f"""
SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings
WHERE name = ANY ({_NAMES}) AND setting <> '0' AND pg_catalog.pg_backend_pid() = %d
"""  # noqa: S608  constants
_SET = f"SELECT name FROM pg_catalog.pg_settings WHERE name = ANY ({_NAMES}) AND reset_val <> '0'"  # noqa: S608


def clear_query(connection: psycopg.Connection) -> bytes:
    """Return a query that clears every timeout of the session, and none behind a connection pooler.

    There the session belongs to others too. A pooler tells libpq a process id of its own.
    """
    return (_CLEAR % connection.info.backend_pid).encode()


def clear_timeouts(connection: psycopg.Connection) -> psycopg.Connection:
    """Clear every timeout of a long session; returns the connection."""
    connection.execute(clear_query(connection))
    return connection


def without_timeouts(environ: Mapping[str, str], connection: psycopg.Connection) -> dict[str, str]:
    """Return the environment of a libpq program whose sessions have no timeout, as on the server of `connection`."""
    names = [name for (name,) in connection.execute(_SET.encode()).fetchall()]
    options = [environ.get("PGOPTIONS", ""), *(f"-c {name}=0" for name in names)]
    return {**environ, "PGOPTIONS": " ".join(filter(None, options))} if names else dict(environ)
