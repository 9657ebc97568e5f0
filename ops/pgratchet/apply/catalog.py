"""What the catalog tells of a statement that cannot share a transaction with its record.

Owns the questions to the catalog, and the statement that mends what is half done. Refuses to know progress and runs.

What it rests on, measured (facts 2d): a CREATE INDEX CONCURRENTLY that fails leaves an INVALID index, a REINDEX
CONCURRENTLY that is broken off an INVALID one whose name ends in _ccnew, or _ccold where only the old one's end is
missing, and a DETACH PARTITION CONCURRENTLY a partition that is neither in nor out, which FINALIZE takes out.
"""

from __future__ import annotations

from enum import Enum, auto

from psycopg import Connection, sql

from pgratchet.migrations.classify import Effect


class ObjectState(Enum):
    """How the catalog shows an object: not, whole, or left half made or half gone by a statement that broke off."""

    ABSENT = auto()
    WHOLE = auto()
    HALF = auto()


_QUESTIONS: dict[str, str] = {
    "made index": """
        SELECT i.indisvalid FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
        WHERE c.relname = %(last)s AND i.indrelid = to_regclass(%(table)s)""",
    "index": "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%(name)s)",
    "database": "SELECT true FROM pg_database WHERE datname = %(last)s",
    "tablespace": "SELECT true FROM pg_tablespace WHERE spcname = %(last)s",
    "subscription": """
        SELECT true FROM pg_subscription AS s JOIN pg_database AS d ON d.oid = s.subdbid
        WHERE s.subname = %(last)s AND d.datname = current_database()""",
    # As JSON, since a server older than 14 has no such column, and no such statement.
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


def object_state(connection: Connection, effect: Effect) -> ObjectState:
    """How the object of a statement stands in the catalog. An index that is made is looked for on its table only."""
    question = "made index" if effect.kind == "index" and effect.creates else effect.kind
    row = connection.execute(_QUESTIONS[question].encode(), _names(connection, effect.name, effect.table)).fetchone()
    return ObjectState.ABSENT if row is None else ObjectState.WHOLE if row[0] else ObjectState.HALF


def repair_statement(connection: Connection, effect: Effect) -> str | None:
    """The statement that clears away, or brings to its end, what was left HALF; None where that is to run it again."""
    if effect.kind == "index" and effect.creates:
        return drop_statement(connection, index_name(connection, effect))
    if effect.kind == "partition":
        statement = sql.SQL("ALTER TABLE {} DETACH PARTITION {} FINALIZE;")
        return statement.format(sql.Identifier(*effect.table), sql.Identifier(*effect.name)).as_string(connection)
    return None


def left_by_reindex(connection: Connection, kind: str, name: tuple[str, ...]) -> list[tuple[str, str]]:
    """The INVALID indexes, by schema and name, that a REINDEX CONCURRENTLY of this left when it broke off."""
    return connection.execute(_LEFT_BY_REINDEX.encode(), {"kind": kind, **_names(connection, name)}).fetchall()


def drop_statement(connection: Connection, index: tuple[str, ...]) -> str:
    return sql.SQL("DROP INDEX CONCURRENTLY {};").format(sql.Identifier(*index)).as_string(connection)


def index_name(connection: Connection, effect: Effect) -> tuple[str, ...]:
    """An index is made in the schema of its table."""
    table = sql.Identifier(*effect.table).as_string(connection)
    row = connection.execute(_SCHEMA.encode(), (table,)).fetchone()
    return (str(row[0]), effect.name[-1]) if row else effect.name[-1:]


def _names(connection: Connection, name: tuple[str, ...], table: tuple[str, ...] = ()) -> dict[str, str | None]:
    """A name as to_regclass reads it, its last part, and that of a table; null where there is none."""
    quoted = [sql.Identifier(*parts).as_string(connection) if parts else None for parts in (name, table)]
    return {"name": quoted[0], "last": name[-1] if name else None, "table": quoted[1]}
