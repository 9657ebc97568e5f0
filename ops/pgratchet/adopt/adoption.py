"""Taking over another tool's history: found, shown, written.

Owns the order: looked at without a lock, looked at again under our lock and the tool's own, files written, then all
rows in one transaction. Files come first, so that whatever breaks off behind them leaves what a second run finds as it
would have written it. The tool's table is only ever read. What rows and files mean is decided in `adoption`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Container, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from pgratchet import events
from pgratchet.adopt.matching import ADOPTED, PENDING, AdoptionItem, ConvertedFile, State, match_rows
from pgratchet.adopt.tools import ALL
from pgratchet.adopt.tools.tool import HistoryTable, Raw, Tool, ToolMigration, ToolRow
from pgratchet.database import queries
from pgratchet.database.connection import refuse_pooled
from pgratchet.database.history import AdoptedRow
from pgratchet.database.session import Session
from pgratchet.errors import ConfigurationError, HistoryDisagrees, LockBusy, several
from pgratchet.migrations import files as migrations
from pgratchet.migrations import plan
from pgratchet.migrations.files import Migration
from pgratchet.migrations.plan import UNKNOWN, HistoryRow


@dataclass(frozen=True, slots=True)
class AdoptionOptions:
    """What is to be taken over, into the folder `sql`. What is None is looked for; `history` is an SQLite file."""

    sql: Path
    tool: str | None = None
    files: Path | None = None
    history: Path | None = None


@dataclass(frozen=True, slots=True)
class Adoption:
    """What a takeover comes to. `rows` and `files` are what is not there yet, of the history and of the folder."""

    tool: str
    origin: str
    items: tuple[AdoptionItem, ...]
    rows: tuple[AdoptionItem, ...]
    files: tuple[ConvertedFile, ...]
    notes: tuple[str, ...] = ()
    lock_key: int | None = None

    def names(self, *states: State) -> tuple[str, ...]:
        return tuple(each.ours.name for each in self.items if each.ours and each.state in states)

    @property
    def is_there(self) -> bool:
        """Whether nothing is left to be written."""
        return not self.rows and not self.files

    @property
    def adopted(self) -> tuple[str, ...]:
        return self.names(*ADOPTED)

    @property
    def pending(self) -> tuple[str, ...]:
        return self.names(*PENDING)


def preview(session: Session, history: Sequence[HistoryRow], wishes: AdoptionOptions) -> Adoption:
    """What a takeover would come to; writes nothing. Raises where it is not clear what is to be taken over."""
    if wishes.history:
        return _look_elsewhere(wishes, history)
    tool, table = _table(session.connection, wishes.tool)
    folder, files = _files(tool, wishes.files, wishes.sql)
    _refuse_busy(session.connection, tool, table)
    rows = tool.rows(_rows(session.connection, table), files)
    items, notes = match_rows(tool.name, files, rows, _there(wishes.sql))
    key = tool.lock(table) if tool.lock else None
    found = Adoption(tool.name, f"{table.schema}.{table.name} and {folder}", items, (), (), notes, key)
    return _left(found, history, wishes.sql)


def _look_elsewhere(wishes: AdoptionOptions, history: Sequence[HistoryRow]) -> Adoption:
    """A history in an SQLite file: its order is taken over, but nothing of it was run on this server."""
    tool = _named(wishes.tool or "drizzle")
    assert wishes.history is not None
    folder, files = _files(tool, wishes.files, wishes.sql)
    rows = tool.rows(_sqlite(wishes.history, tool.table), files)
    items, notes = match_rows(tool.name, files, rows, _there(wishes.sql), elsewhere=True)
    return _left(Adoption(tool.name, f"{wishes.history} and {folder}", items, (), (), notes), history, wishes.sql)


def _left(found: Adoption, history: Sequence[HistoryRow], folder: Path) -> Adoption:
    """The same, with what is not there yet."""
    known, there = {record.name for record in history}, _there(folder)
    items = tuple(_since(each, known) for each in found.items)
    rows = tuple(each for each in items if each.state in ADOPTED and each.ours and each.ours.name not in known)
    files = tuple(each.ours for each in items if each.ours and each.ours.name not in there)
    return replace(found, items=items, rows=rows, files=files)


def _since(item: AdoptionItem, known: Container[str]) -> AdoptionItem:
    """What was pending when it was taken over may have been applied by a run of ours since."""
    if item.state in PENDING and item.ours and item.ours.name in known:
        return replace(item, state="applied")
    return item


def require_adoptable(found: Adoption, history: Sequence[HistoryRow], folder: Path) -> None:
    """Raise unless all of it can be taken over, and files and history will agree then."""
    wrong = [each for each in found.items if each.state not in (*ADOPTED, *PENDING, "applied")]
    if wrong:
        raise HistoryDisagrees(
            f"{found.tool}'s history cannot be taken over: {_count(len(wrong), 'migration')} to be settled",
            detail="\n".join(" ".join((f"{each.theirs}: {each.state}.", *each.remarks)) for each in wrong),
            hint="\n".join(dict.fromkeys(_ADVICE[each.state] for each in wrong)) + "\nNothing was changed.",
        )
    made = {each.ours.name: each.ours for each in found.items if each.ours}
    files = _there(folder)
    _refuse_in_the_way(made, files, folder)
    together = sorted({**files, **made}.values(), key=lambda each: each.version)
    records = [HistoryRow(each.ours.name, each.ours.checksum, UNKNOWN, None) for each in found.rows if each.ours]
    plan.require_agreement(plan.make_plan(together, [*history, *records]), {})


_ADVICE: Mapping[str, str] = {
    "changed": "Put the text back that was applied, from version control.",
    "no file": "Put the file back from version control, or give its folder as --files=DIR.",
    "skipped": "Apply it with the other tool first; or give it a newer version than every applied one.",
    "failed": "Bring the other tool's run to its end, and its table in order, first.",
    "cannot run": "Apply it with the other tool first; or write it as SQL into the folder of migrations, by the "
    "name that it has here: a file that is there is taken as it is.",
}


def _refuse_in_the_way(made: Mapping[str, Migration], files: Mapping[str, Migration], folder: Path) -> None:
    """A file is never written over, and a version is one migration's alone."""
    found = [f"{folder}/{name}.sql: there already, with another text." for name in made if _differ(made, files, name)]
    versions = {each.version: name for name, each in files.items()}
    found += [
        f"{folder}/{versions[each.version]}.sql: the same version as {name}."
        for name, each in made.items()
        if versions.get(each.version, name) != name
    ]
    if found:
        raise several("files are in the way", found, "Move them away, or give another folder with --sql=DIR.")


