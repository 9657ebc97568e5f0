"""Restores as much as possible of a backup into a new database, when pg_restore cannot restore all of it.

pg_restore goes on after errors here. The items that failed are then run alone, in rounds, until a round restores none.
Rows that a check constraint or a generated column refuses are restored without it, and it is added again afterwards.
"""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from psycopg import sql

from pgratchet import events
from pgratchet.backups import archive_items
from pgratchet.backups.archive_items import ArchiveItem, OpenArchive
from pgratchet.backups.database_settings import after_data, before_data, comment_on
from pgratchet.backups.loading import BackupArchive, load_archive, read_contents
from pgratchet.backups.manifest import differences, other_versions
from pgratchet.backups.pg_programs import PgRestoreOptions
from pgratchet.backups.processes import ProgramFailed
from pgratchet.backups.restore_server import RestoreServer, database_into, translate_errors
from pgratchet.database import connection as sessions
from pgratchet.database import queries
from pgratchet.formatting import elapsed_ms

_SECTIONS = ("pre-data", "data", "post-data")
_TITLE = re.compile(r"-- (?:Data for )?Name: (.*); Type: (.*); Schema: (.*); Owner: .*")
_FINISHED = "errors ignored on restore"
_COPIED = re.compile(rb'COPY ((?:"(?:[^"]|"")*"|[^ ."]+)\.(?:"(?:[^"]|"")*"|[^ ."]+)) .*FROM stdin;\r?\n')


def salvage(
    server: RestoreServer, archive: BackupArchive, open_archive: OpenArchive, name: str, jobs: int
) -> events.Stream:
    """Restore into the new database `name`. Each item that cannot be restored is an event, ItemNotRestored.

    After an error of the server or the archive itself, the new database is dropped.
    """
    manifest, started = archive.manifest, time.monotonic()
    with translate_errors(), closing(server.open_session(server.maintenance)) as maintenance:
        with database_into(server, maintenance, name, manifest.database):
            work = _Salvage(server, archive, open_archive, name, jobs)
            yield from work.apply(maintenance, before_data(manifest.database, name, manifest.contents.roles))
            yield from work.restore()
            late = after_data(manifest.database, name, manifest.contents.roles)
            yield from work.apply(maintenance, [*late, comment_on(name, manifest.database.comment)])
            yield events.Restored(name, elapsed_ms(started, time.monotonic()))
            yield events.BackupProgress("count")
            contents = read_contents(server, name)
        sentences = (*differences(manifest.contents, contents), *other_versions(manifest.contents, contents))
        yield events.Compared(len(contents.tables), contents.rows, sentences)


