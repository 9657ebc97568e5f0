"""Finds what a database contains besides the history, and refuses a first run on a database that is not empty.

With an empty history every file is pending. In a database that was filled by another tool, by hand or under another
name of the history, the files would change data a second time.

A database counts as empty when it has no tables, views and sequences. Functions and types do not count: they hold no
data, and monitoring tools and providers add them to new databases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psycopg

from pgratchet.database import queries
from pgratchet.database.history import History
from pgratchet.database.simple_query import rows, send
from pgratchet.errors import HistoryDisagrees
from pgratchet.formatting import format_count
from pgratchet.migrations.plan import HistoryRow

OTHER_HISTORIES: Mapping[str, str] = {
    "__diesel_schema_migrations": "Diesel",
    "__drizzle_migrations": "drizzle",
    "__efmigrationshistory": "Entity Framework",
    "_prisma_migrations": "prisma",
    "_sqlx_migrations": "sqlx",
    "_yoyo_migration": "yoyo",
    "alembic_version": "alembic",
    "atlas_schema_revisions": "Atlas",
    "databasechangelog": "liquibase",
    "django_migrations": "Django",
    "flyway_schema_history": "flyway",
    "goose_db_version": "goose",
    "knex_migrations": "Knex",
    "pgmigrations": "node-pg-migrate",
    "phinxlog": "Phinx",
    "refinery_schema_history": "Refinery",
    "schema_migrations": "dbmate, golang-migrate or another tool",
    "schema_version": "flyway",
    "sequelizemeta": "Sequelize",
}
"""Tools by the lower-case name of their history table; those that `invoke adopt` knows are named as there."""
_ADOPTED = ("alembic", "drizzle", "flyway", "goose", "liquibase", "node-pg-migrate", "prisma", "yoyo")
"""The tools that `invoke adopt` finds by the name of their table alone."""
_FURTHER_NAMES = ("schema_version",)
"""Names that a table of such a tool has in old versions of the tool."""
_PROVIDER_SCHEMAS = ("metric_helpers", "user_management", "zmon_utils", "_heroku")
"""Schemas that providers and operators put into new databases: the Zalando operator's image, and Heroku."""
_PROVIDER_OWNERS = (
    "^(alloydbadmin|azure_superuser|azuresu|cloud_admin|cloudsqladmin|cloudsqlagent|rdsadmin|"
    "supabase_(admin|auth_admin|functions_admin|realtime_admin|replication_admin|storage_admin))$"
)
"""Roles that own a provider's objects on managed servers. Their objects count when this session is the same role."""


@dataclass(frozen=True, slots=True)
class DatabaseContents:
    """The contents of a database besides the history.

    `relations` are phrases such as "2 tables (public.a, public.b)". `own_histories` are quoted names of tables.
    `other_histories` maps the quoted name of a table to its tool.
    """

    relations: tuple[str, ...]
    own_histories: tuple[str, ...]
    other_histories: Mapping[str, str]


def read_contents(connection: psycopg.Connection, history: History) -> DatabaseContents | None:
    """Read what the database contains besides the history; None when it is empty."""
    values: dict[str, object] = {"schema": history.schema, "table": history.table}
    values |= {"schemas": list(_PROVIDER_SCHEMAS), "owners": _PROVIDER_OWNERS, "names": list(OTHER_HISTORIES)}
    kinds = _fetch(connection, "relations", values)
    if not kinds:
        return None
    tables = _fetch(connection, "histories", values)
    return DatabaseContents(
        tuple(_describe(kind or "", int(count or 0), names or "") for kind, count, names in kinds),
        tuple(name or "" for name, _, is_own in tables if is_own == "t"),
        {name or "": OTHER_HISTORIES[table or ""] for name, table, is_own in tables if is_own == "f"},
    )


def _describe(kind: str, count: int, names: str) -> str:
    return f"{format_count(count, kind)} ({names}{', ...' if count > 5 else ''})"


def _fetch(connection: psycopg.Connection, query: str, values: Mapping[str, object]) -> list[tuple[str | None, ...]]:
    """Send a query of contents.sql in a single round trip and return the rows, as text."""
    text = psycopg.ClientCursor(connection).mogrify(queries.load(__file__, "contents")[query].encode(), values)
    answer = send(connection, text.encode())
    if answer.error is not None:
        raise answer.error
    return rows(answer.results[-1])


def require_empty(connection: psycopg.Connection, history: History, *, without_first: bool = True) -> list[HistoryRow]:
    """Raise HistoryDisagrees when the history is empty and the database is not. Returns the history.

    Another run may have made the first tables since the history was read. It commits them with their row, so the
    history is read again after the tables were seen. With `without_first`, the schema can become the file 001.
    """
    contents = read_contents(connection, history)
    applied = history.read(connection) if contents else []
    if contents and not applied:
        raise not_empty(connection.info.dbname, history, contents, without_first=without_first)
    return applied


def warning(connection: psycopg.Connection, history: History, *, without_first: bool = True) -> str:
    """Return a phrase about a database that is not empty though its history is; an empty text for an empty database."""
    contents = read_contents(connection, history)
    if contents is None or history.read(connection):
        return ""
    return (
        f"the history is empty, and the database has {', '.join(contents.relations)}: "
        f"{_first_advice(contents, without_first=without_first)}; `invoke doctor` shows other ways"
    )


def _first_advice(contents: DatabaseContents, *, without_first: bool) -> str:
    """Return the first line of `_advice`, as a part of a sentence."""
    first = _advice(contents, without_first=without_first)[0].rstrip(".")
    return first[0].lower() + first[1:]


def not_empty(
    database: str, history: History, contents: DatabaseContents, *, without_first: bool = True
) -> HistoryDisagrees:
    """The error for a database that is not empty though its history is."""
    details = [
        f"It has {', '.join(contents.relations)}.",
        *(f"{table} is the history of {tool}." for table, tool in contents.other_histories.items()),
        *(f"{table} is a history of pgratchet under another name." for table in contents.own_histories),
        f"{history.schema}.{history.table} has no rows, so every migration would run, from the first one on.",
    ]
    return HistoryDisagrees(
        f'the history of database "{database}" is empty, and the database is not',
        detail="\n".join(details),
        hint="\n".join(_advice(contents, without_first=without_first)),
    )


def _advice(contents: DatabaseContents, *, without_first: bool) -> list[str]:
    """Return what can be done, the most fitting first."""
    advice = [line for table, tool in contents.other_histories.items() if (line := _adoption(table, tool))]
    if contents.own_histories:
        advice.append("Set history_schema and history_table in the inventory to the history that belongs to it.")
    else:
        if without_first:
            advice.append(
                "To write its schema as the first file, marked as applied, run `invoke adopt --baseline=001`."
            )
        advice.append("To mark your files up to NAME as applied, run `invoke adopt --baseline=NAME`.")
    return [*advice, "To run every migration in this database nevertheless, give `invoke migrate --not-empty`."]


def _adoption(table: str, tool: str) -> str:
    """Return how the history of another tool is taken over; empty for a tool that `adopt` does not know."""
    if tool in _ADOPTED:
        is_unusual = table.rpartition(".")[2].strip('"').lower() in _FURTHER_NAMES
        flags = f" --from={tool}" + (f" --table={table}" if is_unusual else "")
        return f"To take over the history of {tool}, run `invoke adopt{flags}`."
    return "To take over the other tool's history, run `invoke adopt`." if " or another tool" in tool else ""
