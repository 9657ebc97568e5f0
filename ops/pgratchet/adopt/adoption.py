"""Adopts another tool's history: previews the adoption, and writes our files and the rows of our history.

`write` repeats the preview under our migration lock and the tool's own lock, and stops when anything has changed. It
writes the files first and then all rows in a single transaction, so an interrupted run can be repeated. The tool's
table is only read.
"""

from __future__ import annotations

import os
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from pgratchet.adopt import source
from pgratchet.adopt.matching import ADOPTED, PENDING, AdoptionItem, ConvertedFile, State, match_rows
from pgratchet.database.history import AdoptedRow
from pgratchet.database.inspection import refuse_pooled
from pgratchet.database.session import Session
from pgratchet.errors import HistoryDisagrees, combine_mistakes
from pgratchet.formatting import format_count
from pgratchet.migrations import files as migrations
from pgratchet.migrations import plan
from pgratchet.migrations.files import Migration
from pgratchet.migrations.plan import UNKNOWN, HistoryRow


@dataclass(frozen=True, slots=True)
class AdoptionOptions:
    """Selects the history to adopt into the folder `sql`. A value of None is detected.

    `files` is the folder of the tool's files. `history` is an SQLite file with the history of another server.
    """

    sql: Path
    tool: str | None = None
    files: Path | None = None
    history: Path | None = None


@dataclass(frozen=True, slots=True)
class Adoption:
    """The preview of an adoption. `rows` and `files` are missing in our history and our folder."""

    tool: str
    origin: str
    items: tuple[AdoptionItem, ...]
    rows: tuple[AdoptionItem, ...]
    files: tuple[ConvertedFile, ...]
    notes: tuple[str, ...] = ()
    lock_key: int | None = None

    def names(self, *states: State) -> tuple[str, ...]:
        """Our names of the migrations in these states."""
        return tuple(item.file.name for item in self.items if item.file and item.state in states)

    @property
    def is_complete(self) -> bool:
        """Return whether every row and file has been written before."""
        return not self.rows and not self.files

    @property
    def adopted(self) -> tuple[str, ...]:
        return self.names(*ADOPTED)

    @property
    def pending(self) -> tuple[str, ...]:
        return self.names(*PENDING)


def preview(session: Session, history: Sequence[HistoryRow], options: AdoptionOptions) -> Adoption:
    """Compute an adoption without writing anything. Raises when the tool or its files cannot be determined."""
    if options.history:
        adoption = _preview_file(options.history, options)
    else:
        adoption = _preview_table(session.connection, options)
    return _with_missing_parts(adoption, history, options.sql)


def _preview_table(connection: psycopg.Connection, options: AdoptionOptions) -> Adoption:
    tool, table = source.find_table(connection, options.tool)
    folder, files = source.find_files(tool, options.files, options.sql)
    source.require_idle(connection, tool, table)
    rows = tool.rows(source.read_table(connection, table), files)
    items, notes = match_rows(tool.name, files, rows, _existing_files(options.sql))
    key = tool.lock_key(table) if tool.lock_key else None
    return Adoption(tool.name, f"{table.schema}.{table.name} and {folder}", items, (), (), notes, key)


def _preview_file(history: Path, options: AdoptionOptions) -> Adoption:
    """Adopt only the order of a history in an SQLite file, because its migrations did not run on this server."""
    tool = source.tool_named(options.tool or "drizzle")
    folder, files = source.find_files(tool, options.files, options.sql)
    rows = tool.rows(source.read_sqlite(history, tool.table), files)
    items, notes = match_rows(tool.name, files, rows, _existing_files(options.sql), elsewhere=True)
    return Adoption(tool.name, f"{history} and {folder}", items, (), (), notes)


def _existing_files(folder: Path) -> dict[str, Migration]:
    """The migrations of a folder by name; none when the folder does not exist."""
    return {file.name: file for file in migrations.read(folder)} if folder.is_dir() else {}


def _with_missing_parts(adoption: Adoption, history: Sequence[HistoryRow], folder: Path) -> Adoption:
    """The same adoption with `rows` and `files` set."""
    recorded, existing = {row.name for row in history}, _existing_files(folder)
    items = tuple(_applied_since(item, recorded) for item in adoption.items)
    rows = tuple(item for item in items if item.state in ADOPTED and item.file and item.file.name not in recorded)
    files = tuple(item.file for item in items if item.file and item.file.name not in existing)
    return replace(adoption, items=items, rows=rows, files=files)


