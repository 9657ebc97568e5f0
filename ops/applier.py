"""The applier: look, lock, plan, back up, apply, verify. There is one, wherever it runs.

Owns the order of a run and what becomes of each failure. It is given a way to connect, the migrations and a
backup to call; it knows no terminal, no SSH and no settings files. It yields events and raises one error.

What it rests on, measured (facts 2a to 2e): waiting inside pg_advisory_lock deadlocks with CREATE INDEX
CONCURRENTLY, so the lock is polled in autocommit; the lock is a courtesy and the history row, inserted first
in each transaction under a unique name, is the proof; whatever a file SETs outlives its transaction, so each
transaction begins by clearing the session; a COMMIT whose answer was lost may have happened, so the history
is asked on a new connection.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import psycopg

from ops import batch as batches
from ops import connection as sessions
from ops import events
from ops.errors import (
    HistoryDisagrees,
    LockBusy,
    MigrationFailed,
    OutcomeUnknown,
    Place,
    RatchetError,
    Unreachable,
)
from ops.history import Ledger, Run
from ops.migrations import Migration, Plan, Record, Script, check, judge, plan

Connect = Callable[[], psycopg.Connection]
Backup = Callable[[psycopg.Connection, Sequence[Record]], Generator[events.Event, None, str]]

_CLEAR = (
    "RESET SESSION AUTHORIZATION",
    "RESET ROLE",
    "RESET ALL",
    "CLOSE ALL",
    "UNLISTEN *",
    "DEALLOCATE ALL",
    "DISCARD PLANS",
    "DISCARD SEQUENCES",
    "DISCARD TEMP",
)
"""Leaves the session as new, but for advisory locks, which DISCARD ALL would drop with the rest."""

_SETTINGS = (
    (130000, "SET standard_conforming_strings = on"),
    (130000, "SET client_min_messages = notice"),
    (130000, "SET statement_timeout = 0"),
    (130000, "SET lock_timeout = 0"),
    (130000, "SET idle_in_transaction_session_timeout = 0"),
    (140000, "SET idle_session_timeout = 0"),
    (140000, "SET client_connection_check_interval = '5s'"),
    (170000, "SET transaction_timeout = 0"),
)
"""By the server_version_num that knows them. No timeout of the role or database may end the session that holds
the lock, a dead client's statement ends, and strings are read as the lexer reads them."""

_HOLDER = """
SELECT 'pid ' || a.pid || ', ' || coalesce(nullif(a.application_name, ''), 'unnamed') || ' as ' || a.usename
       || coalesce(' from ' || host(a.client_addr), '') || to_char(a.backend_start, ', since HH24:MI:SS TZ')
FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.classid::bigint << 32) | l.objid::bigint = %s
"""

_TRY_AGAIN = ("55P03", "40P01", "40001")
"""Lock not available in time, deadlock, serialization failure: the transaction is gone, and may be repeated."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a run may take. Times in milliseconds.

    `wait` is how long to wait for the migration lock, and for a lock inside a migration over all its tries;
    each try waits `lock_timeout`. `statement_timeout` bounds each statement; 0 is no bound.
    """

    run_id: str
    to: str | None = None
    waiver: str | None = None
    wait: int = 30_000
    lock_timeout: int = 3_000
    statement_timeout: int = 30_000
    batch_size: int = 10
    pinned_identifier: str = ""


def _agreed(connection: psycopg.Connection, ledger: Ledger, made: Plan) -> Plan:
    """The same plan, once it is sure that files and history agree; HistoryDisagrees where they do not."""
    check(made, ledger.bodies(connection, made.names("changed")))
    return made


