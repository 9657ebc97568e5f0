"""Inspects the server behind a connection, and refuses servers unfit for migrations."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from pgratchet.database.simple_query import Answer, rows, send
from pgratchet.errors import ConfigurationError

OLDEST = 130000
"""The oldest supported server_version_num: PostgreSQL 13, the first version with pg_current_xact_id()."""


@dataclass(frozen=True, slots=True)
class Server:
    """Properties of a server and a session on it. `version` is server_version_num."""

    version: int
    database: str
    user: str
    system_identifier: str
    in_recovery: bool
    read_only: bool
    encoding: str
    pooled: bool

    @property
    def major(self) -> int:
        return self.version // 10000


_SERVER = """
SELECT current_setting('server_version_num'), current_database(), session_user, system_identifier,
       pg_is_in_recovery(), current_setting('transaction_read_only')::bool, current_setting('server_encoding'),
       pg_backend_pid()
FROM pg_control_system()
"""


def inspect(connection: psycopg.Connection) -> Server:
    """Inspect the server of a connection."""
    return inspect_and_ask(connection, b"")[0]


def inspect_and_ask(connection: psycopg.Connection, query: bytes) -> tuple[Server, Answer]:
    """Inspect the server and send a query, in a single round trip; the query may fail. The answer has all results."""
    answer = send(connection, b"%b;\n%b" % (_SERVER.encode(), query))
    if not answer.results:
        raise answer.error or psycopg.OperationalError("the server gave no answer")
    (version, database, user, identifier, recovery, read_only, encoding, pid), *_ = rows(answer.results[0])
    return Server(
        version=int(version or 0),
        database=database or "",
        user=user or "",
        system_identifier=identifier or "",
        in_recovery=recovery == "t",
        read_only=read_only == "t",
        encoding=encoding or "",
        # A pooler tells libpq a process id of its own, which is not that of the server's process.
        pooled=int(pid or 0) != connection.info.backend_pid,
    ), answer


def database_size(connection: psycopg.Connection) -> int:
    """Return the size of the database on the server's disk, in bytes."""
    row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    return int(row[0]) if row else 0


def refuse_other_cluster(server: Server, pinned_identifier: str) -> None:
    """Raise ConfigurationError when the server is not the pinned cluster. An empty identifier allows every cluster."""
    if pinned_identifier and server.system_identifier != pinned_identifier:
        raise ConfigurationError(
            f'database "{server.database}" is not on the server that this environment is pinned to',
            detail=f"Its system identifier is {server.system_identifier}; the inventory says {pinned_identifier}.",
            hint="Make sure where pg_host leads. Change pg_system_identifier only when the server was really replaced.",
        )


def refuse_unfit(server: Server, pinned_identifier: str = "") -> None:
    """Raise ConfigurationError for a wrong cluster, an old version, a standby, a read-only session or SQL_ASCII."""
    refuse_other_cluster(server, pinned_identifier)
    where = f'database "{server.database}"'
    if server.version < OLDEST:
        raise ConfigurationError(
            f"the server is PostgreSQL {server.major}",
            detail="It has not what exactly-once needs; the oldest that does is 13.",
            hint="Upgrade the server.",
        )
    if server.in_recovery:
        raise ConfigurationError(
            f"{where} is on a standby",
            detail="A standby replays its primary and takes no changes.",
            hint="Point the inventory at the primary, or set pg_target_session_attrs to read-write.",
        )
    if server.read_only:
        raise ConfigurationError(
            f"{where} is read-only",
            detail="The setting default_transaction_read_only is on for this server, database or role.",
            hint="Use a role that may write, or lift the setting with those who made it.",
        )
    if server.encoding == "SQL_ASCII":
        raise ConfigurationError(
            f"{where} has the encoding SQL_ASCII",
            detail="The server would store the bytes of a migration unchecked and unconverted.",
            hint="Recreate the database with the encoding UTF8.",
        )


def refuse_pooled(server: Server, what: str) -> None:
    """Raise ConfigurationError behind a connection pooler; `what` is a phrase for the operation."""
    if server.pooled:
        raise ConfigurationError(
            f'database "{server.database}" is reached through a connection pooler, where {what}',
            detail="A pooler in transaction mode gives each transaction another of the server's sessions, "
            "and what is set in a session stays behind for others.",
            hint="Give the server's own address as pg_direct_host and pg_direct_port; `invoke render` goes on "
            "to give the application the pooler's.",
        )
