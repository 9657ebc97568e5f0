"""Inspects the server behind a connection, and refuses servers unfit for migrations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import psycopg

from pgratchet.database.connection import first_line, sentence
from pgratchet.database.simple_query import Answer, rows, send
from pgratchet.database.timeouts import clear_query
from pgratchet.errors import ConfigurationError
from pgratchet.formatting import join_names

OLDEST = 130000
"""The oldest supported server_version_num: PostgreSQL 13, the first version with pg_current_xact_id()."""


@dataclass(frozen=True, slots=True)
class Server:
    """Properties of a server and a session on it. `version` is server_version_num.

    `pooled`: the session is reached through a connection pooler. `pid` is the server's process.
    """

    version: int
    database: str
    user: str
    system_identifier: str
    in_recovery: bool
    read_only: bool
    encoding: str
    pooled: bool
    pid: int = 0

    @property
    def major(self) -> int:
        return self.version // 10000


_SERVER = """
SELECT current_setting('server_version_num'), current_database(), session_user, system_identifier,
       pg_is_in_recovery(), current_setting('transaction_read_only')::bool, current_setting('server_encoding'),
       pg_backend_pid()
FROM pg_control_system()
"""

_OTHER_CODE = r"""
SELECT EXISTS (SELECT FROM pg_catalog.pg_event_trigger WHERE evtenabled <> 'D' AND evtevent <> 'login')
    OR pg_catalog.current_setting('search_path') ~ '^\s*[^,]+,.*pg_catalog'
    OR EXISTS (SELECT FROM pg_catalog.unnest(%s::text[]) AS t (name) WHERE pg_catalog.to_regclass(name) IS NOT NULL)
"""


def inspect(connection: psycopg.Connection) -> Server:
    """Inspect the server of a connection."""
    return inspect_and_ask(connection, b"")[0]


def inspect_and_ask(connection: psycopg.Connection, query: bytes) -> tuple[Server, Answer]:
    """Inspect the server, clear the session's timeouts and send a query, in a single round trip; the query may fail.

    The answer has the results of the query only.
    """
    # In a transaction of its own, because an error of the query would undo it.
    clear = b"BEGIN;\n%b;\nCOMMIT" % clear_query(connection)
    answer = send(connection, b"%b;\n%b;\n%b" % (clear, _SERVER.encode(), query))
    if len(answer.tables) < 2:
        raise _refusal(answer.error)
    server = answer.tables[1]
    (version, database, user, identifier, recovery, read_only, encoding, pid), *_ = rows(server)
    results = list(answer.results)
    answer = replace(answer, results=results[results.index(server) + 1 :])
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
        pid=int(pid or 0),
    ), answer


def _refusal(error: psycopg.Error | None) -> Exception:
    """Return the error for a server that does not say what it is."""
    if error is None:
        return psycopg.OperationalError("the server gave no answer")
    if not isinstance(error, psycopg.errors.InsufficientPrivilege):
        return error
    return ConfigurationError(
        "this role may not read the server's identity",
        detail=f"The server says: {sentence(first_line(error))} The system identifier shows that each connection leads "
        "to the same server, and to the one in the inventory.",
        hint="Have a superuser run GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_system() TO the role of this "
        "environment.",
    )


def database_size(connection: psycopg.Connection) -> int:
    """Return the size of the database on the server's disk, in bytes."""
    row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    return int(row[0]) if row else 0


def may_run_other_code(connection: psycopg.Connection, new_tables: Iterable[str]) -> bool:
    """Return whether additive migrations can run functions of a user.

    They do by an event trigger, by a function that is found in another schema before pg_catalog, or when a table of
    `new_tables` exists and has triggers.
    """
    row = connection.execute(_OTHER_CODE.encode(), (list(new_tables),)).fetchone()
    return row is None or bool(row[0])


def refuse_other_cluster(server: Server, pinned_identifier: str) -> None:
    """Raise ConfigurationError when the server is not the pinned cluster. An empty identifier allows every cluster."""
    if pinned_identifier and server.system_identifier != pinned_identifier:
        raise ConfigurationError(
            f'database "{server.database}" is on another cluster than the pinned one',
            detail=f"Its system identifier is {server.system_identifier}; the inventory says {pinned_identifier}.",
            hint="Check pg_host. Change pg_system_identifier only after the server was replaced.",
        )


def refuse_unfit(server: Server, pinned_identifier: str = "") -> None:
    """Raise ConfigurationError for a wrong cluster, an old version, a standby or a read-only session."""
    refuse_other_cluster(server, pinned_identifier)
    where = f'database "{server.database}"'
    if server.version < OLDEST:
        raise ConfigurationError(
            f"the server is PostgreSQL {server.major}",
            detail="PostgreSQL 13 is the oldest version that is supported.",
            hint="Upgrade the server.",
        )
    if server.in_recovery:
        raise ConfigurationError(
            f"{where} is on a standby",
            detail="A standby replays its primary and accepts no changes.",
            hint="Point the inventory at the primary, or set pg_target_session_attrs to read-write.",
        )
    if server.read_only:
        raise ConfigurationError(
            f"{where} is read-only",
            detail="The setting default_transaction_read_only is on for this server, database or role.",
            hint="Use a role that may write, or ask the database's owner to turn the setting off.",
        )


def refuse_unconvertible(server: Server, names: Sequence[str]) -> None:
    """Raise ConfigurationError for migrations with other characters than ASCII in a database without an encoding."""
    if server.encoding == "SQL_ASCII" and names:
        raise ConfigurationError(
            f'database "{server.database}" has the encoding SQL_ASCII, and {join_names(names)} is not all ASCII',
            detail="The server would store the bytes unchecked and unconverted, among bytes of other encodings.",
            hint="Use only ASCII characters in the file, or recreate the database with the encoding UTF8.",
        )
