"""Asks the catalog for the effect of a statement outside a transaction, and says how to repair a half-done one.

A failed CREATE INDEX CONCURRENTLY leaves an INVALID index
(https://www.postgresql.org/docs/current/sql-createindex.html#SQL-CREATEINDEX-CONCURRENTLY). An interrupted REINDEX
CONCURRENTLY leaves an INVALID index whose name ends in _ccnew, or in _ccold when the old index could not be
dropped (https://www.postgresql.org/docs/current/sql-reindex.html#SQL-REINDEX-CONCURRENTLY). An interrupted DETACH
PARTITION CONCURRENTLY leaves a partition for FINALIZE to detach
(https://www.postgresql.org/docs/current/sql-altertable.html).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

from psycopg import Connection, sql

from pgratchet.migrations.effects import Effect


class ObjectState(Enum):
    """The state of an object in the catalog. HALF: an interrupted statement left the object half created or dropped."""

    ABSENT = auto()
    WHOLE = auto()
    HALF = auto()


# The server reads the names, so that it folds their case and shortens them as it does for the statement itself.
_STATE_QUERIES: dict[str, str] = {
    "new index": """
        SELECT i.indisvalid FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
        WHERE c.relname = (parse_ident(%(name)s))[1]::name AND i.indrelid = to_regclass(%(table)s)""",
    "index": "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%(name)s)",
    "database": "SELECT true FROM pg_database WHERE datname = (parse_ident(%(name)s))[1]::name",
    "tablespace": "SELECT true FROM pg_tablespace WHERE spcname = (parse_ident(%(name)s))[1]::name",
    "subscription": """
        SELECT true FROM pg_subscription AS s JOIN pg_database AS d ON d.oid = s.subdbid
        WHERE s.subname = (parse_ident(%(name)s))[1]::name AND d.datname = current_database()""",
    # As JSON, because a server older than 14 has neither the column nor the statement.
    "partition": """
        SELECT NOT coalesce((to_jsonb(i) ->> 'inhdetachpending')::bool, false) FROM pg_inherits AS i
        WHERE i.inhrelid = to_regclass(%(name)s) AND i.inhparent = to_regclass(%(table)s)""",
}
_LEFT_BY_REINDEX = """
SELECT n.nspname, c.relname
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE NOT i.indisvalid AND c.relname ~ '_cc(new|old)[0-9]*$' AND CASE %(kind)s
    WHEN 'INDEX' THEN i.indrelid IN (SELECT x.indrelid FROM pg_partition_tree(to_regclass(%(name)s)) AS p
                                     JOIN pg_index AS x ON x.indexrelid = p.relid
                                     UNION SELECT indrelid FROM pg_index WHERE indexrelid = to_regclass(%(name)s))
    WHEN 'TABLE' THEN i.indrelid = to_regclass(%(name)s)
                      OR i.indrelid IN (SELECT relid FROM pg_partition_tree(to_regclass(%(name)s)))
    WHEN 'SCHEMA' THEN n.nspname = (parse_ident(%(name)s))[1]::name
    ELSE true END
ORDER BY 1, 2
"""
_NEW_INDEX = """
SELECT n.nspname, c.relname
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relname = (parse_ident(%(name)s))[1]::name AND i.indrelid = to_regclass(%(table)s)
"""


def read_object_state(connection: Connection, effect: Effect) -> ObjectState:
    """Read the state of a statement's object. A new index is looked up on the table only."""
    query = "new index" if effect.kind == "index" and effect.creates else effect.kind
    row = connection.execute(_STATE_QUERIES[query].encode(), _parameters(effect)).fetchone()
    return ObjectState.ABSENT if row is None else ObjectState.WHOLE if row[0] else ObjectState.HALF


def repair_statement(connection: Connection, effect: Effect) -> str | None:
    """Return a statement to remove or complete a HALF object; None when running the first statement again does."""
    if effect.kind == "index" and effect.creates:
        row = connection.execute(_NEW_INDEX.encode(), _parameters(effect)).fetchone()
        return drop_statement(connection, row) if row else None
    if effect.kind == "partition":
        return f"ALTER TABLE {effect.table} DETACH PARTITION {effect.name} FINALIZE;"
    return None


def find_reindex_leftovers(connection: Connection, kind: str, name: str) -> list[tuple[str, str]]:
    """Find the INVALID indexes, by schema and name, left by an interrupted REINDEX CONCURRENTLY."""
    return connection.execute(_LEFT_BY_REINDEX.encode(), {"kind": kind, "name": name or None}).fetchall()


def drop_statement(connection: Connection, index: Sequence[str]) -> str:
    return sql.SQL("DROP INDEX CONCURRENTLY {};").format(sql.Identifier(*index)).as_string(connection)


def _parameters(effect: Effect) -> dict[str, str | None]:
    return {"name": effect.name, "table": effect.table or None}
