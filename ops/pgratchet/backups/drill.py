"""Proves a backup by restoring into a scratch database and comparing with the manifest, and measures the time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

import psycopg
from psycopg import sql

from pgratchet import events
from pgratchet.backups import archive_items
from pgratchet.backups.archive_items import OpenArchive
from pgratchet.backups.database_settings import before_data
from pgratchet.backups.drill_records import OTHER_SERVER, DrillRecord, NotTestable, Verdict
from pgratchet.backups.drill_verdict import Circumstances, is_of_program, is_of_server
from pgratchet.backups.kept_databases import derive_name
from pgratchet.backups.loading import BackupArchive, compared_event, load_archive, read_contents
from pgratchet.backups.manifest import Contents, Manifest, differences, notes, other_versions
from pgratchet.backups.pg_programs import PgRestoreOptions
from pgratchet.backups.processes import ProgramFailed
from pgratchet.backups.restore_server import RestoreServer, find_missing, new_database
from pgratchet.database import connection as sessions
from pgratchet.database import inspection
from pgratchet.errors import BackupFailed, RatchetError
from pgratchet.formatting import elapsed_ms


@dataclass(slots=True)
class Drill:
    """A drill of a backup. `record` is complete when the events of `run` end.

    `verification` are the events of reading the backup back. They are part of the drill, so a damaged backup is
    recorded. With `create_roles`, roles missing on the server are created; only for a server that ends with the drill.
    `open_archive` opens the archive once more, to find the cause of an error. `remedy` says how to test a backup that
    could not be tested.
    """

    server: RestoreServer
    archive: BackupArchive
    verification: Iterable[events.Event] = ()
    jobs: int = field(default=1, kw_only=True)
    create_roles: bool = field(default=False, kw_only=True)
    open_archive: OpenArchive | None = field(default=None, kw_only=True)
    record: DrillRecord = field(init=False)
    remedy: str = field(init=False, default="")
    _here: Circumstances = field(init=False, default_factory=Circumstances)

    def __post_init__(self) -> None:
        self.record = new_record(self.archive.manifest)

    def run(self) -> events.Stream:
        """Verify, restore, compare and drop. Errors are recorded with the verdict, and not raised."""
        try:
            yield from checked(self.verification)
            with _untestable_after_errors(), closing(self.server.open_session(self.server.maintenance)) as maintenance:
                yield from self._drill(maintenance)
        except NotTestable as error:
            self.remedy = error.hint
            self.record = replace(self.record, reason=_reason(error))
        except RatchetError as error:
            self.record = replace(self.record, verdict=Verdict.BAD, reason=_reason(error))

    def _drill(self, maintenance: psycopg.Connection) -> events.Stream:
        server = inspection.inspect(maintenance)
        inspection.refuse_other_cluster(server, self.server.pinned_identifier)
        self.record = replace(self.record, server_version=server.version)
        missing_roles = self._prepare(maintenance)
        ours, theirs = server.version // 10_000, self.archive.manifest.server_version // 10_000
        is_superuser = maintenance.info.parameter_status("is_superuser") == "on"
        self._here = Circumstances(is_superuser, same_major=ours == theirs)
        yield from self._restore(maintenance, missing_roles)

    def _prepare(self, maintenance: psycopg.Connection) -> tuple[str, ...]:
        """Create missing roles if allowed. Returns the roles still missing, without which owners cannot be restored."""
        roles, extensions = find_missing(maintenance, self.archive.manifest)
        if extensions:
            raise NotTestable(
                f"the scratch server lacks extensions: {', '.join(extensions)}",
                hint="Install them there, or set drill_environment in the inventory to an environment whose server has "
                "them.",
            )
        if not self.create_roles:
            return roles
        for role in roles:
            maintenance.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
        return ()

    def _restore(self, maintenance: psycopg.Connection, missing_roles: Sequence[str]) -> events.Stream:
        name, manifest = derive_name("pgratchet", "drill"), self.archive.manifest
        options = PgRestoreOptions(name, self.jobs, owners=not missing_roles, subscriptions=False, tablespaces=False)
        with _scratch_database(self.server, maintenance, name, manifest):
            refused = self._prepare_database(maintenance, name, missing_roles)
            locale = _locale(maintenance, name)
            same_locale = locale == _describe_locale(manifest.database.collate, manifest.database.provider)
            self._here = replace(self._here, same_locale=same_locale, same_settings=not refused)
            started = time.monotonic()
            yield from self._load(options)
            restored = time.monotonic()
            yield events.Restored(name, elapsed_ms(started, restored))
            yield events.BackupProgress("count")
            contents = self._read_contents(name)
            compared = time.monotonic()
            size = _size(self.server, name)
        self.record = replace(
            self.record,
            restore_ms=elapsed_ms(started, restored),
            compare_ms=elapsed_ms(restored, compared),
            database_size=size,
            tables=len(contents.tables),
            rows=contents.rows,
            sequences=len(contents.sequences or ()),
            materialized_views=len(contents.materialized_views or ()),
            notes=(*self._notes(missing_roles, locale, contents), *(f"Setting: {text}." for text in refused)),
        )
        problems = differences(manifest.contents, contents)
        yield compared_event(manifest.contents, contents, problems)
        verdict = Verdict.BAD if problems else Verdict.GOOD
        self.record = replace(self.record, verdict=verdict, reason="\n".join(problems))

    def _prepare_database(
        self, maintenance: psycopg.Connection, name: str, missing_roles: Sequence[str]
    ) -> Sequence[str]:
        """Apply the database's settings, which functions may read. Returns the statements that are refused here."""
        manifest, refused = self.archive.manifest, list[str]()
        roles = [role for role in manifest.contents.roles if role not in missing_roles]
        for statement in before_data(manifest.database, name, roles):
            with suppress(psycopg.Error):
                maintenance.execute(statement)
                continue
            refused.append(statement.as_string(maintenance))
        return refused

    def _load(self, options: PgRestoreOptions) -> events.Stream:
        """Restore the archive. Raises NotTestable for an error of the scratch server, and otherwise BackupFailed."""
        try:
            yield from checked(load_archive(self.server, self.archive, options))
        except ProgramFailed as error:
            if self._is_of_server(error, options):
                raise NotTestable(error.message, detail=error.detail, hint=OTHER_SERVER) from error
            raise
        except psycopg.Error as error:  # ANALYZE runs the functions of indexes
            if not is_of_server(error, "", self._here):
                raise BackupFailed(
                    f"the restored database cannot be analyzed: {sessions.first_line(error)}",
                    detail="\n".join(sessions.error_details(error)),
                    hint="Run `invoke doctor`: it names functions of indexes that depend on the search_path.",
                ) from None
            raise

    def _read_contents(self, name: str) -> Contents:
        try:
            return read_contents(self.server, name)
        except BackupFailed as error:  # the scratch server refuses to read its own copy
            raise _not_testable(error) from error

    def _is_of_server(self, failed: ProgramFailed, options: PgRestoreOptions) -> bool:
        """Run the statements of the failed item once more, and judge by the error's SQLSTATE.

        An item that succeeds the second time failed for a passing reason.
        """
        items = archive_items.failed_items(failed.messages)
        if not items or not self._may_reopen:
            return False
        here = replace(self._here, same_extensions=not self._other_extensions(options.database))
        programs, arguments = self.archive.programs, options.arguments()
        with closing(self.server.open_session(options.database)) as session:
            try:
                with archive_items.script_of(programs, self._open_archive, [items[0].number], arguments) as lines:
                    archive_items.run_script(session, lines, has_data=items[0].has_data)
            except psycopg.Error as error:
                return is_of_server(error, items[0].name, here)
        return True

    @property
    def _may_reopen(self) -> bool:
        return self.open_archive is not None or isinstance(self.archive.content, Path)

    def _open_archive(self) -> Path | Iterator[bytes]:
        return self.open_archive() if self.open_archive else self.archive.content

    def _other_extensions(self, name: str) -> bool:
        with closing(self.server.open_session(name)) as session:
            rows = session.execute("SELECT extname, extversion FROM pg_catalog.pg_extension").fetchall()
        expected = self.archive.manifest.contents.extensions
        return any(expected.get(str(extension), version) != version for extension, version in rows)

    def _notes(self, missing_roles: Sequence[str], locale: str, contents: Contents) -> Iterator[str]:
        manifest = self.archive.manifest
        if missing_roles:
            yield f"Owners and privileges: the server lacks {', '.join(missing_roles)}."
        had = _describe_locale(manifest.database.collate, manifest.database.provider)
        if locale != had:
            yield f"Locale: it was restored with {locale}, and had {had}."
        if self._may_reopen:
            tablespaces = archive_items.find_tablespaces(self.archive.programs, self._open_archive)
            for tablespace in tablespaces:
                yield f"Tablespace: what is in {tablespace} was restored into the default tablespace."
        yield from other_versions(manifest.contents, contents)
        yield from notes(manifest.contents, contents)


