"""Finds the tool to adopt: its table in the database or in an SQLite file, and its migration files."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from pgratchet.adopt.tools.registry import TOOLS
from pgratchet.adopt.tools.tool import HistoryTable, JsonRow, Tool, ToolMigration
from pgratchet.database import queries
from pgratchet.errors import ConfigurationError, LockBusy


def tool_named(name: str) -> Tool:
    """The tool with this name; ConfigurationError for an unknown name."""
    for tool in TOOLS:
        if tool.name == name.replace("_", "-").lower():
            return tool
    raise ConfigurationError(
        f'--from names no tool that is known: "{name}"',
        detail=f"Known are {', '.join(tool.name for tool in TOOLS)}.",
        hint="Give one of them; or take the database over as it is, with --baseline=NAME.",
    )


def find_table(connection: psycopg.Connection, name: str | None) -> tuple[Tool, HistoryTable]:
    """The tool and its table. Without a name, the only tool with a table in the database."""
    tools = (tool_named(name),) if name else TOOLS
    tables = _query(connection, "tables", names=[tool.table for tool in tools])
    matches = [
        (tool, HistoryTable(connection.info.dbname, schema, table))
        for schema, table, columns in tables
        for tool in tools
        if tool.table == table and tool.columns <= set(columns) and tool.excluded_columns.isdisjoint(columns)
    ]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ConfigurationError(
            "there is more than one history to take over",
            detail="\n".join(f"{tool.name}: {table.schema}.{table.name}." for tool, table in matches),
            hint="Say which with --from=TOOL. Of one tool's there can be only one: rename the others.",
        )
    raise ConfigurationError(
        f"there is no history of {name or 'another tool'} in the database",
        detail=f"Looked for the tables {', '.join(sorted({tool.table for tool in tools}))}, in every schema.",
        hint="See with `invoke render` that it is the right database; one without any history is taken over with "
        "--baseline=NAME.",
    )


def find_files(tool: Tool, folder: Path | None, our_folder: Path) -> tuple[Path, Sequence[ToolMigration]]:
    """The tool's folder and migrations. Without a folder, the only usual folder with migrations."""
    usual = [Path(name) for name in tool.folders if Path(name).resolve() != our_folder.resolve()]
    candidates = [folder] if folder else usual
    matches = [(path, files) for path in candidates if path.is_dir() and (files := tool.files(path))]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ConfigurationError(
            f"more than one folder has files of {tool.name}",
            detail=f"They are {' and '.join(str(path) for path, _ in matches)}.",
            hint="Say which with --files=DIR.",
        )
    raise ConfigurationError(
        f"there are no files of {tool.name}",
        detail=f"Looked in {folder or ', '.join(map(str, usual))}.",
        hint="Give their folder with --files=DIR.",
    )


def read_table(connection: psycopg.Connection, table: HistoryTable) -> list[JsonRow]:
    """All rows of a table."""
    query = sql.SQL(queries.load(__file__, "source")["rows"]).format(table=sql.Identifier(table.schema, table.name))
    return [row for (row,) in connection.execute(query).fetchall()]


def read_sqlite(path: Path, table: str) -> list[JsonRow]:
    """All rows of a table in an SQLite file, opened read-only."""
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


def require_idle(connection: psycopg.Connection, tool: Tool, table: HistoryTable) -> None:
    """Raise LockBusy when the tool's lock table shows a run under way."""
    for schema, name, _ in _query(connection, "tables", names=[tool.lock_table]) if tool.lock_table else ():
        if schema == table.schema and any(row["locked"] for row in read_table(connection, table._replace(name=name))):
            raise _tool_is_running(tool.name, f"Its table {schema}.{name} is locked.")


def take_lock(connection: psycopg.Connection, tool: str, key: int) -> None:
    """Take the tool's own advisory lock until the session ends; LockBusy when a run of the tool holds it."""
    if not _query(connection, "lock", key=key)[0][0]:
        raise _tool_is_running(tool, "It holds its advisory lock.")


def _tool_is_running(tool: str, reason: str) -> LockBusy:
    return LockBusy(
        f"{tool} is running", detail=reason, hint="Wait for it to end; where it has not ended well, fix that."
    )


def _query(connection: psycopg.Connection, name: str, **values: object) -> list[tuple[Any, ...]]:
    return connection.execute(queries.load(__file__, "source")[name].encode(), values).fetchall()
