"""Adopts another tool's history: previews the adoption, and writes our files and the rows of our history.

`write` repeats the preview under our migration lock and the tool's own lock, and stops when anything has changed. It
writes the files first and then all rows in a single transaction, so an interrupted run can be repeated. The tool's
table is only read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import psycopg

from pgratchet.adopt import live_schema, source, unread
from pgratchet.adopt.conversion import ConvertedFile
from pgratchet.adopt.matching import (
    ADOPTED,
    PENDING,
    SETTLED,
    AdoptionItem,
    Choice,
    Ours,
    State,
    is_named,
    match_rows,
    our_name,
)
from pgratchet.adopt.tools.tool import ToolRow
from pgratchet.database.history import AdoptedRow
from pgratchet.database.session import Session
from pgratchet.errors import ConfigurationError, HistoryDisagrees, combine_mistakes
from pgratchet.events import drain
from pgratchet.formatting import format_count
from pgratchet.migrations import files as migrations
from pgratchet.migrations import plan, repeatables
from pgratchet.migrations.files import Migration
from pgratchet.migrations.plan import UNKNOWN, HistoryRow

DumpWithout = Callable[[Sequence[str]], bytes]
"""Dumps the schema of the live database without our history table and without the tables of these quoted names."""


@dataclass(frozen=True, slots=True)
class AdoptionOptions:
    """Selects the history to adopt into the folder `sql`. A value of None is detected.

    `files` is the folder of the tool's files. `history` is an SQLite file with the history of another server. `table`
    is the tool's table if it has another name than the usual one, with or without its schema. With `write_baseline`
    the live schema is adopted as one file, in place of the applied migrations.
    """

    sql: Path
    tool: str | None = None
    files: Path | None = None
    history: Path | None = None
    table: str | None = None
    choice: Choice = field(default_factory=Choice)
    write_baseline: bool = False


@dataclass(frozen=True, slots=True)
class Adoption:
    """The preview of an adoption. `rows` and `files` are missing in our history and our folder.

    `mended` have a row in our history whose text a person has replaced. `replaced` are names of adopted rows, and of
    files of ours, that a baseline replaces. `tables` are the quoted names of the tool's tables and their sequences, and
    `schema` is the name of a schema that holds nothing else.
    """

    tool: str
    origin: str
    items: tuple[AdoptionItem, ...]
    rows: tuple[AdoptionItem, ...] = ()
    files: tuple[ConvertedFile, ...] = ()
    notes: tuple[str, ...] = ()
    lock_key: int | None = None
    mended: tuple[AdoptionItem, ...] = ()
    replaced: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    schema: str = ""

    def names(self, *states: State) -> tuple[str, ...]:
        """Our names of the migrations in these states."""
        return tuple(item.file.name for item in self.items if item.file and item.state in states)

    @property
    def is_complete(self) -> bool:
        """Return whether every row and file has been written before."""
        return not self.rows and not self.files and not self.mended and not self.replaced

    @property
    def adopted(self) -> tuple[str, ...]:
        return self.names(*ADOPTED)

    @property
    def pending(self) -> tuple[str, ...]:
        return self.names(*PENDING)

    @property
    def adopted_files(self) -> tuple[ConvertedFile, ...]:
        """Our files of all migrations whose changes the database has."""
        return tuple(item.file for item in self.items if item.file and item.has_run)


def preview(
    session: Session, history: Sequence[HistoryRow], options: AdoptionOptions, dump: DumpWithout | None = None
) -> Adoption:
    """Compute an adoption without writing anything. Raises when the tool or its files cannot be determined.

    `dump` is needed for a baseline.
    """
    ours = Ours(_existing_files(options.sql), {name: row.checksum for name, row in _recorded(history).items()})
    if options.history:
        adoption = _preview_file(options.history, options, ours)
    elif options.write_baseline and not (options.tool or options.table) and not source.has_table(session.connection):
        adoption = Adoption("baseline", f"the schema of {session.connection.info.dbname}", ())
    else:
        adoption = _preview_table(session.connection, options, ours)
    _require_known_names(adoption, options.choice)
    if options.write_baseline and dump:
        adoption = _with_baseline(adoption, history, session.connection.info.dbname, dump, session.history.schema)
    elif any(row.source == _BASELINE for row in history):
        adoption = replace(adoption, items=_without_replaced(adoption.items, _recorded(history)))
    return _with_missing_parts(adoption, history, ours)


def _preview_table(connection: psycopg.Connection, options: AdoptionOptions, ours: Ours) -> Adoption:
    tool, table = source.find_table(connection, options.tool, options.table)
    folder, files = source.find_files(tool, options.files, options.sql, optional=options.write_baseline)
    source.require_idle(connection, tool, table)
    json_rows = source.read_table(connection, table)
    files = tool.complete(json_rows, files) if tool.complete else files
    rows, names = tool.rows(json_rows, files), tuple(filter(None, (table.name, tool.lock_table, *tool.other_tables)))
    items, notes = match_rows(tool.name, files, rows, ours, choice=options.choice, tables=names)
    notes = (*notes, *unread.notes(tool, folder, files, options.sql))
    key = tool.lock_key(table) if tool.lock_key else None
    tables = source.owned_relations(connection, table.schema, names)
    origin = f"{table.schema}.{table.name} and {folder}"
    schema = table.schema if source.holds_only(connection, table.schema, tables) else ""
    notes = (*notes, *(() if schema else source.schema_notes(connection, tool.name, table.schema)))
    return Adoption(tool.name, origin, items, notes=notes, lock_key=key, tables=tables, schema=schema)


def _preview_file(history: Path, options: AdoptionOptions, ours: Ours) -> Adoption:
    """Adopt only the order of a history in an SQLite file, because its migrations did not run on this server."""
    tool = source.tool_named(options.tool or "drizzle")
    folder, files = source.find_files(tool, options.files, options.sql)
    rows = tool.rows(source.read_sqlite(history, options.table or tool.table), files)
    items, notes = match_rows(tool.name, files, rows, ours, choice=options.choice, elsewhere=True)
    notes = (*notes, *unread.notes(tool, folder, files, options.sql))
    return Adoption(tool.name, f"{history} and {folder}", items, notes=notes)


def _existing_files(folder: Path) -> dict[str, Migration]:
    """The migrations of a folder by name; none when the folder does not exist."""
    return {file.name: file for file in migrations.read(folder)} if folder.is_dir() else {}


def _recorded(history: Sequence[HistoryRow]) -> dict[str, HistoryRow]:
    """The row of each migration by the name of its file, of a repeatable the newest row."""
    rows = {row.name: row for row in history if not repeatables.is_repeatable_row(row.name)}
    return rows | {each.name: each.row for each in repeatables.plan((), history).entries if each.row}


def _require_known_names(adoption: Adoption, choice: Choice) -> None:
    """Raise ConfigurationError for a chosen name that is not one of a migration."""
    known = {item.original for item in adoption.items} | {item.file.name for item in adoption.items if item.file}
    patterns_of = {"include": choice.include, "exclude": choice.exclude, "mended": choice.mended}
    mistakes = [
        f'--{flag} names no migration: "{pattern}".'
        for flag, patterns in patterns_of.items()
        for pattern in patterns
        if pattern != "*" and not any(is_named(name, [pattern]) for name in known)
    ]
    if mistakes:
        raise combine_mistakes(
            "migrations are named that the tool does not have",
            mistakes,
            "Give the names that `invoke adopt --dry-run` shows in the column WAS, or patterns with * and ?.",
        )


def _with_baseline(
    adoption: Adoption, history: Sequence[HistoryRow], database: str, dump: DumpWithout, our_schema: str
) -> Adoption:
    """The same adoption with one file of the live schema in place of all applied migrations."""
    versioned = [row for row in history if not repeatables.is_repeatable_row(row.name)]
    ran = [row.name for row in versioned if row.source not in (_BASELINE, f"adopted:{adoption.tool}")]
    if ran:
        raise ConfigurationError(
            "a baseline cannot replace migrations that pgratchet has applied",
            detail=f"The history has {format_count(len(ran), 'row')} that are not adopted, such as {ran[0]}.",
            hint="Keep the files that were adopted, or write what is missing into a new migration.",
        )
    replaced = [item for item in adoption.items if _is_replaced(item)]
    versions = [item.file.name.partition("_")[0] for item in replaced if item.file]
    name = our_name(versions[-1] if versions else "0001", live_schema.TITLE)
    left_out = [our_schema, *([adoption.schema] if adoption.schema not in ("", "public") else [])]
    contents = (
        f"{format_count(len(replaced), 'migration')} of {adoption.tool} had made it" if replaced else "no history"
    )
    file = live_schema.baseline_file(name, dump(adoption.tables), database, left_out, contents)
    items = _without_replaced(adoption.items, ())
    baseline = AdoptionItem(_LIVE_SCHEMA, "verified", file, ToolRow((name,)))
    recorded = {row.name for row in history if row.source != _BASELINE}
    names = [item.file.name for item in replaced if item.file and item.file.name in recorded]
    place = len([item for item in items if item.state in ("replaced", "left out")])
    return replace(adoption, items=(*items[:place], baseline, *items[place:]), replaced=tuple(names))


def _without_replaced(items: Sequence[AdoptionItem], recorded: Container[str]) -> tuple[AdoptionItem, ...]:
    """The items with the state `replaced` for applied migrations that have no row of their own."""
    return tuple(
        replace(item, state="replaced", file=None)
        if _is_replaced(item) and not (item.file and item.file.name in recorded)
        else item
        for item in items
    )


def _is_replaced(item: AdoptionItem) -> bool:
    """Return whether a baseline replaces a migration. A repeatable stays, because its text may change later."""
    return item.state in _REPLACED and not item.is_repeatable


_LIVE_SCHEMA = "the live schema"
_BASELINE = "adopted:baseline"
_REPLACED: tuple[State, ...] = (*ADOPTED, "changed", "no file")
"""The states of applied migrations that a baseline replaces."""


def _with_missing_parts(adoption: Adoption, history: Sequence[HistoryRow], ours: Ours) -> Adoption:
    """The same adoption with `rows`, `files` and `mended` set."""
    recorded = _recorded(history)
    items = tuple(_applied_since(item, recorded) for item in adoption.items)
    rows = tuple(item for item in items if item.state in ADOPTED and item.file and item.file.name not in recorded)
    mended = tuple(item for item in items if item.file and _is_mended(item.file, adoption.tool, recorded))
    files = tuple(item.file for item in items if item.file and item.file.name not in ours.files)
    return replace(adoption, items=items, rows=rows, files=files, mended=mended)


def _is_mended(file: ConvertedFile, tool: str, recorded: Mapping[str, HistoryRow]) -> bool:
    """Return whether a person has replaced the text of a file that was adopted before, which does not run again."""
    row = None if file.is_repeatable else recorded.get(file.name)
    return file.is_mended and row is not None and row.source == f"adopted:{tool}" and row.checksum != file.checksum


def _applied_since(item: AdoptionItem, recorded: Mapping[str, HistoryRow]) -> AdoptionItem:
    """Set the state `applied` for an item that `migrate` has applied since an earlier adoption."""
    if item.state in PENDING and item.file and item.file.name in recorded:
        return replace(item, state="applied")
    return item


def require_adoptable(adoption: Adoption, history: Sequence[HistoryRow], folder: Path) -> None:
    """Raise unless every migration can be adopted, and files and history will agree afterwards."""
    unsettled = [item for item in adoption.items if item.state not in SETTLED]
    if unsettled:
        count = format_count(len(unsettled), "migration")
        raise HistoryDisagrees(
            f"the history of {adoption.tool} cannot be adopted before {count} {'is' if count[:2] == '1 ' else 'are'} "
            "settled",
            detail="\n".join(" ".join((f"{item.original}: {item.state}.", *item.remarks)) for item in unsettled),
            hint="\n".join(dict.fromkeys(_ADVICE[item.state] for item in unsettled)) + "\nNothing was changed.",
        )
    replaced = set(adoption.replaced)
    converted = {item.file.name: item.file for item in adoption.items if item.file}
    existing = {name: file for name, file in _existing_files(folder).items() if name not in replaced}
    _require_no_conflict(converted, existing, folder)
    _require_none_left_out(adoption, [file for name, file in existing.items() if name not in converted], history)
    files = sorted({**existing, **converted}.values(), key=lambda file: file.version)
    new = [*adoption.rows, *adoption.mended]
    rows = [HistoryRow(item.file.first_row, item.file.checksum, UNKNOWN, None) for item in new if item.file]
    overwritten = {row.name for row in rows} | replaced
    others = [row for row in history if row.name not in overwritten]
    plan.require_agreement(plan.make_plan(files, [*others, *rows]), {})


_ADVICE: Mapping[str, str] = {
    "changed": "Restore the applied text of a changed file from version control.",
    "no file": "Restore a missing file from version control, or give its folder as --files=DIR. A repeatable whose "
    "file was deleted on purpose is left out with --exclude=NAMES: what it made stays.",
    "skipped": "Apply a skipped migration with the other tool, or give it a newer version than every applied one.",
    "failed": "Finish a failed run with the other tool, and correct the tool's table.",
    "cannot run": "Apply a migration that cannot run with the other tool. Or write it as SQL into the folder of "
    "migrations, by the name that it has here, and run again. Repeatables and callbacks can be left out with "
    "--exclude=NAMES.",
    "excluded": "The tool may leave out an excluded migration on this database, and has not run it here. Give "
    "--exclude to leave out all of these, or --exclude=NAMES. Give --include=NAMES for those that are to run here.",
}


def _require_no_conflict(converted: Mapping[str, Migration], existing: Mapping[str, Migration], folder: Path) -> None:
    """ConfigurationError when a file would be overwritten, or two migrations would have the same version.

    A repeatable of ours with another text is one that was changed since the adoption into another database.
    """
    versioned = {name: file for name, file in converted.items() if not file.is_repeatable}
    names = {file.version: name for name, file in existing.items()}
    overwritten = [name for name, file in versioned.items() if _has_other_text(existing.get(name), file)]
    conflicts = [f"{folder}/{name}.sql: exists with another text." for name in overwritten]
    conflicts += [
        f"{folder}/{names[file.version]}.sql: has the same version as {name}."
        for name, file in versioned.items()
        if names.get(file.version, name) != name
    ]
    if conflicts:
        mend = f" To adopt your own text of a file, give --mended={overwritten[0]}." if overwritten else ""
        raise combine_mistakes(
            "files are in the way", conflicts, f"Move them away, or give another folder with --sql=DIR.{mend}"
        )


def _require_none_left_out(adoption: Adoption, existing: Sequence[Migration], history: Sequence[HistoryRow]) -> None:
    """ConfigurationError when our folder has a file of a migration that is left out: the next run would apply it."""
    unused = {item.unused_checksum: item.original for item in adoption.items if item.unused_checksum}
    recorded = _recorded(history)
    mistakes = [
        f"{file.path}: has the text of {unused[file.checksum]}, which is left out."
        for file in existing
        if file.checksum in unused and file.name not in recorded
    ]
    if mistakes:
        raise combine_mistakes(
            "files would run here that are left out",
            mistakes,
            "Adopt databases with different migrations into different folders with --sql=DIR, or move the files away.",
        )


def _has_other_text(existing: Migration | None, file: Migration) -> bool:
    return existing is not None and existing.checksum != file.checksum


def write(
    session: Session, adoption: Adoption, options: AdoptionOptions, run_id: str, dump: DumpWithout | None = None
) -> None:
    """Write the files and the rows of an adoption after its preview."""
    if adoption.is_complete:
        return
    session.refuse_pooled("no history can be adopted")
    for _ in session.lock():
        pass
    history = session.history.read(session.connection)
    if adoption.lock_key is not None:
        source.take_lock(session.connection, adoption.tool, adoption.lock_key)
    current = preview(session, history, options, dump)
    if current != adoption:
        raise HistoryDisagrees(
            f"the history of {adoption.tool} has changed since the preview",
            detail="Its table or its files differ from what was shown. Nothing was changed.",
            hint="Make sure that the tool is not running, and run again.",
        )
    require_adoptable(current, history, options.sql)
    for file in current.files:
        write_file(options.sql, file)
    rows = [_history_row(item, current.tool, run_id) for item in current.rows]
    mended = [_history_row(item, current.tool, run_id) for item in current.mended]
    if rows or mended:
        session.history.adopt(session.connection, rows, mended=mended, replaced=current.replaced)
        drain(session.record_environment())
    for name in current.replaced:
        (options.sql / f"{name}.sql").unlink(missing_ok=True)


def _history_row(item: AdoptionItem, tool: str, run_id: str) -> AdoptedRow:
    file, row = item.file, item.row
    assert file is not None  # an adopted item has both
    assert row is not None
    source = _BASELINE if item.original == _LIVE_SCHEMA else f"adopted:{tool}"
    return AdoptedRow(file.first_row, file.checksum, file.body, source, run_id, row.moment, row.duration_ms)


def write_file(folder: Path, file: ConvertedFile) -> None:
    """Write a file atomically."""
    path = folder / f"{file.name}.sql"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial")
    partial.write_bytes(file.body)
    partial.replace(path)