@dataclass(slots=True)
class UntestableDrill:
    """A drill without a scratch server. `verification` still shows whether the backup is damaged."""

    manifest: Manifest
    cause: RatchetError
    verification: Iterable[events.Event] = ()
    record: DrillRecord = field(init=False)
    remedy: str = field(init=False)

    def __post_init__(self) -> None:
        self.remedy = self.cause.hint
        self.record = replace(new_record(self.manifest), reason=_reason(self.cause))

    def run(self) -> events.Stream:
        """Verify the backup. Errors are recorded, and not raised."""
        try:
            yield from checked(self.verification)
        except NotTestable:
            pass  # the first cause is the one to fix
        except RatchetError as error:
            self.record = replace(self.record, verdict=Verdict.BAD, reason=_reason(error))


def new_record(manifest: Manifest) -> DrillRecord:
    """The record of a drill that begins now."""
    now = datetime.now(timezone.utc)
    return DrillRecord(manifest.backup_id, now.isoformat(timespec="seconds"), manifest.size)


def checked(verification: Iterable[events.Event]) -> events.Stream:
    """Read a backup back. Raises NotTestable when the backup could not be read to its end, and so was not judged."""
    try:
        yield from verification
    except BackupFailed as error:
        is_unread = is_of_program(error) if isinstance(error, ProgramFailed) else error.__cause__ is not None
        if not is_unread:
            raise
        raise _not_testable(error) from error
    except RatchetError as error:
        raise _not_testable(error) from error