def migrate(
    connect: Connect, ledger: Ledger, files: Sequence[Migration], backup: Backup | None, options: Options
) -> Generator[events.Event, None, None]:
    """Apply what is pending; yields events, the first of them Planned and the last Finished.

    Whoever wants a person's consent, or no more than the plan, stops reading after the first event.

    `backup` is called once, under the lock, before the first statement, and returns the backup's id. With
    nothing pending neither lock nor backup is taken. Raises the error of the first failure; what was reported
    as applied by then is applied, and stays.
    """
    session = _Session(connect, ledger, options)
    with closing(session):
        session.open()
        made = _agreed(session.connection, ledger, plan(files, ledger.read(session.connection), options.to))
        judge(made.todo)
        todo = tuple(migration.name for migration in made.todo)
        yield events.Planned(todo, total=len(made.entries), pending=len(made.names("pending")))
        if todo:
            yield from session.lock(options.wait)
            yield from _under_lock(session, files, backup)
            made = plan(files, ledger.read(session.connection), options.to)
        yield events.Finished(total=len(made.entries), pending=len(made.names("pending")))


def _under_lock(session: _Session, files: Sequence[Migration], backup: Backup | None) -> Iterator[events.Event]:
    """Plan again, since another run may have been first; back up; apply batch by batch."""
    history = session.ledger.read(session.connection)
    made = _agreed(session.connection, session.ledger, plan(files, history, session.options.to))
    scripts = judge(made.todo)
    if not scripts:
        return
    backup_id = (yield from backup(session.connection, history)) if backup else None
    session.ledger.create(session.connection)
    work = _Work(session, Run(session.options.run_id, backup_id, session.options.waiver))
    for group in batches.batches(scripts, session.options.batch_size):
        yield from work.apply(group)


@dataclass(slots=True)
class _Session:
    """The connection that holds the lock and does the work, and how to get another when it is lost."""

    connect: Connect
    ledger: Ledger
    options: Options
    notices: list[events.ServerNotice] = field(default_factory=list)
    _connection: psycopg.Connection | None = None
    _identifier: str = ""
    settings: tuple[str, ...] = ()

    @property
    def connection(self) -> psycopg.Connection:
        assert self._connection is not None
        return self._connection

    def open(self) -> None:
        """Connect and judge where that led: once opened, a session only ever returns to the same cluster."""
        self._connection = self.connect()
        server = sessions.inspect(self._connection)
        sessions.refuse_unfit(server, self._identifier or self.options.pinned_identifier)
        self._identifier = server.system_identifier
        self.settings = tuple(statement for since, statement in _SETTINGS if server.version >= since)
        self._connection.add_notice_handler(self._take_notice)

    def close(self) -> None:
        """End the session, and the lock with it."""
        if self._connection is not None:
            self._connection.close()

    def lock(self, wait: int) -> Iterator[events.Event]:
        sessions.send(self.connection, ";".join(self.settings))
        yield from _wait_for_lock(self.connection, self.ledger, wait)

    def _take_notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        severity = diagnostic.severity_nonlocalized or "NOTICE"
        self.notices.append(events.ServerNotice(severity, diagnostic.message_primary or ""))


def _wait_for_lock(connection: psycopg.Connection, ledger: Ledger, wait: int) -> Iterator[events.Event]:
    """Poll for the migration lock; LockBusy, naming the holder, after `wait` milliseconds."""
    deadline = time.monotonic() + wait / 1000
    announced = False
    while not _try_lock(connection, ledger):
        holder = _holder(connection, ledger)
        if time.monotonic() >= deadline:
            raise LockBusy(
                "another run holds the migration lock",
                detail=f"Held by {holder}. Waited {wait / 1000:g} s.",
                hint="Wait for it to end, or raise MIGRATION_TIMEOUT. Ending that session rolls its migration back.",
            )
        if not announced:
            yield events.LockAwaited(holder)
            announced = True
        time.sleep(min(random.uniform(0.05, 0.6), max(0.0, deadline - time.monotonic())))  # noqa: S311


def _try_lock(connection: psycopg.Connection, ledger: Ledger) -> bool:
    row = connection.execute("SELECT pg_try_advisory_lock(%s)", (ledger.lock_key,)).fetchone()
    return bool(row and row[0])


def _holder(connection: psycopg.Connection, ledger: Ledger) -> str:
    row = connection.execute(_HOLDER, (ledger.lock_key,)).fetchone()
    return str(row[0]) if row else "a session that has just ended"


