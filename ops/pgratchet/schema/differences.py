"""Compares the objects of two schemas."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from pgratchet.schema.objects import SchemaObject, created_name, unquote_qualified

Change = Literal["added", "missing", "changed"]
Objects = Mapping[tuple[str, str], SchemaObject]
_PARTITION, _PARTITION_INDEX = "partition", "index of a partition"


@dataclass(frozen=True, slots=True)
class Difference:
    """An object that is not the same in two schemas.

    "added" is an object that only the database has, "missing" one that only the files make. `expected` and `actual` are
    SQL, of the files and of the database; empty without the object. `table` is the table that the object belongs to, as
    SQL; empty without one.
    """

    change: Change
    kind: str
    name: str
    expected: str
    actual: str
    table: str = ""


def find_differences(expected: Objects, actual: Objects) -> list[Difference]:
    """The differences, in the order of the objects; first those of the database.

    What belongs to a table that only one schema has is part of that table's difference. The same goes for columns and
    indexes of partitions, which follow their partitioned table.
    """
    keys = list(dict.fromkeys([*actual, *expected]))
    changes = {key: change for key in keys if (change := _change(expected.get(key), actual.get(key)))}
    present = {key: actual.get(key) or expected[key] for key in changes}
    lone = {one.name for key, one in present.items() if changes[key] != "changed" and _is_relation(one)}
    before, after = (_texts(objects, lone) for objects in (expected, actual))
    tables = {**_table_names(expected), **_table_names(actual)}
    return [
        Difference(
            changes[key], one.kind, one.name, before.get(key, ""), after.get(key, ""), tables.get(one.relation, "")
        )
        for key, one in present.items()
        if (_is_relation(one) or one.relation not in lone)
        and not _follows_parent(one, changes[key], changes, expected, actual)
    ]


def _table_names(objects: Objects) -> dict[str, str]:
    """The names of tables and views as SQL, by the unquoted names."""
    return {one.name: created_name(one.statements[0]) for one in objects.values() if _is_relation(one)}


def _texts(objects: Objects, lone: Collection[str]) -> dict[tuple[str, str], str]:
    """The SQL of each object; that of a table in `lone` includes what belongs to the table."""
    texts = {key: one.sql for key, one in objects.items()}
    for key, one in objects.items():
        table = next((k for k in (("table", one.relation), ("foreign table", one.relation)) if k in objects), key)
        is_part = one.kind in ("column", "constraint") and one.statements[0] in objects[table].statements[0]
        if one.relation in lone and table != key and not is_part:
            texts[table] += f"\n{one.sql}"
    return texts


def _change(expected: SchemaObject | None, actual: SchemaObject | None) -> Change | None:
    if expected is None:
        return "added"
    if actual is None:
        return "missing"
    return None if _same(expected, actual) else "changed"


def _same(one: SchemaObject, other: SchemaObject) -> bool:
    if not one.without_columns or not other.without_columns:
        return one.statements == other.statements
    both = set(one.columns) & set(other.columns)
    orders = [[name for name in each.columns if name in both] for each in (one, other)]
    return one.without_columns == other.without_columns and orders[0] == orders[1]


def _is_relation(one: SchemaObject) -> bool:
    return one.kind in ("table", "foreign table", "view", "materialized view") and one.name == one.relation


def _follows_parent(
    one: SchemaObject, change: Change, changes: Mapping[tuple[str, str], Change], expected: Objects, actual: Objects
) -> bool:
    """Return whether a column or an index of a partition differs because its parent, or the partition itself, does."""
    if one.kind == "column":
        return changes.get(("column", _renamed(one, _parent(one.relation, expected, actual)))) == change
    if one.kind in ("index", _PARTITION_INDEX):
        index = actual.get(("index", one.name)) or expected.get(("index", one.name))
        is_attached = index is not None and (_PARTITION_INDEX, one.name) in changes
        if index and is_attached and changes.get((_PARTITION, index.relation)) == change:
            return True  # attaching a partition makes its indexes
        attached = (actual.get((_PARTITION_INDEX, one.name)), expected.get((_PARTITION_INDEX, one.name)))
        parents = [_attached_to(each) for each in attached if each]
        return any(changes.get(("index", parent)) == change for parent in parents)
    return False


def _renamed(column: SchemaObject, relation: str) -> str:
    return relation + column.name[len(column.relation) :]


def _parent(relation: str, expected: Objects, actual: Objects) -> str:
    """The partitioned table of a partition; empty for any other table."""
    key = (_PARTITION, relation)
    one = actual.get(key) or expected.get(key)
    return _attached_to(one) if one else ""


def _attached_to(attachment: SchemaObject) -> str:
    """The unquoted name of the table or index behind ALTER TABLE ONLY or ALTER INDEX."""
    words = attachment.statements[0].split(" ATTACH PARTITION ")[0]
    return unquote_qualified(words.removeprefix("ALTER TABLE ONLY ").removeprefix("ALTER INDEX "))