def _differ(made: Mapping[str, Migration], files: Mapping[str, Migration], name: str) -> bool:
    return name in files and files[name].checksum != made[name].checksum


def write(
    session: Session, seen: Adoption, wishes: AdoptionOptions, run_id: str
) -> Generator[events.Event, None, None]:
    """Take over what was seen: under our lock and the tool's own, files first, then all rows in one transaction."""
    if seen.is_there:
        return
    refuse_pooled(session.server, "no history can be taken over")
    history = (yield from session.lock()) or []
    _take_lock(session.connection, seen)
    now = preview(session, history, wishes)
    if now != seen:
        raise HistoryDisagrees(
            f"{seen.tool}'s history has changed since it was looked at",
            detail="Its table or its files are not what was shown. Nothing was changed.",
            hint="See that no run of it is under way, and run again.",
        )
    require_adoptable(now, history, wishes.sql)
    for file in now.files:
        _write(wishes.sql, file)
    rows = [_row(each.ours, each.row, now.tool, run_id) for each in now.rows if each.ours and each.row]
    if rows:
        session.history.adopt(session.connection, rows)


def _row(ours: ConvertedFile, row: ToolRow, tool: str, run_id: str) -> AdoptedRow:
    return AdoptedRow(ours.name, ours.checksum, ours.body, f"adopted:{tool}", run_id, row.moment, row.duration_ms)


def _take_lock(connection: psycopg.Connection, seen: Adoption) -> None:
    if seen.lock_key is not None and not _ask(connection, "lock", key=seen.lock_key)[0][0]:
        raise _running(seen.tool, "It holds its advisory lock.")


