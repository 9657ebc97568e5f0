"""Restores a backup and runs the pending migrations on two copies: traced on one, by the real applier on the other."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace

import psycopg
from psycopg import sql

from pgratchet import embedded, events
from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.backups.database_settings import after_data, before_data
from pgratchet.backups.loading import BackupArchive, load_archive
from pgratchet.backups.manifest import Manifest
from pgratchet.backups.pg_programs import PgRestoreOptions
from pgratchet.backups.restore_server import RestoreServer, find_missing, new_database, take_lock
from pgratchet.errors import ConfigurationError, LockBusy, MigrationFailed, StoppedPartWay, Unreachable
from pgratchet.formatting import elapsed_ms, format_size
from pgratchet.migrations.classify import changes_cluster
from pgratchet.migrations.files import Migration
from pgratchet.migrations.lexer import split_statements
from pgratchet.migrations.plan import HistoryRow
from pgratchet.migrations.positions import location_at
from pgratchet.migrations.scripts import Script
from pgratchet.rehearsal import obstacles
from pgratchet.rehearsal.report import Calibration, Failure, MigrationReport, Report, Stop
from pgratchet.rehearsal.trace import StatementFailed, Trace

_LEFTOVERS = "SELECT datname FROM pg_database WHERE datname ~ '^pgratchet_rehearsal_[0-9a-f]{12}$'"
_COPIES_FILES = 150000
"""The first server_version_num with STRATEGY file_copy: a copy of a database without a copy in the log."""
_LOCK_WAIT = 10
"""Seconds to wait for the lock of another rehearsal."""
_MANY = 100
"""From so many statements on, the trace takes much longer than a run: a run sends all together."""
_MARGIN = 500_000_000
"""Bytes for the write-ahead log and the server's own files."""
_OTHER_SERVER = "Name another server with --on=NAME, or as drill_environment in the inventory."

Durations = Mapping[tuple[str, str], int]
"""The durations of earlier rehearsals in milliseconds, by the names and checksums of migrations."""


