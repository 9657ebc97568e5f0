"""Says how to go forward when CREATE OR REPLACE or DROP is refused: what depends on the object, and what to write.

A view keeps its columns, and a function its result, as long as other objects depend on them
(https://www.postgresql.org/docs/current/sql-createview.html). The advice is followed word for word in
tests/integration/apply/test_repeatables_replaced.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import psycopg

from pgratchet.database import queries
from pgratchet.formatting import format_count
from pgratchet.migrations.lexer import read_tokens, split_statements
from pgratchet.migrations.names import read_name, skip_if_exists
from pgratchet.migrations.positions import line_and_column

if TYPE_CHECKING:
    from pgratchet.apply.repeatables import Stop
    from pgratchet.errors import Location
    from pgratchet.migrations.files import Migration
    from pgratchet.migrations.statement import Statement

_REFUSED = ("42P16", "42P13", "2BP01")
"""SQLSTATEs: columns of a view cannot be removed, a result cannot be changed, other objects depend on an object."""
_EXISTS = ("42P07", "42723", "42710")
"""SQLSTATEs of what exists already: a relation, a function, another object."""
_ROUTINES = ("FUNCTION", "PROCEDURE")
_MOST = 20
"""The number of dependants that are named."""


class _Object(NamedTuple):
    """An object of the database: its kind, its name with schema, and the statement that drops it, empty if unknown."""

    description: str
    drop: str


def find_advice(connection: psycopg.Connection, stop: Stop) -> str | None:
    """Return the hint for a repeatable that cannot replace or drop an object; None for another error."""
    if stop.error.sqlstate in _EXISTS:
        return (
            "A repeatable runs whenever its text has changed. Write CREATE OR REPLACE, or a DROP ... IF EXISTS above "
            f"the CREATE, in {stop.script.migration.path}; then run `invoke migrate` again."
        )
    if stop.error.sqlstate not in _REFUSED or stop.lost:
        return None
    target = _find_target(stop)
    if target is None:
        return None
    kind, name = target
    try:
        query = queries.load(__file__, "replacing")["dependants"].encode()
        values = {"name": name, "is_routine": kind in _ROUTINES, "most": _MOST + 1}
        rows = connection.execute(query, values).fetchall()
    except psycopg.Error:  # the name cannot be read, or the catalog cannot: the advice is not worth another error
        return None
    objects = [_Object(str(description), str(drop or "")) for description, drop in rows]
    return _advise(objects, stop.script.migration) if objects else None


def _find_target(stop: Stop) -> tuple[str, str] | None:
    """The kind and the name of the view or function of the statement that failed."""
    text = stop.script.migration.text()
    statement = _statement_at(text, stop.failure.location)
    if statement is None:
        return None
    tokens = read_tokens(text, statement)
    for index, token in enumerate(tokens[1:-1], 1):
        if token.word in ("VIEW", *_ROUTINES):
            return token.word, read_name(tokens, skip_if_exists(tokens, index + 1))[0]
        if token.word not in ("OR", "REPLACE", "TEMP", "TEMPORARY", "RECURSIVE", "MATERIALIZED"):
            return None
    return None


def _statement_at(text: bytes, location: Location) -> Statement | None:
    """The last statement that does not begin behind a position."""
    if location.line is None or location.column is None:
        return None
    place = (location.line, location.column)
    before = [each for each in split_statements(text) if line_and_column(text, each.start) <= place]
    return before[-1] if before else None


def _advise(objects: list[_Object], migration: Migration) -> str:
    """The hint. The first object is the one to replace, the others depend on it; those to drop first come last."""
    replaced, dependants = objects[0], objects[1:]
    if not dependants:
        return (
            f"Nothing depends on {replaced.description}. Write this line above its CREATE in {migration.path}, with "
            f"the grants that it needs below, and run `invoke migrate` again:\n"
            f"{replaced.drop}"
        )
    named = ", ".join(each.description for each in dependants[:_MOST])
    more = " and others" if len(dependants) > _MOST else ""
    drops = [each.drop for each in reversed(objects) if each.drop]
    is_complete = len(drops) == len(objects) and not more
    what = "holds the lines below" if is_complete else f"drops these, and then drops {replaced.description}"
    lines = "\n" + "\n".join(drops) if is_complete else ""
    return (
        f"{format_count(len(dependants), 'object')}{more} {'depends' if len(dependants) == 1 else 'depend'} on "
        f"{replaced.description}: {named}. Write a migration with `invoke new` that {what}. Change a comment in every "
        "repeatable that creates one of them, so that it runs again. Create what no repeatable creates in a second "
        f"migration, with the line `-- migrate: after={migration.name}.sql`. Then run `invoke migrate` again.{lines}"
    )
