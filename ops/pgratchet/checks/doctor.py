"""What stands in the way of a migration, found before it does: each finding with its remedy.

Owns the questions, which stand in doctor.sql, and the judgement of their answers. Refuses to know settings and
terminals, and changes nothing: it looks by plain queries, one transaction each, sets nothing in the session, and so
leaves nothing behind a pooler either. Three parts, each of plain values: the server, by a connection; this machine, by
what was chosen and measured on it; the files, by the plan. A check that fails is a finding, and the next one follows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psycopg

from pgratchet.database import blockers, queries
from pgratchet.database import connection as sessions
from pgratchet.database.connection import Server
from pgratchet.database.history import History
from pgratchet.errors import RatchetError
from pgratchet.formatting import format_size
from pgratchet.migrations import lexer, scripts
from pgratchet.migrations.files import Migration
from pgratchet.migrations.plan import HistoryRow, State, make_plan, require_agreement

Severity = Literal["ok", "warning", "problem"]
SUPPORTED = (14, 19)
"""The majors that are supported, from and to; the oldest that is taken is `connection.OLDEST`."""
PATIENCE = 300
"""Seconds that a transaction may be open before it is named."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`problem` is what a migration would fail at; `what` is a phrase, `remedy` sentences or a statement."""

    severity: Severity
    subject: str
    what: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class DoctorOptions:
    """What a target expects of its server. `extensions` are those that pending files make; `patience` is in seconds."""

    history: History
    pinned_identifier: str = ""
    dumps: bool = True
    extensions: Sequence[str] = ()
    patience: int = PATIENCE


def finding_of(error: RatchetError, subject: str) -> Finding:
    """An error, such as that the server cannot be reached, as a finding."""
    detail = f": {error.detail}" if error.detail else ""
    return Finding("problem", subject, error.message + detail, error.hint)


# The server.


def server(connection: psycopg.Connection, asked: DoctorOptions) -> Iterator[Finding]:
    """Everything about the server that a connection leads to; one that is lost ends it, and says so."""
    try:
        seen = sessions.inspect(connection)
    except psycopg.Error as error:
        yield _unanswered("server", error)
        return
    yield Finding("ok", "login", f'database "{seen.database}" as {seen.user}, {_line(connection)}')
    yield from _judged(seen, asked)
    for subject, check in _CHECKS.items():
        try:
            yield from list(check(connection, asked))
        except psycopg.Error as error:  # noqa: PERF203
            yield _unanswered(subject, error)
            if connection.closed:
                return


def _line(connection: psycopg.Connection) -> str:
    if connection.pgconn.ssl_in_use:
        return "encrypted"
    return "by a socket" if connection.info.host.startswith("/") else "not encrypted"


def _unanswered(subject: str, error: psycopg.Error) -> Finding:
    told = " ".join([sessions.first_line(error), *sessions.error_details(error)])
    return Finding("problem", subject, f"could not be asked: {told}", "Mend that, and run `invoke doctor` again.")


def _judged(seen: Server, asked: DoctorOptions) -> Iterator[Finding]:
    yield _version(seen)
    yield _identity(seen, asked.pinned_identifier)
    yield _state(seen)
    if seen.encoding == "SQL_ASCII":
        yield Finding("problem", "encoding", "SQL_ASCII stores bytes unchecked", "Recreate the database with UTF8.")
    if seen.pooled:
        yield Finding(
            "problem" if asked.dumps else "warning",
            "pooler",
            "a connection pooler stands in between: no backup, and no file without a transaction, goes through it",
            "Give the server's own address as pg_direct_host and pg_direct_port.",
        )


def _version(seen: Server) -> Finding:
    oldest, newest = SUPPORTED
    told = f"PostgreSQL {seen.major}.{seen.version % 10000}"
    if seen.version < sessions.OLDEST:
        return Finding("problem", "server", f"{told} has not what exactly-once needs", "Upgrade it: 13 is the oldest.")
    if not oldest <= seen.major <= newest:
        remedy = f"Supported are {oldest} to {newest}."
        return Finding("warning", "server", f"{told} is taken, but not tested with", remedy)
    return Finding("ok", "server", told)


def _identity(seen: Server, pinned: str) -> Finding:
    subject, number = "identity", seen.system_identifier
    if not pinned:
        return Finding("ok", subject, f"not pinned; pg_system_identifier: '{number}' in the inventory would pin it")
    if pinned != number:
        remedy = "Make sure where pg_host leads. Change the inventory only when the server was really replaced."
        return Finding("problem", subject, f"this is cluster {number}, and the inventory pins {pinned}", remedy)
    return Finding("ok", subject, f"the cluster that is pinned, {number}")