@dataclass(slots=True)
class _Salvage:
    """The work on one database. `failed` has the errors of items, `removed` the constraints to add again."""

    server: RestoreServer
    archive: BackupArchive
    open_archive: OpenArchive
    name: str
    jobs: int
    failed: dict[ArchiveItem, psycopg.Error] = field(default_factory=dict)
    removed: dict[str, str] = field(default_factory=dict)
    ungenerated: dict[str, tuple[str, psycopg.Error]] = field(default_factory=dict)

    def apply(self, maintenance: psycopg.Connection, statements: list[sql.Composed]) -> Iterator[events.Event]:
        """Apply settings of the database."""
        for statement in statements:
            try:
                maintenance.execute(statement)
            except psycopg.Error as error:  # noqa: PERF203
                text = statement.as_string(maintenance)
                yield events.ItemNotRestored(f"SETTING {self.name}", _describe(error), f"{text};\n")

    def restore(self) -> events.Stream:
        """Restore section by section, and yield what failed in the end."""
        for section in _SECTIONS:
            failed = yield from self._load(section)
            self._retry([*self.failed, *failed])
            if section == "data":
                self._load_refused_rows()
                yield from self._add_removed()
        with suppress(psycopg.Error), self._session() as session:
            session.execute("ANALYZE")
        for column, (statement, error) in self.ungenerated.items():
            yield events.ItemNotRestored(column, _describe(error), f"{statement}\n")
        for item, error in self.failed.items():
            title, script = self._read_script(item)
            yield events.ItemNotRestored(title, _describe(error), script)

    def _load(self, section: str) -> Generator[events.Event, None, list[ArchiveItem]]:
        """Restore a section, and return the items that failed."""
        options = PgRestoreOptions(self.name, self.jobs, section=section, go_on=True)
        try:
            yield from load_archive(self.server, replace(self.archive, content=self.open_archive()), options)
        except ProgramFailed as error:
            if not any(_FINISHED in line for line in error.messages):
                raise
            return archive_items.failed_items(error.messages)
        return []

    def _retry(self, items: list[ArchiveItem]) -> None:
        """Run items alone, in rounds, since an item may need another that failed before it."""
        before = -1
        while items and len(items) != before:
            before = len(items)
            self.failed = {item: error for item in items if (error := self._run(item))}
            items = list(self.failed)

    def _run(self, item: ArchiveItem) -> psycopg.Error | None:
        with self._session() as session, self._script(item) as lines:
            try:
                archive_items.run_script(session, lines, has_data=item.has_data)
            except psycopg.Error as error:
                if session.closed:
                    raise
                return error
        return None

    def _load_refused_rows(self) -> None:
        """Restore rows without the constraints that refuse them, or else also without generated columns."""
        for item in [item for item in self.failed if item.has_data]:
            table, first = self._read_table(item), self.failed[item]
            for query in ("checks", "generated"):
                rows = self._loosen(query, table)
                if query == "checks":
                    self.removed |= rows
                error = self._run(item) if rows else self.failed[item]
                if error is None:
                    del self.failed[item]
                    self.ungenerated |= {name: (text, first) for name, text in rows.items() if query == "generated"}
                    break

    def _loosen(self, query: str, table: str) -> dict[str, str]:
        """Drop constraints or generation expressions of a table. Returns the statements that restore them, by name."""
        statement, dropped = queries.load(__file__, "salvage")[query].encode(), dict[str, str]()
        with self._session() as session:
            while rows := session.execute(statement, {"table": table}).fetchall():
                try:
                    session.execute(" ".join(str(drop) for _, drop, _ in rows).encode())
                except psycopg.Error:  # of a partition, whose parent generates the column
                    return dropped
                dropped |= {str(name): str(add) for name, _, add in rows}
        return dropped

    def _add_removed(self) -> Iterator[events.Event]:
        with self._session() as session:
            for name, statement in self.removed.items():
                try:
                    session.execute(statement.encode())
                except psycopg.Error as error:  # noqa: PERF203
                    yield events.ItemNotRestored(name, _describe(error), f"{statement}\n")

    def _session(self) -> closing[Any]:
        session = self.server.open_session(self.name)
        session.execute("SELECT pg_catalog.set_config('search_path', '', false)")
        return closing(session)

    def _script(self, item: ArchiveItem) -> AbstractContextManager[Iterator[bytes]]:
        return archive_items.script_of(self.archive.programs, self.open_archive, [item.number])

    def _read_table(self, item: ArchiveItem) -> str:
        """The quoted name of the table whose rows an item has."""
        with self._script(item) as lines:
            matches = (match for line in lines if (match := _COPIED.fullmatch(line)))
            return next((match[1].decode(self._codec(), "replace") for match in matches), "")

    def _read_script(self, item: ArchiveItem) -> tuple[str, str]:
        """The title of an item, and its SQL without the settings of pg_restore, which include an empty search_path."""
        codec, title, texts = self._codec(), item.name, list[str]()
        with self._script(item) as lines:
            for line in lines:
                text = line.decode(codec, "replace")
                if match := _TITLE.fullmatch(text.rstrip()):
                    schema = "" if match[3] == "-" else f"{match[3]}."
                    title, texts = f"{match[2]} {schema}{match[1]}", ["--\n"]
                if item.has_data and _COPIED.fullmatch(line):
                    return title, f"-- The rows of {title} are in the backup. No table has them.\n"
                texts.append(text)
        end = next((n for n, line in enumerate(texts) if line.startswith("-- PostgreSQL database dump complete")), None)
        return title, "".join(texts[: end - 1 if end else None]).strip() + "\n"

    def _codec(self) -> str:
        with self._session() as session:
            session.execute(
                "SELECT set_config('client_encoding', %s, false)", (self.archive.manifest.database.encoding,)
            )
            return str(session.info.encoding)


def _describe(error: psycopg.Error) -> str:
    """The error in one line."""
    sentences = [sessions.sentence(sessions.first_line(error)), *sessions.error_details(error)]
    return " ".join(sentences).replace("\n", " ")
