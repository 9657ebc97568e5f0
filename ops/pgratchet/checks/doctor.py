"""Checks a server for problems before a migration meets them, and says how to fix each.

The queries are in doctor.sql. Every query runs in a transaction of its own and changes nothing, not even session
settings, so nothing remains behind a connection pooler. A failing check becomes a finding, and the next check runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import psycopg

from pgratchet.database import blockers, inspection, queries
from pgratchet.database import connection as sessions
from pgratchet.database.history import History
from pgratchet.database.inspection import Server
from pgratchet.errors import RatchetError
from pgratchet.formatting import format_size

Severity = Literal["ok", "warning", "problem"]
SUPPORTED = (14, 19)
"""The first and the last supported major version. `connection.OLDEST` is the oldest version that is not refused."""
MAX_TRANSACTION_AGE = 300
"""Seconds after which an open transaction is reported."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check. A migration would fail because of a `problem`.

    `what` is a phrase. `remedy` has sentences or an SQL statement.
    """

    severity: Severity
    subject: str
    what: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class DoctorOptions:
    """Selects what is checked. `extensions` are created by pending migrations. `max_transaction_age` is in seconds."""

    history: History
    pinned_identifier: str = ""
    uses_pg_dump: bool = True
    extensions: Sequence[str] = ()
    max_transaction_age: int = MAX_TRANSACTION_AGE


def finding_of(error: RatchetError, subject: str) -> Finding:
    """Convert an error into a finding."""
    detail = f": {error.detail}" if error.detail else ""
    return Finding("problem", subject, error.message + detail, error.hint)


@contextmanager
def collecting(findings: list[Finding], subject: str, past: tuple[type[RatchetError], ...] = ()) -> Iterator[None]:
    """Convert an error in the block into a finding, except errors of the types in `past`."""
    try:
        yield
    except past:
        raise
    except RatchetError as error:
        findings.append(finding_of(error, subject))


def check_server(connection: psycopg.Connection, options: DoctorOptions) -> Iterator[Finding]:
    """Run every check on a server. A lost connection ends the checks with a finding."""
    try:
        server = inspection.inspect(connection)
    except psycopg.Error as error:
        yield _failed_check("server", error)
        return
    encryption = _describe_encryption(connection)
    yield Finding("ok", "login", f'database "{server.database}" as {server.user}, {encryption}')
    yield from _check_properties(server, options)
    for subject, check in _CHECKS.items():
        try:
            yield from list(check(connection, options))
        except psycopg.Error as error:  # noqa: PERF203
            yield _failed_check(subject, error)
            if connection.closed:
                return


def _describe_encryption(connection: psycopg.Connection) -> str:
    if connection.pgconn.ssl_in_use:
        return "encrypted"
    return "by a socket" if connection.info.host.startswith("/") else "not encrypted"


def _failed_check(subject: str, error: psycopg.Error) -> Finding:
    reason = " ".join([sessions.first_line(error), *sessions.error_details(error)])
    return Finding("problem", subject, f"could not be asked: {reason}", "Fix that, and run `invoke doctor` again.")


def _check_properties(server: Server, options: DoctorOptions) -> Iterator[Finding]:
    yield check_version(server)
    yield _check_identity(server, options.pinned_identifier)
    yield _check_writable(server)
    if server.encoding == "SQL_ASCII":
        yield Finding("problem", "encoding", "SQL_ASCII stores bytes unchecked", "Recreate the database with UTF8.")
    if server.pooled:
        yield Finding(
            "problem" if options.uses_pg_dump else "warning",
            "pooler",
            "a connection pooler stands in between: no backup, and no file without a transaction, goes through it",
            "Give the server's own address as pg_direct_host and pg_direct_port.",
        )


def check_version(server: Server) -> Finding:
    """Check the server's version."""
    oldest, newest = SUPPORTED
    version = f"PostgreSQL {server.major}.{server.version % 10000}"
    if server.version < inspection.OLDEST:
        remedy = "Upgrade it: 13 is the oldest."
        return Finding("problem", "server", f"{version} has not what exactly-once needs", remedy)
    if not oldest <= server.major <= newest:
        remedy = f"Supported are {oldest} to {newest}."
        return Finding("warning", "server", f"{version} is taken, but not tested with", remedy)
    return Finding("ok", "server", version)


def _check_identity(server: Server, pinned: str) -> Finding:
    subject, number = "identity", server.system_identifier
    if not pinned:
        return Finding("ok", subject, f"not pinned; pg_system_identifier: '{number}' in the inventory would pin it")
    if pinned != number:
        remedy = "Make sure where pg_host leads. Change the inventory only when the server was really replaced."
        return Finding("problem", subject, f"this is cluster {number}, and the inventory pins {pinned}", remedy)
    return Finding("ok", subject, f"the cluster that is pinned, {number}")


def _check_writable(server: Server) -> Finding:
    if server.in_recovery:
        remedy = "Point the inventory at the primary, or set pg_target_session_attrs to read-write."
        return Finding("problem", "writable", "this is a standby, which takes no changes", remedy)
    if server.read_only:
        remedy = "Use a role that may write, or lift default_transaction_read_only with those who set it."
        return Finding("problem", "writable", "sessions are read-only here", remedy)
    return Finding("ok", "writable", "a primary that takes changes")


def _query(connection: psycopg.Connection, name: str, /, **values: Any) -> list[tuple[Any, ...]]:
    return connection.execute(queries.load(__file__, "doctor")[name].encode(), values).fetchall()


