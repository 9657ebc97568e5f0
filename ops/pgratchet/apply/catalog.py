"""Asks the catalog for the effect of a statement outside a transaction, and says how to repair a half-done one.

A failed CREATE INDEX CONCURRENTLY leaves an INVALID index
(https://www.postgresql.org/docs/current/sql-createindex.html#SQL-CREATEINDEX-CONCURRENTLY). An interrupted REINDEX
CONCURRENTLY leaves an INVALID index whose name ends in _ccnew, or in _ccold when the old index could not be
dropped (https://www.postgresql.org/docs/current/sql-reindex.html#SQL-REINDEX-CONCURRENTLY). An interrupted DETACH
PARTITION CONCURRENTLY leaves a partition for FINALIZE to detach
(https://www.postgresql.org/docs/current/sql-altertable.html).
"""

from __future__ import annotations

from enum import Enum, auto

from psycopg import Connection, sql

from pgratchet.migrations.effects import Effect


class ObjectState(Enum):
    """The state of an object in the catalog. HALF: an interrupted statement left the object half created or dropped."""

    ABSENT = auto()
    WHOLE = auto()
    HALF = auto()


_STATE_QUERIES: dict[str, str] = {
    "new index": """
        SELECT i.indisvalid FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
        WHERE c.relname = %(last)s AND i.indrelid = to_regclass(%(table)s)""",
    "index": "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%(name)s)",
    "database": "SELECT true FROM pg_database WHERE datname = %(last)s",
    "tablespace": "SELECT true FROM pg_tablespace WHERE spcname = %(last)s",
    "subscription": """
        SELECT true FROM pg_subscription AS s JOIN pg_database AS d ON d.oid = s.subdbid
        WHERE s.subname = %(last)s AND d.datname = current_database()""",
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
    WHEN 'SCHEMA' THEN n.nspname = %(last)s
    ELSE true END
ORDER BY 1, 2
"""
_SCHEMA = """
SELECT nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(%s)
"""


def read_object_state(connection: Connection, effect: Effect) -> ObjectState:
    """Read the state of a statement's object. A new index is looked up on the table only."""
    query = "new index" if effect.kind == "index" and effect.creates else effect.kind
    parameters = _name_parameters(connection, effect.name, effect.table)
    row = connection.execute(_STATE_QUERIES[query].encode(), parameters).fetchone()
    return ObjectState.ABSENT if row is None else ObjectState.WHOLE if row[0] else ObjectState.HALF


def repair_statement(connection: Connection, effect: Effect) -> str | None:
    """Return a statement to remove or complete a HALF object; None when running the first statement again does."""
    if effect.kind == "index" and effect.creates:
        return drop_statement(connection, _read_index_name(connection, effect))
    if effect.kind == "partition":
        statement = sql.SQL("ALTER TABLE {} DETACH PARTITION {} FINALIZE;")
        return statement.format(sql.Identifier(*effect.table), sql.Identifier(*effect.name)).as_string(connection)
    return None


def find_reindex_leftovers(connection: Connection, kind: str, name: tuple[str, ...]) -> list[tuple[str, str]]:
    """Find the INVALID indexes, by schema and name, left by an interrupted REINDEX CONCURRENTLY."""
    return connection.execute(
        _LEFT_BY_REINDEX.encode(), {"kind": kind, **_name_parameters(connection, name)}
    ).fetchall()


def drop_statement(connection: Connection, index: tuple[str, ...]) -> str:
    return sql.SQL("DROP INDEX CONCURRENTLY {};").format(sql.Identifier(*index)).as_string(connection)


def _read_index_name(connection: Connection, effect: Effect) -> tuple[str, ...]:
    """Return the name of a new index with the schema, which is always the table's."""
    table = sql.Identifier(*effect.table).as_string(connection)
    row = connection.execute(_SCHEMA.encode(), (table,)).fetchone()
    return (str(row[0]), effect.name[-1]) if row else effect.name[-1:]


def _name_parameters(
    connection: Connection, name: tuple[str, ...], table: tuple[str, ...] = ()
) -> dict[str, str | None]:
    """Return query parameters: the quoted name for to_regclass, the last part, and the quoted table; None if empty."""
    quoted = [sql.Identifier(*parts).as_string(connection) if parts else None for parts in (name, table)]
    return {"name": quoted[0], "last": name[-1] if name else None, "table": quoted[1]}
