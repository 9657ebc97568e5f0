"""Counts the rows in the way of a failed migration, and lists some primary keys.

The messages of the server quote values. A report goes to other people than the data: only keys and numbers appear.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from pgratchet.migrations.lexer import read_tokens
from pgratchet.migrations.positions import line_and_column
from pgratchet.rehearsal.report import Failure
from pgratchet.rehearsal.trace import StatementFailed

_MOST_KEYS = 5
_NOT_NULL, _FOREIGN_KEY, _UNIQUE, _CHECK = "23502", "23503", "23505", "23514"
_OF_OBJECTS = ("0A", "23", "25", "2B", "40", "42701", "42710", "42P06", "42P07", "42723", "53", "55", "57")
"""Classes and codes of errors: the server's own messages name objects, and no values."""
_RAISED = "pl_"
"""The prefix of the source files of PL/pgSQL: RAISE can say anything under any code."""
_KEY = re.compile(r"^Key \((?P<columns>.*?)\)=\(", re.DOTALL)
"""The server writes the columns of the index, and then values of a row."""
_PRIMARY_KEY = """
SELECT a.attname FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
WHERE i.indrelid = %s::regclass AND i.indisprimary ORDER BY array_position(i.indkey::int[], a.attnum::int)
"""
_CONSTRAINT = """
SELECT pg_get_expr(conbin, conrelid), confrelid::regclass::text,
       ARRAY(SELECT quote_ident(attname) FROM unnest(conkey) WITH ORDINALITY AS k (n, place)
             JOIN pg_attribute ON attrelid = conrelid AND attnum = n ORDER BY place),
       ARRAY(SELECT quote_ident(attname) FROM unnest(confkey) WITH ORDINALITY AS k (n, place)
             JOIN pg_attribute ON attrelid = confrelid AND attnum = n ORDER BY place)
FROM pg_catalog.pg_constraint WHERE conrelid = %s::regclass AND conname = %s
"""


@dataclass(frozen=True, slots=True)
class _Obstacle:
    """The rows of a table in the way: a condition on the table `t`."""

    relation: str
    condition: str


def describe(failed: StatementFailed, connect: Callable[[], psycopg.Connection]) -> Failure:
    """Describe a failure, in the same database, after the rollback."""
    error, text = failed.error, failed.script.migration.text()
    line = line_and_column(text, failed.statement.start)[0] if failed.statement else 1
    failure = Failure(failed.script.name, line, _message(error), error.sqlstate or "")
    with suppress(psycopg.Error), connect() as connection, connection.transaction(force_rollback=True):
        _run_before(connection, failed, text)
        failure = replace(failure, relation=_table_name(connection, error.diag))
        if obstacle := _find(connection, failed, text, failure.relation):
            return _count(connection, failure, obstacle)
    return failure


def _message(error: psycopg.Error) -> str:
    """The server's message if no value of a row can be inside; else the name of the error.

    An error with a position in the statement is about the text of the file. Other messages may quote a value, except
    those of the server's own code about objects.
    """
    diagnostic, sqlstate = error.diag, error.sqlstate or ""
    is_raised = (diagnostic.source_file or "").startswith(_RAISED) or diagnostic.internal_query is not None
    if not is_raised and (diagnostic.statement_position is not None or sqlstate.startswith(_OF_OBJECTS)):
        return (diagnostic.message_primary or str(error)).splitlines()[0]
    return hidden_message(type(error).__name__)


def hidden_message(name: str) -> str:
    """The name of an error in words, in the place of a message with values of a row."""
    words = re.sub(r"(?<!^)([A-Z])", lambda match: f" {match[1].lower()}", name)
    return f"{words[:1].lower()}{words[1:]} (the message is left out, as it can have a value of a row)"


def _run_before(connection: psycopg.Connection, failed: StatementFailed, text: bytes) -> None:
    """Repeat the statements before the failed statement, which the rollback undid too."""
    from pgratchet.migrations.lexer import split_statements

    if not failed.script.directives.transactional:
        return
    for statement in split_statements(text):
        if failed.statement is not None and statement.start >= failed.statement.start:
            break
        if not statement.rows:
            connection.execute(text[statement.start : statement.end])