def _check_history_privileges(connection: psycopg.Connection, options: DoctorOptions) -> Iterator[Finding]:
    history = options.history
    row = _query(connection, "history", schema=history.schema, table=history.table)[0]
    has_schema, may_use_schema, may_create_in_schema, may_create_schema, has_table, may_write = row
    missing = None
    if has_table and not (may_use_schema and may_write):
        missing = f"SELECT, INSERT and UPDATE on {history.schema}.{history.table}"
    elif has_schema and not has_table and not (may_use_schema and may_create_in_schema):
        missing = f"CREATE on the schema {history.schema}"
    elif not has_schema and not may_create_schema:
        missing = f"CREATE on the database, for the schema {history.schema}"
    if missing:
        yield Finding("problem", "privileges", f"this role lacks {missing}", "Have it granted by the owner.")
    else:
        yield Finding("ok", "privileges", "the history can be " + ("written" if has_table else "made"))


def _check_dump_privileges(connection: psycopg.Connection, options: DoctorOptions) -> Iterator[Finding]:
    rows = _query(connection, "unreadable") if options.uses_pg_dump else []
    if not rows:
        return
    hidden = [name for name, has_row_security in rows if has_row_security]
    remedy = "Grant it pg_read_all_data, or use the owner's role."
    if hidden:
        remedy += f" Row security hides rows of {_first(hidden)}: only their owner or a role with BYPASSRLS dumps them."
    what = f"pg_dump cannot read {_first([name for name, _ in rows])}, so there is no backup"
    yield Finding("problem", "dump", what, remedy)


def _check_indexes(connection: psycopg.Connection, _: DoctorOptions) -> Iterator[Finding]:
    for index, table, is_leftover in _query(connection, "invalid_indexes"):
        verb = "DROP INDEX" if is_leftover else "REINDEX INDEX"
        what = f"{index} on {table} is INVALID: it is kept up and never used"
        yield Finding("warning", "index", what, f"{verb} CONCURRENTLY {index};")


def _check_transactions(connection: psycopg.Connection, options: DoctorOptions) -> Iterator[Finding]:
    age = options.max_transaction_age
    for pid, user, program, state, seconds in _query(connection, "transactions", age=age):
        session = f"pid {pid}, {program or 'unnamed'} as {user}, {state or 'hidden from this role'}"
        what = f"open for {seconds} s: {session}; ALTER TABLE and CONCURRENTLY may wait for it"
        yield Finding("warning", "transaction", what, f"End it there, or SELECT pg_terminate_backend({pid});")


def _check_prepared_transactions(connection: psycopg.Connection, _: DoctorOptions) -> Iterator[Finding]:
    for name, owner, seconds in _query(connection, "prepared"):
        literal = name.replace("'", "''")
        what = f'"{name}" of {owner}, for {seconds} s: it keeps its locks, and no restore goes by it'
        yield Finding("warning", "prepared", what, f"COMMIT PREPARED '{literal}'; or ROLLBACK PREPARED '{literal}';")


def _check_slots(connection: psycopg.Connection, _: DoctorOptions) -> Iterator[Finding]:
    for name, database, status, size in _query(connection, "slots"):
        wal = f"and keeps {format_size(int(size))} of WAL" if size is not None else f"and its WAL is {status}"
        what = f"the slot {name} ({database}) has no reader, {wal}"
        remedy = f"Start its reader; or, if it has none any more: SELECT pg_drop_replication_slot('{name}');"
        yield Finding("warning", "slot", what, remedy)


def _check_locks(connection: psycopg.Connection, options: DoctorOptions) -> Iterator[Finding]:
    if _query(connection, "migration_lock", key=options.history.lock_key)[0][0]:
        holder = blockers.lock_holder(connection, options.history.lock_key)
        yield Finding("warning", "lock", f"the migration lock is held by {holder}", "Wait for that run to end.")
    for table, pid, user, seconds in _query(connection, "exclusive"):
        what = f"{table} is locked against every reader by pid {pid}, {user}, for {seconds} s"
        yield Finding("warning", "lock", what, f"Wait, or SELECT pg_terminate_backend({pid});")
    for pid, user, query, by in _query(connection, "waiting"):
        remedy = f"SELECT pg_terminate_backend({by}); ends what it waits for." if by else "See pg_prepared_xacts."
        yield Finding("warning", "lock", f"pid {pid} of {user} waits for a lock, with: {query}", remedy)


def _check_extensions(connection: psycopg.Connection, options: DoctorOptions) -> Iterator[Finding]:
    for name, is_available in _query(connection, "extensions", names=list(options.extensions)):
        if is_available:
            what, remedy = f"this role may not create {name}", "Have a superuser create it before the migration."
        else:
            what = f"a pending migration creates {name}, which this server has not"
            remedy = "Install its package on the server; the PostgreSQL that comes along has only some of contrib."
        yield Finding("problem", "extension", what, remedy)


_CHECKS: Mapping[str, Callable[[psycopg.Connection, DoctorOptions], Iterator[Finding]]] = {
    "privileges": _check_history_privileges,
    "dump": _check_dump_privileges,
    "index": _check_indexes,
    "transaction": _check_transactions,
    "prepared": _check_prepared_transactions,
    "slot": _check_slots,
    "lock": _check_locks,
    "extension": _check_extensions,
}
"""The checks by the subject of their findings."""


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