@dataclass(slots=True)
class _Work:
    """The applying part of one run. `applied` are the names of all that it has applied so far."""

    session: _Session
    run: Run
    applied: list[str] = field(default_factory=list)

    def apply(self, scripts: Sequence[Script]) -> Iterator[events.Event]:
        """Apply the scripts, in one round trip where nothing goes wrong; a lock not had in time is tried for again."""
        deadline = time.monotonic() + self.session.options.wait / 1000
        tries = 0
        while scripts:
            yield events.BatchSent(tuple(script.migration.name for script in scripts))
            sent = batches.compose(scripts, self._frame)
            answer = self._send(sent)
            yield from self._hand_out_notices()
            committed = self._committed(scripts)
            for name, duration in committed.items():
                self.applied.append(name)
                yield events.MigrationApplied(name, duration)
            scripts = [script for script in scripts if script.migration.name not in committed]
            if answer.error is None or not scripts:
                self._insist(scripts)
                continue
            error, fault = answer.error, _fault(sent, answer, scripts[0])
            failed = sent.scripts[fault.index]
            if fault.framing and error.sqlstate == "23505":
                scripts = self._applied_elsewhere(scripts, failed)
                continue
            if before := scripts[: scripts.index(failed)]:
                # The server parsed the whole string and found a syntax error before it ran any of it.
                yield from self.apply(before)
            elif error.sqlstate in _TRY_AGAIN and time.monotonic() < deadline:
                tries += 1
                yield self._pause(failed, error, tries)
                continue
            raise self._failure(error, fault, failed)

    def _send(self, sent: batches.Batch) -> sessions.Answer:
        """Send a batch; the session is usable afterwards, be it another one."""
        answer = sessions.send(self.session.connection, sent.text)
        if answer.lost and answer.error:
            self._reconnect(sent, answer.error)
        else:
            self.session.connection.rollback()
        return answer

    def _reconnect(self, sent: batches.Batch, lost: psycopg.Error) -> None:
        """Return to the server, and to the lock: once it is ours, the lost session has ended, one way or the other."""
        deadline = time.monotonic() + self.session.options.wait / 1000
        while True:
            try:
                self.session.close()
                self.session.open()
                for _ in self.session.lock(self.session.options.wait):
                    pass
                return
            except RatchetError as error:
                if time.monotonic() >= deadline or not isinstance(error, Unreachable):
                    raise self._unknown(sent, lost, error) from error
            time.sleep(0.5)

    def _unknown(self, sent: batches.Batch, lost: psycopg.Error, error: RatchetError) -> OutcomeUnknown:
        names = [script.migration.name for script in sent.scripts]
        return OutcomeUnknown(
            f"the connection was lost, and whether {_listed(names)} took effect is unknown",
            detail=f"{_sentence(_first_line(lost))} Then: {error.message}. {error.detail}".strip(),
            hint="When the server answers again, `invoke status` tells; a new `invoke migrate` goes on from there.",
            place=Place(names[0]),
        )

    def _frame(self, script: Script) -> batches.Frame:
        given, options = script.directives, self.session.options
        lock = options.lock_timeout if given.lock_timeout is None else given.lock_timeout
        statement = options.statement_timeout if given.statement_timeout is None else given.statement_timeout
        connection, ledger = self.session.connection, self.session.ledger
        opening = (
            "BEGIN",
            *_CLEAR,
            *self.session.settings,
            f"SET LOCAL lock_timeout = {lock}",
            f"SET LOCAL statement_timeout = {statement}",
            ledger.begin(connection, script, self.run),
        )
        closing = ("RESET SESSION AUTHORIZATION", "RESET ROLE", ledger.finish(connection, script), "COMMIT")
        return batches.Frame(opening, closing)

    def _hand_out_notices(self) -> Iterator[events.Event]:
        waiting, self.session.notices = self.session.notices, []
        yield from waiting

    def _committed(self, scripts: Sequence[Script]) -> dict[str, int]:
        """Which of the scripts this run has committed, with their durations, by the history's own word."""
        wanted = {script.migration.name: script.migration.checksum for script in scripts}
        return {
            record.name: record.duration_ms or 0
            for record in self.session.ledger.read_run(self.session.connection, self.run.run_id, list(wanted))
            if record.executed_at and record.checksum == wanted[record.name]
        }

    def _applied_elsewhere(self, scripts: Sequence[Script], failed: Script) -> Sequence[Script]:
        """The lock did not hold another runner off, as behind a pooler; the history's unique name did."""
        recorded = {record.name for record in self.session.ledger.read(self.session.connection) if record.executed_at}
        if failed.migration.name not in recorded:
            raise LockBusy(
                f"another run has begun {failed.migration.name} and not finished it",
                detail="Its row is in the history without an end.",
                hint="Wait for that run, then look at `invoke status`.",
                place=Place(failed.migration.name),
            )
        return [script for script in scripts if script.migration.name not in recorded]

    def _insist(self, unrecorded: Sequence[Script]) -> None:
        """No error and yet no row: what the server acknowledged is not what the history holds."""
        if unrecorded:
            names = _listed([script.migration.name for script in unrecorded])
            raise HistoryDisagrees(
                f"the server acknowledged {names}, but the history has no finished row",
                detail="The migration must have ended its transaction or changed the history itself.",
                hint="See what it did before anything else is run; `invoke rollback` names the backup.",
                place=Place(unrecorded[0].migration.name),
            )

    def _pause(self, failed: Script, error: psycopg.Error, tries: int) -> events.Retrying:
        delay = random.uniform(0.05, min(5.0, 0.2 * 2**tries))  # noqa: S311  full jitter, no secret
        time.sleep(delay)
        return events.Retrying(failed.migration.name, _first_line(error), int(delay * 1000))

    def _failure(self, error: psycopg.Error, fault: batches.Fault, failed: Script) -> MigrationFailed:
        place, reason = fault.place, _first_line(error)
        at = "" if place.line is None else f" at line {place.line}, column {place.column}"
        done = f"{_listed(self.applied)} {_was(self.applied)} applied; " if self.applied else ""
        told = [_sentence(t) for t in (error.diag.message_detail, error.diag.context, error.diag.message_hint) if t]
        backup = f" The backup taken before this run is {self.run.backup_id}." if self.run.backup_id else ""
        return MigrationFailed(
            f"migration {failed.migration.name} failed{at}: {reason}",
            detail="\n".join([*told, f"{done}{failed.migration.name} was rolled back."]),
            hint=f"{_advice(error)} {failed.migration.path} and run `invoke migrate` again.{backup}",
            place=place,
        )


def _fault(sent: batches.Batch, answer: sessions.Answer, first: Script) -> batches.Fault:
    """Where the error belongs. Of a lost connection only the first script that is not committed is known."""
    assert answer.error is not None
    if answer.lost:
        place = Place(first.migration.name, sqlstate=answer.error.sqlstate)
        return batches.Fault(sent.scripts.index(first), place, framing=False)
    return batches.locate(sent, answer.answered, _position(answer.error), answer.error.sqlstate)


def _position(error: psycopg.Error) -> int | None:
    return int(error.diag.statement_position) if error.diag.statement_position else None


def _first_line(error: psycopg.Error) -> str:
    return (error.diag.message_primary or str(error).strip() or type(error).__name__).splitlines()[0]


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else text + "."


def _listed(names: Sequence[str]) -> str:
    if len(names) > 4:
        return f"{names[0]} to {names[-1]} ({len(names)} migrations)"
    return " and ".join(names)


def _was(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"


def _advice(error: psycopg.Error) -> str:
    if error.sqlstate == "57014":
        return "Give it time with `-- migrate: statement-timeout=5min` in"
    if error.sqlstate in _TRY_AGAIN:
        return "See who holds the lock, or give it time with `-- migrate: lock-timeout=10s` in"
    return "Fix"