def _not_testable(error: RatchetError) -> NotTestable:
    return NotTestable(error.message, detail=error.detail, hint=error.hint)


@contextmanager
def _untestable_after_errors() -> Iterator[None]:
    """Raise errors of the scratch server as NotTestable."""
    try:
        yield
    except (NotTestable, BackupFailed):
        raise
    except psycopg.Error as error:
        detail = "\n".join(sessions.error_details(error))
        raise NotTestable(sessions.first_line(error), detail=detail, hint=OTHER_SERVER) from error
    except RatchetError as error:
        raise _not_testable(error) from error


def _reason(error: RatchetError) -> str:
    return f"{error.message}\n{error.detail}".strip()


@contextmanager
def _scratch_database(
    server: RestoreServer, maintenance: psycopg.Connection, name: str, manifest: Manifest
) -> Iterator[None]:
    """Create a database for the block. The locale may differ from the backup's locale."""
    with new_database(server, maintenance, name, manifest.database, exact=False):
        yield
    maintenance.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _locale(maintenance: psycopg.Connection, name: str) -> str:
    query = "SELECT datcollate, to_jsonb(d) ->> 'datlocprovider' FROM pg_catalog.pg_database AS d WHERE datname = %s"
    row = maintenance.execute(query, (name,)).fetchone()  # no providers before 15
    return _describe_locale(str(row[0]), str(row[1] or "c")) if row else ""


def _describe_locale(collate: str, provider: str) -> str:
    names = {"i": " of ICU", "b": " of the builtin provider"}
    return collate + names.get(provider, "")


def _size(server: RestoreServer, name: str) -> int:
    with closing(server.open_session(name)) as connection:
        return inspection.database_size(connection)