def _state(seen: Server) -> Finding:
    if seen.in_recovery:
        remedy = "Point the inventory at the primary, or set pg_target_session_attrs to read-write."
        return Finding("problem", "writable", "this is a standby, which takes no changes", remedy)
    if seen.read_only:
        remedy = "Use a role that may write, or lift default_transaction_read_only with those who set it."
        return Finding("problem", "writable", "sessions are read-only here", remedy)
    return Finding("ok", "writable", "a primary that takes changes")


def _rows(connection: psycopg.Connection, name: str, /, **values: Any) -> list[tuple[Any, ...]]:
    return connection.execute(queries.load(__file__, "doctor")[name].encode(), values).fetchall()


def _rights(connection: psycopg.Connection, asked: DoctorOptions) -> Iterator[Finding]:
    """The right to keep the history: what the first run makes, or what is there."""
    history = asked.history
    found = _rows(connection, "history", schema=history.schema, table=history.table)
    there, usage, create, on_database, table, written = found[0]
    missing = None
    if table and not (usage and written):
        missing = f"SELECT, INSERT and UPDATE on {history.schema}.{history.table}"
    elif there and not table and not (usage and create):
        missing = f"CREATE on the schema {history.schema}"
    elif not there and not on_database:
        missing = f"CREATE on the database, for the schema {history.schema}"
    if missing:
        yield Finding("problem", "privileges", f"this role lacks {missing}", "Have it granted by the owner.")
    else:
        yield Finding("ok", "privileges", "the history can be " + ("written" if table else "made"))


def _readable(connection: psycopg.Connection, asked: DoctorOptions) -> Iterator[Finding]:
    found = _rows(connection, "unreadable") if asked.dumps else []
    if not found:
        return
    hidden = [name for name, secured in found if secured]
    remedy = "Grant it pg_read_all_data, or use the owner's role."
    if hidden:
        remedy += f" Row security hides rows of {_few(hidden)}: only their owner or a role with BYPASSRLS dumps them."
    what = f"pg_dump cannot read {_few([name for name, _ in found])}, so there is no backup"
    yield Finding("problem", "dump", what, remedy)


def _indexes(connection: psycopg.Connection, _: DoctorOptions) -> Iterator[Finding]:
    for index, table, left, _ready in _rows(connection, "invalid_indexes"):
        verb = "DROP INDEX" if left else "REINDEX INDEX"
        what = f"{index} on {table} is INVALID: it is kept up and never used"
        yield Finding("warning", "index", what, f"{verb} CONCURRENTLY {index};")


def _transactions(connection: psycopg.Connection, asked: DoctorOptions) -> Iterator[Finding]:
    for pid, user, program, state, seconds in _rows(connection, "transactions", patience=asked.patience):
        who = f"pid {pid}, {program or 'unnamed'} as {user}, {state or 'hidden from this role'}"
        what = f"open for {seconds} s: {who}; ALTER TABLE and CONCURRENTLY may wait for it"
        yield Finding("warning", "transaction", what, f"End it there, or SELECT pg_terminate_backend({pid});")


def _prepared(connection: psycopg.Connection, _: DoctorOptions) -> Iterator[Finding]:
    for name, owner, seconds in _rows(connection, "prepared"):
        literal = name.replace("'", "''")
        what = f'"{name}" of {owner}, for {seconds} s: it keeps its locks, and no restore goes by it'
        yield Finding("warning", "prepared", what, f"COMMIT PREPARED '{literal}'; or ROLLBACK PREPARED '{literal}';")


def _slots(connection: psycopg.Connection, _: DoctorOptions) -> Iterator[Finding]:
    for name, database, status, kept in _rows(connection, "slots"):
        held = f"and keeps {format_size(int(kept))} of WAL" if kept is not None else f"and its WAL is {status}"
        what = f"the slot {name} ({database}) has no reader, {held}"
        remedy = f"Start its reader; or, if it has none any more: SELECT pg_drop_replication_slot('{name}');"
        yield Finding("warning", "slot", what, remedy)


def _locks(connection: psycopg.Connection, asked: DoctorOptions) -> Iterator[Finding]:
    if _rows(connection, "migration_lock", key=asked.history.lock_key)[0][0]:
        holder = blockers.lock_holder(connection, asked.history.lock_key)
        yield Finding("warning", "lock", f"the migration lock is held by {holder}", "Wait for that run to end.")
    for table, pid, user, seconds in _rows(connection, "exclusive"):
        what = f"{table} is locked against every reader by pid {pid}, {user}, for {seconds} s"
        yield Finding("warning", "lock", what, f"Wait, or SELECT pg_terminate_backend({pid});")
    for pid, user, query, by in _rows(connection, "waiting"):
        remedy = f"SELECT pg_terminate_backend({by}); ends what it waits for." if by else "See pg_prepared_xacts."
        yield Finding("warning", "lock", f"pid {pid} of {user} waits for a lock, with: {query}", remedy)