@dataclass(slots=True)
class Rehearsal:
    """A rehearsal of the pending migrations of `files`.

    `is_own_server`: the server ends with the rehearsal. Missing roles are created, and each copy in turn has the name
    of the live database. Elsewhere, statements about more than a database are refused.
    `earlier` are the durations of earlier rehearsals.
    """

    server: RestoreServer
    archive: BackupArchive
    files: Sequence[Migration]
    options: MigrateOptions
    jobs: int = 1
    is_own_server: bool = False
    earlier: Durations = field(default_factory=dict)
    _notes: list[str] = field(default_factory=list)

    def run(self) -> Generator[events.Event, None, Report | None]:
        """Restore, trace, apply and drop; returns the report, or None when nothing is pending.

        A failed migration is in the report, and not raised.
        """
        with ExitStack() as stack:
            maintenance = stack.enter_context(closing(self.server.open_session(self.server.maintenance)))
            _take_lock(maintenance)
            _drop_leftovers(maintenance)
            missing_roles = self._prepare(maintenance)
            name = stack.enter_context(self._database(maintenance))
            roles = _role_names(maintenance)
            started = time.monotonic()
            yield from self._restore(maintenance, name, missing_roles)
            report = self._new_report(maintenance, elapsed_ms(started, time.monotonic()))
            scripts, rows = self._plan(name)
            if not scripts:
                return None
            yield events.BackupProgress("clone")
            copy = stack.enter_context(self._copy(maintenance, name))
            self._apply_settings(maintenance, copy, missing_roles)
            report = yield from self._trace(name, scripts, report)
            if report.failure is None:
                if self.is_own_server:
                    copy = _take_place(maintenance, name, copy, roles)
                report = yield from self._apply(copy, report)
            return replace(report, calibration=_calibrate(rows, self.earlier), notes=tuple(self._notes))

    def _prepare(self, maintenance: psycopg.Connection) -> tuple[str, ...]:
        """Check the server for the backup; returns the roles that stay missing."""
        manifest = self.archive.manifest
        roles, extensions = find_missing(maintenance, manifest)
        if extensions:
            raise ConfigurationError(
                f"the server of the rehearsal lacks extensions: {', '.join(extensions)}",
                detail=f"Backup {manifest.backup_id} has them. Nothing was restored.",
                hint=f"Install them there. {_OTHER_SERVER}",
            )
        if self.is_own_server:
            for role in roles:
                maintenance.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
            return ()
        if roles:
            self._notes.append(f"Owners and privileges were left out: the server lacks {', '.join(roles)}.")
        return roles

    def _new_report(self, maintenance: psycopg.Connection, restore_ms: int) -> Report:
        manifest, version = self.archive.manifest, maintenance.info.server_version
        if version // 10_000 != manifest.server_version // 10_000:
            ours, theirs = version // 10_000, manifest.server_version // 10_000
            self._notes.append(
                f"The rehearsal ran on PostgreSQL {ours}, and the backup is of PostgreSQL {theirs}: locks may differ."
            )
        size = manifest.database_size
        return Report(manifest.backup_id, manifest.server_version, version, size, restore_ms)

    @contextmanager
    def _database(self, maintenance: psycopg.Connection) -> Iterator[str]:
        """An empty database with the properties of the backup's, for the block."""
        database = self.archive.manifest.database.name
        is_free = self.is_own_server and database not in (self.server.maintenance, "template1")
        name = database if is_free else _new_name()
        with new_database(self.server, maintenance, name, self.archive.manifest.database, exact=False):
            yield name
        _drop(maintenance, name)

    @contextmanager
    def _copy(self, maintenance: psycopg.Connection, name: str) -> Iterator[str]:
        """A copy of a database without sessions, for the block."""
        copy = _new_name()
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(copy), sql.Identifier(name))
        if maintenance.info.server_version >= _COPIES_FILES:
            create += sql.SQL(" STRATEGY file_copy")
        maintenance.execute(create)
        try:
            yield copy
        finally:
            _drop(maintenance, copy)

    def _restore(self, maintenance: psycopg.Connection, name: str, missing_roles: Sequence[str]) -> events.Stream:
        self._apply_settings(maintenance, name, missing_roles)
        options = PgRestoreOptions(name, self.jobs, owners=not missing_roles, subscriptions=False, tablespaces=False)
        yield from load_archive(self.server, self.archive, options, vacuum=True)

    def _apply_settings(self, maintenance: psycopg.Connection, name: str, missing_roles: Sequence[str]) -> None:
        """Give a database the settings of production's: a time zone decides whether a column is rewritten."""
        database = replace(self.archive.manifest.database, connection_limit=-1, is_template=False)
        roles = [role for role in self.archive.manifest.contents.roles if role not in missing_roles]
        if missing_roles:
            database = replace(database, owner=maintenance.info.user)
        for statement in (*before_data(database, name, roles), *after_data(database, name, roles)):
            with suppress(psycopg.Error):
                maintenance.execute(statement)
                continue
            note = f"The server refuses a setting: {statement.as_string(maintenance)}."
            if note not in self._notes:
                self._notes.append(note)

    def _plan(self, name: str) -> tuple[tuple[Script, ...], list[HistoryRow]]:
        """Plan the pending migrations by the restored history; returns the scripts, and the history."""
        connect, history = (lambda: self.server.connect(name)), self.server.history
        with applier.prepare(connect, history, self.files, None, self.options) as run:
            if not self.is_own_server:
                _refuse_cluster_changes(run.scripts)
            return run.scripts, [entry.row for entry in run.plan.entries if entry.row]

    def _trace(self, name: str, scripts: Sequence[Script], report: Report) -> Generator[events.Event, None, Report]:
        def connect() -> psycopg.Connection:
            return self.server.open_session(name)

        trace, failure = Trace(connect, scripts), None
        try:
            yield from trace.run()
        except StatementFailed as failed:
            failure = obstacles.describe(failed, connect)
        return replace(
            report,
            migrations=(*trace.migrations, *_not_run(scripts, trace.migrations)),
            statements=tuple(trace.statements),
            stops=tuple(trace.stops),
            failure=failure,
        )

    def _apply(self, name: str, report: Report) -> Generator[events.Event, None, Report]:
        """Run the migrations once more with the real applier, for the durations without a trace."""
        durations: dict[str, int] = {}
        failure = None
        run = applier.migrate(lambda: self.server.connect(name), self.server.history, self.files, None, self.options)
        try:
            for event in run:
                if isinstance(event, events.MigrationApplied):
                    durations[event.name] = event.duration_ms
                elif isinstance(event, events.BatchSent):
                    yield events.BackupProgress("apply", len(durations), len(report.migrations), event.names[0])
        except (MigrationFailed, StoppedPartWay) as error:
            failure = _failure_of(error)
        migrations = tuple(replace(each, duration_ms=durations.get(each.name)) for each in report.migrations)
        report = replace(report, migrations=migrations, failure=failure)
        return replace(report, stops=tuple(_as_applied(stop, report) for stop in report.stops))


def _not_run(scripts: Sequence[Script], reports: Sequence[MigrationReport]) -> list[MigrationReport]:
    """Reports of the migrations from the failed migration on."""
    return [MigrationReport(each.name, each.migration.checksum, 0.0) for each in scripts[len(reports) :]]