def _running(tool: str, why: str) -> LockBusy:
    return LockBusy(
        f"{tool} is running", detail=why, hint="Wait for it to end; where it has not ended well, mend that."
    )


def _write(folder: Path, file: ConvertedFile) -> None:
    """Write a file whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{file.name}.{os.getpid()}.partial"
    partial.write_bytes(file.body)
    partial.replace(folder / f"{file.name}.sql")


def _table(connection: psycopg.Connection, name: str | None) -> tuple[Tool, HistoryTable]:
    """The tool and its table: the one that is named, or the only one that is there."""
    wanted = (_named(name),) if name else ALL
    tables = _ask(connection, "tables", names=[tool.table for tool in wanted])
    found = [
        (tool, HistoryTable(connection.info.dbname, schema, table))
        for schema, table, columns in tables
        for tool in wanted
        if tool.table == table and tool.columns <= set(columns) and tool.without.isdisjoint(columns)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigurationError(
            "there is more than one history to take over",
            detail="\n".join(f"{tool.name}: {table.schema}.{table.name}." for tool, table in found),
            hint="Say which with --from=TOOL. Of one tool's there can be only one: rename the others.",
        )
    raise ConfigurationError(
        f"there is no history of {name or 'another tool'} in the database",
        detail=f"Looked for the tables {', '.join(sorted({tool.table for tool in wanted}))}, in every schema.",
        hint="See with `invoke render` that it is the right database; one without any history is taken over with "
        "--baseline=NAME.",
    )


def _named(name: str) -> Tool:
    for tool in ALL:
        if tool.name == name.replace("_", "-").lower():
            return tool
    raise ConfigurationError(
        f'--from names no tool that is known: "{name}"',
        detail=f"Known are {', '.join(tool.name for tool in ALL)}.",
        hint="Give one of them; or take the database over as it is, with --baseline=NAME.",
    )


def _files(tool: Tool, given: Path | None, ours: Path) -> tuple[Path, Sequence[ToolMigration]]:
    """The tool's files: of the folder that is given, or of the only one of its usual ones that has some."""
    usual = [Path(each) for each in tool.folders if Path(each).resolve() != ours.resolve()]
    found = [(each, files) for each in ([given] if given else usual) if each.is_dir() and (files := tool.files(each))]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigurationError(
            f"more than one folder has files of {tool.name}",
            detail=f"They are {' and '.join(str(each) for each, _ in found)}.",
            hint="Say which with --files=DIR.",
        )
    raise ConfigurationError(
        f"there are no files of {tool.name}",
        detail=f"Looked in {given or ', '.join(map(str, usual))}.",
        hint="Give their folder with --files=DIR.",
    )


def _refuse_busy(connection: psycopg.Connection, tool: Tool, table: HistoryTable) -> None:
    """Some tools say in a table beside it that a run is under way."""
    for schema, name, _ in _ask(connection, "tables", names=[tool.busy]) if tool.busy else ():
        if schema == table.schema and any(raw["locked"] for raw in _rows(connection, table._replace(name=name))):
            raise _running(tool.name, f"Its table {schema}.{name} is locked.")


def _rows(connection: psycopg.Connection, table: HistoryTable) -> list[Raw]:
    query = sql.SQL(queries.load(__file__, "adoption")["rows"]).format(table=sql.Identifier(table.schema, table.name))
    return [row for (row,) in connection.execute(query).fetchall()]


def _ask(connection: psycopg.Connection, query: str, **values: object) -> list[tuple[Any, ...]]:
    return connection.execute(queries.load(__file__, "adoption")[query].encode(), values).fetchall()


def _sqlite(path: Path, table: str) -> list[Raw]:
    """The rows of a table in an SQLite file, which is only read."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(f'SELECT * FROM "{table}"')]  # noqa: S608  a tool's constant
    except sqlite3.Error as error:
        raise ConfigurationError(
            f"{path} holds no history",
            detail=f"SQLite says: {error}.",
            hint=f"Give the SQLite file that has the table {table}, with --history=FILE.",
        ) from error


def _there(folder: Path) -> dict[str, Migration]:
    """The migrations that are in a folder, by name."""
    return {file.name: file for file in migrations.read(folder)} if folder.is_dir() else {}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