def _extensions(connection: psycopg.Connection, asked: DoctorOptions) -> Iterator[Finding]:
    for name, available in _rows(connection, "extensions", names=list(asked.extensions)):
        if available:
            what, remedy = f"this role may not create {name}", "Have a superuser create it before the migration."
        else:
            what = f"a pending migration creates {name}, which this server has not"
            remedy = "Install its package on the server; the PostgreSQL that comes along has only some of contrib."
        yield Finding("problem", "extension", what, remedy)


_CHECKS: Mapping[str, Callable[[psycopg.Connection, DoctorOptions], Iterator[Finding]]] = {
    "privileges": _rights,
    "dump": _readable,
    "index": _indexes,
    "transaction": _transactions,
    "prepared": _prepared,
    "slot": _slots,
    "lock": _locks,
    "extension": _extensions,
}


# This machine.


def program(version: str, folder: Path, server_version: int, *, tls: bool, packaged: Path | None) -> Finding:
    """Which pg_dump was chosen for a server, and why; `packaged` is the folder of the package's, where there is one."""
    major, wanted = int(version.partition(".")[0]), server_version // 10000
    why = "the server's own major" if major == wanted else f"the nearest that is not older than the server's {wanted}"
    if folder == packaged:
        why += "; of the package, which has no TLS and is used where the line is not encrypted"
    elif tls:
        why += "; the line is encrypted, and the package's has no TLS"
    return Finding("ok", "pg_dump", f"{version} in {folder}: {why}")


def room(where: str, free: int | None, wanted: int, database: int) -> Finding:
    """Whether a backup has room: `free` bytes, None where there is no end to it; about `wanted` for one of a `database`
    of so many. A dump is compressed and without indexes, so it is seldom as large as the database."""
    if free is None:
        return Finding("ok", "room", f"backups go to {where}, which has room without end")
    told = f"{format_size(free)} free in {where}; the database has {format_size(database)}, a backup takes about {format_size(wanted)}"
    if free >= database:
        return Finding("ok", "room", told)
    remedy = "Make room there, or set backup_dir, or a retention, in the inventory."
    return Finding("problem" if free < wanted else "warning", "room", told, remedy)


def writable(folder: Path) -> Iterator[Finding]:
    """What is wrong with a folder for backups, which need not be there yet."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        remedy = "Let this user write there, or set backup_dir in the inventory."
        yield Finding("problem", "room", f"backups go to {folder}, and {there} cannot be written to", remedy)


# The files.


def extensions(files: Sequence[Migration]) -> tuple[str, ...]:
    """The extensions that migrations create, by name."""
    found: dict[str, None] = {}
    for migration in files:
        text = migration.text()
        if b"extension" in text.lower():
            found |= dict.fromkeys(_created(text))
    return tuple(found)


_CREATES = re.compile(rb'CREATE\s+EXTENSION\s+(?:IF\s+NOT\s+EXISTS\s+)?("(?:[^"]|"")+"|[\w$]+)', re.IGNORECASE)


def _created(text: bytes) -> Iterator[str]:
    for piece in lexer.scan(text):
        if isinstance(piece, lexer.Statement) and (match := _CREATES.match(text[piece.start : piece.end])):
            name = match[1].decode()
            yield name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def agreement(files: Sequence[Migration], history: Sequence[HistoryRow]) -> Iterator[Finding]:
    """Whether files and history tell the same story, what is unfinished, and what of the pending files cannot run."""
    plan = make_plan(files, history)
    found: list[Finding] = []
    with collecting(found, "history"):
        require_agreement(plan, {})
    with collecting(found, "files"):
        scripts.prepare(plan.todo)
    yield from found
    for name in plan.names("unfinished"):
        what = f"{name} was begun without a transaction and is not finished"
        yield Finding("warning", "history", what, "`invoke migrate` goes on with it, at the statement that it came to.")
    counts = [f"{len(plan.names(state))} {state}" for state in _COUNTED]
    yield Finding("ok", "history", ", ".join(counts))


_COUNTED: tuple[State, ...] = ("applied", "pending")


def pending(files: Sequence[Migration], history: Sequence[HistoryRow]) -> tuple[Migration, ...]:
    return tuple(make_plan(files, history).todo)


@contextmanager
def collecting(found: list[Finding], subject: str, past: tuple[type[RatchetError], ...] = ()) -> Iterator[None]:
    """An error in the block becomes a finding, unless it is one of those that go `past`."""
    try:
        yield
    except past:
        raise
    except RatchetError as error:
        found.append(finding_of(error, subject))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