def _as_applied(stop: Stop, report: Report) -> Stop:
    """Shorten a stop of a migration with many statements: the trace sends them one by one, and a run together."""
    migration = next(each for each in report.migrations if each.name == stop.locked_at.migration)
    count = sum(each.migration == migration.name for each in report.statements)
    if migration.duration_ms is None or count < _MANY or migration.traced_ms <= migration.duration_ms:
        return stop
    return replace(stop, duration_ms=stop.duration_ms * migration.duration_ms / migration.traced_ms, measured_ms=None)


def _failure_of(error: MigrationFailed | StoppedPartWay) -> Failure:
    """A failure of the real applier alone, after a good trace: a timeout, for example."""
    location = error.location
    name, line = (location.migration, location.line or 1) if location else ("", 1)
    sqlstate = (location and location.sqlstate) or ""
    kind = psycopg.errors.lookup(sqlstate).__name__ if sqlstate else "Error"
    return Failure(name, line, f"{obstacles.hidden_message(kind)}, when the real applier ran it", sqlstate)


def _refuse_cluster_changes(scripts: Sequence[Script]) -> None:
    """Raise ConfigurationError for statements about roles or databases: such changes would stay on the server."""
    for script in scripts:
        text = script.migration.text()
        for statement in split_statements(text):
            if changes_cluster(statement):
                location = location_at(script.migration, text, statement.start)
                raise ConfigurationError(
                    f"{' '.join(statement.head[:2])} cannot be rehearsed on a server that is used for more",
                    detail=f"{location}: it changes more than the database, and would stay there.",
                    hint="Leave --on and drill_environment out: the bundled server ends with the rehearsal.",
                    location=location,
                )


def _role_names(maintenance: psycopg.Connection) -> set[str]:
    return {name for (name,) in maintenance.execute("SELECT rolname FROM pg_roles").fetchall()}


def _take_place(maintenance: psycopg.Connection, name: str, copy: str, roles: set[str]) -> str:
    """Drop a database and the new roles of the migrations, and rename the copy; returns the new name."""
    _drop(maintenance, name)
    for role in _role_names(maintenance) - roles:
        with suppress(psycopg.Error):
            maintenance.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
    rename = sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(copy), sql.Identifier(name))
    maintenance.execute(rename)
    return name


def require_room(manifest: Manifest) -> None:
    """Raise Unreachable when the disk of the bundled server cannot hold two copies and a rewrite of the database."""
    folder = embedded.state_folder()
    embedded.make_parents(folder)
    needed = manifest.database_size * 3 + _MARGIN
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise Unreachable(
            f"there is no room for a rehearsal of backup {manifest.backup_id}",
            detail=f"Free in {folder}: {format_size(free)}. Needed for two copies and the rewrite of a table: "
            f"{format_size(needed)}.",
            hint=f"Free some space. {_OTHER_SERVER}",
        )


def _new_name() -> str:
    return f"pgratchet_rehearsal_{os.urandom(6).hex()}"


def _take_lock(maintenance: psycopg.Connection) -> None:
    """Lock the server against other rehearsals: work of another rehearsal would be in the durations.

    The server notices the death of a killed client at the end of the statement, so the lock is tried for some seconds.
    """
    deadline = time.monotonic() + _LOCK_WAIT
    while True:
        try:
            return take_lock(maintenance, "pgratchet_rehearsal")
        except LockBusy as error:
            if time.monotonic() >= deadline:
                raise LockBusy(
                    "another rehearsal is running on this server",
                    detail=f"Waited {_LOCK_WAIT} s. Each would measure the work of the other one too.",
                    hint="Wait until it ends, then run this again.",
                ) from error
        time.sleep(_LOCK_WAIT / 50)


def _drop_leftovers(maintenance: psycopg.Connection) -> None:
    """Drop the databases of killed rehearsals. No other rehearsal is running: the lock is here."""
    for (name,) in maintenance.execute(_LEFTOVERS).fetchall():
        _drop(maintenance, name)


def _drop(maintenance: psycopg.Connection, name: str) -> None:
    maintenance.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _calibrate(rows: Sequence[HistoryRow], earlier: Durations) -> Calibration:
    """Compare the durations of migrations on the target, by the history, with the durations in rehearsals."""
    pairs = [
        (earlier[row.name, row.checksum], row.duration_ms)
        for row in rows
        if row.duration_ms is not None and (row.name, row.checksum) in earlier
    ]
    return Calibration(len(pairs), sum(rehearsed for rehearsed, _ in pairs), sum(actual for _, actual in pairs))
