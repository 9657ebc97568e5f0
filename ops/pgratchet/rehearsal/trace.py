"""Runs migrations on a scratch database, statement by statement, and notes the effects of each.

A migration commits before the next one begins, as in a real run. The migration's row in the history is left out: the
real applier runs all migrations once more, on another copy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from itertools import groupby

import psycopg

from pgratchet import events
from pgratchet.apply.repeatables import MISSING
from pgratchet.database import inspection, simple_query
from pgratchet.database.session_settings import reset_statements, session_settings
from pgratchet.database.simple_query import Answer
from pgratchet.migrations.classify import outside_transaction
from pgratchet.migrations.lexer import split_statements
from pgratchet.migrations.positions import line_and_column
from pgratchet.migrations.scripts import Script
from pgratchet.migrations.statement import Statement
from pgratchet.rehearsal import stops
from pgratchet.rehearsal.lock_modes import MODES, Blocked
from pgratchet.rehearsal.observer import Observer
from pgratchet.rehearsal.probe import Probe, Reading, Relation, read_relations, write_ahead_position
from pgratchet.rehearsal.report import Lock, MigrationReport, Rewrite, StatementReport, Stop
from pgratchet.rehearsal.stops import MeasuredWait
from pgratchet.rehearsal.unseen_locks import unseen_locks

LONGEST_TEXT = 4_000
"""The most characters of a statement in a report."""
_COMMITS_INSIDE = ("CALL", "DO")
_UNNAMED = (b"",) * 64
"""Columns of no query at all, so no row is kept."""


class StatementFailed(Exception):
    """A statement of a migration failed. `done` is the number of earlier statements in the same transaction."""

    def __init__(self, script: Script, statement: Statement | None, error: psycopg.Error, done: int) -> None:
        super().__init__(script.name)
        self.script = script
        self.statement = statement
        self.error = error
        self.done = done


@dataclass(slots=True)
class Trace:
    """A trace of scripts in a database. `connect` opens sessions there. The lists grow while `run` goes on."""

    connect: Callable[[], psycopg.Connection]
    scripts: Sequence[Script]
    migrations: list[MigrationReport] = field(default_factory=list)
    statements: list[StatementReport] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)
    _started: float = 0.0

    def run(self) -> events.Stream:
        """Run the scripts. Raises StatementFailed for the first failed statement, after a rollback."""
        with ExitStack() as stack:
            connection = stack.enter_context(closing(self.connect()))
            observer = Observer(self.connect, connection.info.backend_pid)
            stack.enter_context(observer.watching())
            tracer = _Tracer(self, connection, observer)
            tracer.reset()
            self._started = time.monotonic()
            for _, group in groupby(self.scripts, key=_transaction_of):
                scripts = list(group)
                names = tuple(script.name for script in scripts)
                yield events.BackupProgress("trace", len(self.migrations), len(self.scripts), names[0])
                before = inspection.database_size(connection)
                if scripts[0].directives.transactional:
                    yield from tracer.run_together(scripts)
                else:
                    yield from tracer.run_alone(scripts[0])
                self._grow(names[-1], inspection.database_size(connection) - before)

    def elapsed_ms(self, moment: float) -> float:
        return (moment - self._started) * 1000

    def _grow(self, name: str, size: int) -> None:
        """Note the growth of the database by the migrations of a transaction, at the last migration."""
        index = next(index for index, each in enumerate(self.migrations) if each.name == name)
        self.migrations[index] = replace(self.migrations[index], growth_bytes=size)


def _transaction_of(script: Script) -> str:
    """The key for groups of scripts: repeatables share one transaction, every other file is alone."""
    return "repeatables" if script.is_repeatable else script.name


@dataclass(slots=True)
class _Tracer:
    trace: Trace
    connection: psycopg.Connection
    observer: Observer
    probe: Probe = field(init=False)

    def __post_init__(self) -> None:
        self.probe = Probe(self.connection)

    def reset(self) -> None:
        """Give the session the settings of a run, and turn on the server's messages about work."""
        settings = session_settings(self.connection.info.server_version)
        simple_query.send(self.connection, b";".join(reset_statements(settings, pooled=False)))
        self.probe.set_up()

    def run_together(self, scripts: Sequence[Script]) -> Iterator[events.Event]:
        """Run scripts in one transaction. A repeatable without a necessary object runs again behind the others.

        After a failure, the reports of the earlier statements stay.
        """
        reports: list[StatementReport] = []
        try:
            self._run_all(scripts, reports)
        except StatementFailed:
            self._roll_back()
            self._add_reports(reports, 0)
            raise
        yield from self._commit(scripts, reports)

    def _run_all(self, scripts: Sequence[Script], reports: list[StatementReport]) -> None:
        self._begin()
        waiting = list(scripts)
        while waiting:
            postponed = []
            for script in waiting:
                self._send(b"SAVEPOINT pgratchet_file")
                try:
                    self._run_statements(script, reports)
                except StatementFailed as failed:
                    can_wait = script.is_repeatable and failed.error.sqlstate in MISSING and len(waiting) > 1
                    if not can_wait:
                        raise
                    self._send(b"ROLLBACK TO SAVEPOINT pgratchet_file")
                    self.probe.read()  # so that locks that were given back count again
                    postponed.append((script, failed))
            if len(postponed) == len(waiting):
                raise postponed[0][1]
            waiting = [script for script, _ in postponed]

    def run_alone(self, script: Script) -> Iterator[events.Event]:
        """Run a script without a transaction: each statement gets a transaction, where allowed."""
        text, started = script.migration.text(), time.monotonic()
        for statement in split_statements(text):
            if outside_transaction(statement) is None and statement.head[0] not in _COMMITS_INSIDE:
                self._begin()
                try:
                    reports = [self._run_statement(script, text, statement, 0)]
                except StatementFailed:
                    self._roll_back()
                    raise
                self._end_transaction(reports, script, keeps_role=True)
            else:
                self._run_outside(script, text, statement)
        self._add_migration(script, time.monotonic() - started)
        self.reset()
        yield events.Rehearsed(script.name, round(self.trace.migrations[-1].traced_ms))

    def _begin(self) -> None:
        self._send(b"BEGIN")
        self.probe.begin()
        self._watch()

    def _watch(self) -> None:
        shown = {oid: (each.name, each.kind) for oid, each in self.probe.relations.items() if not each.is_hidden}
        self.observer.begin(shown)

    def _run_statements(self, script: Script, reports: list[StatementReport]) -> None:
        """Run the statements of a script and add their reports; a failed repeatable leaves none."""
        text, count = script.migration.text(), len(reports)
        try:
            for statement in split_statements(text):
                reports.append(self._run_statement(script, text, statement, len(reports)))
        except StatementFailed:
            if script.is_repeatable:
                del reports[count:]
            raise

    def _run_statement(self, script: Script, text: bytes, statement: Statement, done: int) -> StatementReport:
        started, duration, answer = self._time(text, statement)
        if answer.error is not None:
            raise StatementFailed(script, statement, answer.error, done)
        return self._report(script, text, statement, started, duration, self.probe.read())

    def _run_outside(self, script: Script, text: bytes, statement: Statement) -> None:
        """Run a statement outside a transaction, where only another session sees the locks."""
        before = self.probe.relations = read_relations(self.connection)
        self._watch()
        position = write_ahead_position(self.connection)
        started, duration, answer = self._time(text, statement)
        if answer.error is not None:
            raise StatementFailed(script, statement, answer.error, 0)
        after = read_relations(self.connection)
        modes = self.observer.seen_modes() | unseen_locks(text, statement, before, after, self._find_relation)
        reading = Reading(
            tuple(sorted((self.probe.lock(oid, mode) for oid, mode in modes), key=_by_name)),
            tuple(_rewrites(before, after)),
            wal_bytes=write_ahead_position(self.connection) - position,
            growth_bytes=sum(each.size for each in after.values()) - sum(each.size for each in before.values()),
        )
        report = self._report(script, text, statement, started, duration, reading, is_sampled=True)
        self.trace.statements.append(report)
        self.trace.stops += stops.find_stops([report], 0, self._measured())

    def _find_relation(self, name: str) -> int | None:
        ((oid,),) = self.connection.execute("SELECT to_regclass(%s)::oid::bigint", (name,)).fetchall()
        return None if oid is None else int(oid)

    def _report(
        self,
        script: Script,
        text: bytes,
        statement: Statement,
        started: float,
        duration: float,
        reading: Reading,
        *,
        is_sampled: bool = False,
    ) -> StatementReport:
        messages = self.probe.take_messages()
        built = () if statement.head[0] == "TRUNCATE" else tuple(messages.indexes)  # indexes without rows
        return StatementReport(
            script.name,
            line_and_column(text, statement.start)[0],
            text[statement.start : statement.end].decode()[:LONGEST_TEXT],
            self.trace.elapsed_ms(started),
            duration * 1000,
            reading.locks,
            reading.rewrites,
            reading.scans,
            reading.changes,
            built,
            tuple(messages.constraints),
            reading.wal_bytes,
            messages.temporary_bytes,
            reading.growth_bytes,
            is_sampled,
            reading.released,
        )

    def _time(self, text: bytes, statement: Statement) -> tuple[float, float, Answer]:
        """Run a statement; returns the begin, the duration in seconds, and the server's answer."""
        sql = text[statement.start : statement.end]
        started = time.monotonic()
        if statement.rows:
            answer = simple_query.copy(self.connection, sql, memoryview(text)[slice(*statement.rows)])
        else:
            answer = events.drain(simple_query.send_migration(self.connection, sql, _UNNAMED))
        return started, time.monotonic() - started, answer

    def _commit(self, scripts: Sequence[Script], reports: Sequence[StatementReport]) -> Iterator[events.Event]:
        commit = self._end_transaction(reports, scripts[-1], keeps_role=False)
        self.reset()
        for script in scripts:
            traced = sum(each.duration_ms for each in reports if each.migration == script.name)
            self._add_migration(script, (traced + (commit if script is scripts[-1] else 0)) / 1000)
            yield events.Rehearsed(script.name, round(self.trace.migrations[-1].traced_ms))

    def _end_transaction(self, reports: Sequence[StatementReport], last: Script, *, keeps_role: bool) -> float:
        """Commit, and find the stops; returns the milliseconds of COMMIT, with all deferred checks.

        As in a real run, a role set by a file ends with the transaction, or with a file without a transaction.
        """
        started = time.monotonic()
        commit = b"COMMIT" if keeps_role else b"RESET SESSION AUTHORIZATION; RESET ROLE; COMMIT"
        answer = simple_query.send(self.connection, commit)
        duration = (time.monotonic() - started) * 1000
        if answer.error is not None:
            raise StatementFailed(last, None, answer.error, len(reports))
        self._add_reports(reports, duration)
        return duration

    def _add_reports(self, reports: Sequence[StatementReport], commit_ms: float) -> None:
        self.trace.statements += reports
        self.trace.stops += stops.find_stops(reports, commit_ms, self._measured())

    def _measured(self) -> dict[tuple[str, Blocked], MeasuredWait]:
        return {
            (self.probe.name(oid), what): MeasuredWait(
                self.trace.elapsed_ms(wait.since), wait.duration_ms, MODES[wait.mode]
            )
            for (oid, what), wait in self.observer.waits().items()
        }

    def _add_migration(self, script: Script, seconds: float) -> None:
        wal = sum(each.wal_bytes for each in self.trace.statements if each.migration == script.name)
        self.trace.migrations.append(
            MigrationReport(script.name, script.migration.checksum, seconds * 1000, wal_bytes=wal)
        )

    def _send(self, text: bytes) -> None:
        answer = simple_query.send(self.connection, text)
        if answer.error is not None:
            raise answer.error

    def _roll_back(self) -> None:
        simple_query.send(self.connection, b"ROLLBACK")
        self.observer.waits()


def _by_name(lock: Lock) -> tuple[str, str]:
    return lock.relation, lock.mode


def _rewrites(before: dict[int, Relation], after: dict[int, Relation]) -> Iterator[Rewrite]:
    """The tables and materialized views with other files than before."""
    for oid, relation in after.items():
        earlier = before.get(oid)
        if earlier and not relation.is_hidden and relation.kind in "rm" and relation.file_node != earlier.file_node:
            yield Rewrite(relation.name, relation.size)