def _applied_since(item: AdoptionItem, recorded: Container[str]) -> AdoptionItem:
    """Set the state `applied` for an item that `migrate` has applied since an earlier adoption."""
    if item.state in PENDING and item.file and item.file.name in recorded:
        return replace(item, state="applied")
    return item


def require_adoptable(adoption: Adoption, history: Sequence[HistoryRow], folder: Path) -> None:
    """Raise unless every migration can be adopted, and files and history will agree afterwards."""
    unsettled = [item for item in adoption.items if item.state not in (*ADOPTED, *PENDING, "applied")]
    if unsettled:
        count = format_count(len(unsettled), "migration")
        raise HistoryDisagrees(
            f"{adoption.tool}'s history cannot be taken over: {count} to be settled",
            detail="\n".join(" ".join((f"{item.original}: {item.state}.", *item.remarks)) for item in unsettled),
            hint="\n".join(dict.fromkeys(_ADVICE[item.state] for item in unsettled)) + "\nNothing was changed.",
        )
    converted = {item.file.name: item.file for item in adoption.items if item.file}
    existing = _existing_files(folder)
    _require_no_conflict(converted, existing, folder)
    files = sorted({**existing, **converted}.values(), key=lambda file: file.version)
    rows = [HistoryRow(item.file.name, item.file.checksum, UNKNOWN, None) for item in adoption.rows if item.file]
    plan.require_agreement(plan.make_plan(files, [*history, *rows]), {})


_ADVICE: Mapping[str, str] = {
    "changed": "Put the text back that was applied, from version control.",
    "no file": "Put the file back from version control, or give its folder as --files=DIR.",
    "skipped": "Apply it with the other tool first; or give it a newer version than every applied one.",
    "failed": "Bring the other tool's run to its end, and its table in order, first.",
    "cannot run": "Apply it with the other tool first; or write it as SQL into the folder of migrations, by the "
    "name that it has here: a file that is there is taken as it is.",
}


def _require_no_conflict(converted: Mapping[str, Migration], existing: Mapping[str, Migration], folder: Path) -> None:
    """ConfigurationError when a file would be overwritten, or two migrations would have the same version."""
    names = {file.version: name for name, file in existing.items()}
    overwritten = [name for name, file in converted.items() if _has_other_text(existing.get(name), file)]
    conflicts = [f"{folder}/{name}.sql: there already, with another text." for name in overwritten]
    conflicts += [
        f"{folder}/{names[file.version]}.sql: the same version as {name}."
        for name, file in converted.items()
        if names.get(file.version, name) != name
    ]
    if conflicts:
        raise combine_mistakes(
            "files are in the way", conflicts, "Move them away, or give another folder with --sql=DIR."
        )


def _has_other_text(existing: Migration | None, file: Migration) -> bool:
    return existing is not None and existing.checksum != file.checksum


def write(session: Session, adoption: Adoption, options: AdoptionOptions, run_id: str) -> None:
    """Write the files and the rows of an adoption after its preview."""
    if adoption.is_complete:
        return
    refuse_pooled(session.server, "no history can be taken over")
    for _ in session.lock():
        pass
    history = session.history.read(session.connection)
    if adoption.lock_key is not None:
        source.take_lock(session.connection, adoption.tool, adoption.lock_key)
    current = preview(session, history, options)
    if current != adoption:
        raise HistoryDisagrees(
            f"{adoption.tool}'s history has changed since it was looked at",
            detail="Its table or its files are not what was shown. Nothing was changed.",
            hint="See that no run of it is under way, and run again.",
        )
    require_adoptable(current, history, options.sql)
    for file in current.files:
        _write_file(options.sql, file)
    rows = [_history_row(item, current.tool, run_id) for item in current.rows]
    if rows:
        session.history.adopt(session.connection, rows)


def _history_row(item: AdoptionItem, tool: str, run_id: str) -> AdoptedRow:
    file, row = item.file, item.row
    assert file is not None  # an adopted item has both
    assert row is not None
    return AdoptedRow(file.name, file.checksum, file.body, f"adopted:{tool}", run_id, row.moment, row.duration_ms)


def _write_file(folder: Path, file: ConvertedFile) -> None:
    """Write a file atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{file.name}.{os.getpid()}.partial"
    partial.write_bytes(file.body)
    partial.replace(folder / f"{file.name}.sql")