def _find(connection: psycopg.Connection, failed: StatementFailed, text: bytes, table: str) -> _Obstacle | None:
    diagnostic, sqlstate = failed.error.diag, failed.error.sqlstate
    if sqlstate == _NOT_NULL and diagnostic.column_name:
        return _Obstacle(table, f"t.{_quoted(diagnostic.column_name)} IS NULL")
    if sqlstate == _UNIQUE and (match := _KEY.match(diagnostic.message_detail or "")):
        columns, predicate = match["columns"], _predicate(failed, text)
        rows = f"{table} WHERE {predicate}"
        same = f"SELECT {columns} FROM {rows} GROUP BY {columns} HAVING count(*) > 1"  # noqa: S608  the server's text
        return _Obstacle(table, f"({predicate}) AND ({columns}) IN ({same})")
    if sqlstate in (_CHECK, _FOREIGN_KEY) and failed.statement and diagnostic.constraint_name:
        statement = text[failed.statement.start : failed.statement.end]
        connection.execute(statement + b" NOT VALID")  # the same constraint, without a look at the rows
        return _violations(connection, table, diagnostic.constraint_name)
    return None


def _predicate(failed: StatementFailed, text: bytes) -> str:
    """The condition of a partial index, else a condition for all rows."""
    if failed.statement is None or failed.statement.head[0] != "CREATE":
        return "true"
    tokens = read_tokens(text, failed.statement)
    where = next((token for token in tokens if token.word == "WHERE"), None)
    return text[where.start + len("WHERE") : failed.statement.end].decode() if where else "true"


def _violations(connection: psycopg.Connection, table: str, name: str) -> _Obstacle | None:
    row = connection.execute(_CONSTRAINT.encode(), (table, name)).fetchone()
    if row is None:
        return None
    expression, other, columns, keys = row
    if expression:
        return _Obstacle(table, f"({expression}) IS FALSE")
    pairs = list(zip(columns, keys, strict=True))
    present = " AND ".join(f"t.{column} IS NOT NULL" for column in columns)
    equal = " AND ".join(f"o.{key} = t.{column}" for column, key in pairs)
    return _Obstacle(table, f"{present} AND NOT EXISTS (SELECT FROM {other} AS o WHERE {equal})")


def _count(connection: psycopg.Connection, failure: Failure, obstacle: _Obstacle) -> Failure:
    rows = f"FROM {obstacle.relation} AS t WHERE ({obstacle.condition})".replace("%", "%%")
    # With parameters, psycopg sends a single statement and nothing behind it.
    ((count,),) = connection.execute(f"SELECT count(*) {rows} AND %s".encode(), (True,)).fetchall()
    if not count:  # such as a duplicate of a row that the statement itself inserts
        return failure
    names = [name for (name,) in connection.execute(_PRIMARY_KEY.encode(), (obstacle.relation,)).fetchall()]
    keys: list[str] = []
    if names:
        columns, order = (", ".join(f"t.{_quoted(name)}{cast}" for name in names) for cast in ("::text", ""))
        query = f"SELECT {columns} {rows} ORDER BY {order} LIMIT %s"
        rows_shown = connection.execute(query.encode(), (_MOST_KEYS,)).fetchall()
        keys = [", ".join(str(value) for value in key) for key in rows_shown]
    return replace(failure, rows=int(count), key_columns=tuple(names), keys=tuple(keys))


def _table_name(connection: psycopg.Connection, diagnostic: psycopg.errors.Diagnostic) -> str:
    """The qualified name of the table of an error, quoted where necessary; empty for other errors."""
    query = "SELECT quote_ident(%s) || '.' || quote_ident(%s)"
    ((name,),) = connection.execute(query, (diagnostic.schema_name, diagnostic.table_name)).fetchall()
    return name or ""


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)
