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
        f'--from names no known tool: "{name}"',
        detail=f"Known tools are {', '.join(tool.name for tool in TOOLS)}.",
        hint="Give one of them, or adopt the database without a history with --baseline=NAME or --write-baseline.",
    )


def has_table(connection: psycopg.Connection) -> bool:
    """Return whether the database has the table of any tool."""
    return bool(_matching_tables(connection, TOOLS, None))


def find_table(connection: psycopg.Connection, name: str | None, table: str | None = None) -> tuple[Tool, HistoryTable]:
    """The tool and its table. Without a name, the only tool with a table in the database.

    `table` is the table's name if it is not the usual one, with or without its schema.
    """
    tools = (tool_named(name),) if name else TOOLS
    matches = _matching_tables(connection, tools, table)
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ConfigurationError(
            "the database has more than one history of another tool",
            detail="\n".join(f"{tool.name}: {match.schema}.{match.name}." for tool, match in matches),
            hint="Choose one with --from=TOOL, and with --table=SCHEMA.TABLE where a tool has more than one.",
        )
    usual = ", ".join(sorted({tool.table for tool in tools}))
    searched = f"the table {table} with the columns" if table else f"the tables {usual}, in every schema,"
    raise ConfigurationError(
        f"the database has no history of {name or 'another tool'}",
        detail=f"Searched for {searched} of {' or '.join(tool.name for tool in tools)}.",
        hint="Check with `invoke render` that it is the right database. For a history under another name give "
        "--table=SCHEMA.TABLE. A database without a history is adopted with --baseline=NAME or --write-baseline.",
    )


def _matching_tables(
    connection: psycopg.Connection, tools: Sequence[Tool], table: str | None
) -> list[tuple[Tool, HistoryTable]]:
    """The tables that have the columns of a tool, by the usual names or by one name."""
    schema, _, custom = (table or "").rpartition(".")
    names = [custom] if custom else [tool.table for tool in tools]
    tables = _query(connection, "tables", names=names, schema=schema or None)
    matches = [
        (tool, HistoryTable(connection.info.dbname, schema, name))
        for schema, name, columns in tables
        for tool in tools
        if (custom or tool.table == name) and tool.columns <= set(columns) and tool.excluded_columns.isdisjoint(columns)
    ]
    most = max((len(tool.columns) for tool, _ in matches), default=0)
    return [match for match in matches if not custom or len(match[0].columns) == most]


def owned_relations(connection: psycopg.Connection, schema: str, names: Sequence[str]) -> tuple[str, ...]:
    """The quoted names of tables and of their sequences, as far as they exist."""
    return tuple(name for (name,) in _query(connection, "owned", schema=schema, names=list(names)))


def holds_only(connection: psycopg.Connection, schema: str, relations: Sequence[str]) -> bool:
    """Return whether a schema holds nothing but relations with these quoted names."""
    return bool(_query(connection, "only", schema=schema, relations=list(relations))[0][0])


def schema_notes(connection: psycopg.Connection, tool: str, schema: str) -> tuple[str, ...]:
    """A sentence for a tool whose table is in another schema than this connection creates objects in."""
    ((current, role),) = _query(connection, "session")
    if schema == current:
        return ()
    names = [sql.Identifier(name).as_string(connection) for name in (role, connection.info.dbname, schema)]
    return (
        f"The table of {tool} is in the schema {schema}, and this connection creates objects in {current or 'none'}. "
        f"If files of {tool} name no schema, they have run in {schema}: before anything runs here, give "
        "`ALTER ROLE {} IN DATABASE {} SET search_path = {}, public`.".format(*names),
    )


def find_files(
    tool: Tool, folder: Path | None, our_folder: Path, *, optional: bool = False
) -> tuple[Path, Sequence[ToolMigration]]:
    """The tool's folder and migrations. Without a folder, the only usual folder with migrations.

    With `optional`, a missing folder has no migrations.
    """
    usual = [Path(name) for name in tool.folders if Path(name).resolve() != our_folder.resolve()]
    candidates = [folder] if folder else usual
    matches = [(path, files) for path in candidates if path.exists() and (files := tool.files(path))]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ConfigurationError(
            f"several folders have files of {tool.name}",
            detail=f"They are {' and '.join(str(path) for path, _ in matches)}.",
            hint="Choose one with --files=DIR.",
        )
    if optional and not folder:
        return usual[0], ()
    raise ConfigurationError(
        f"no files of {tool.name} found",
        detail=f"Searched {folder or ', '.join(map(str, usual))}.",
        hint="Name their folder with --files=DIR.",
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
            f"{path} has no history",
            detail=f"SQLite says: {error}.",
            hint=f"Give the SQLite file that has the table {table} with --history=FILE.",
        ) from error


def require_idle(connection: psycopg.Connection, tool: Tool, table: HistoryTable) -> None:
    """Raise LockBusy when the tool's lock table shows a run under way."""
    tables = _query(connection, "tables", names=[tool.lock_table], schema=table.schema) if tool.lock_table else []
    for schema, name, _ in tables:
        if any(row["locked"] for row in read_table(connection, table._replace(name=name))):
            raise _tool_is_running(tool.name, f"Its table {schema}.{name} is locked.")


def take_lock(connection: psycopg.Connection, tool: str, key: int) -> None:
    """Take the tool's own advisory lock until the session ends; LockBusy when a run of the tool holds it."""
    if not _query(connection, "lock", key=key)[0][0]:
        raise _tool_is_running(tool, "It holds its advisory lock.")


def _tool_is_running(tool: str, reason: str) -> LockBusy:
    return LockBusy(
        f"{tool} is running",
        detail=reason,
        hint=f"Wait until it has finished. If a run of {tool} has failed and left its lock, release the lock.",
    )


def _query(connection: psycopg.Connection, name: str, **values: object) -> list[tuple[Any, ...]]:
    return connection.execute(queries.load(__file__, "source")[name].encode(), values).fetchall()
