"""Drift finds every kind of change, names the object, and writes a migration that makes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest

from pgratchet.schema.drift_migration import write_statements
from tests.integration.schema.drift_kinds import BASE, KINDS, Kind
from tests.integration.schema.helpers import comparing
from tests.servers.databases import Database

Way = Literal["added", "dropped", "changed"]
CHANGE = {"added": "added", "dropped": "missing", "changed": "changed"}


def without_conflicts(way: Way) -> list[list[Kind]]:
    """The kinds in groups, in each of which the statements can be run in one database."""
    groups: list[list[Kind]] = []
    for kind in KINDS:
        statement, name = getattr(kind, way)
        if statement:
            group = next((g for g in groups if all(name != getattr(each, way)[1] for each in g)), None)
            groups.append([kind]) if group is None else group.append(kind)
    return groups


def names(kinds: Sequence[Kind], way: Way) -> set[tuple[str, str, str]]:
    return {(CHANGE[way], kind.kind, getattr(kind, way)[1]) for kind in kinds}


def test_the_changes_are_many() -> None:
    ways: list[Way] = ["added", "dropped", "changed"]
    assert sum(bool(getattr(kind, way)[0]) for kind in KINDS for way in ways) > 100


def test_there_is_no_drift_without_a_change(database: Database, cache_folder: Path) -> None:
    database.run(BASE)
    with comparing(database, cache_folder, BASE) as comparison:
        assert comparison.find_drift().differences == ()


@pytest.mark.parametrize("way", ["added", "dropped", "changed"])
@pytest.mark.parametrize("number", [0, 1])
def test_every_kind_of_change_is_named_and_written(
    database: Database, cache_folder: Path, way: Way, number: int
) -> None:
    group = without_conflicts(way)[number]
    database.run(BASE)
    for kind in group:
        database.run(getattr(kind, way)[0])
    with comparing(database, cache_folder, BASE) as comparison:
        drift = comparison.find_drift()
        differences = {(each.change, each.kind, each.name) for each in drift.differences}
        expected = names(group, way)
        assert differences >= expected
        assert differences - expected <= CONSEQUENCES[way]
        assert drift.not_compared == ()
        statements, by_hand = write_statements(drift.differences)
        wrong = comparison.try_script("\n".join(statements))
        assert set(wrong) <= {
            f"it does not make this change: {each.change} {each.kind} {each.name}" for each in by_hand
        }


CONSEQUENCES: dict[Way, set[tuple[str, str, str]]] = {
    "added": {("added", "comment", "extension citext"), ("added", "extension version", "citext")},
    "dropped": {
        ("missing", "comment", "extension hstore"),
        ("missing", "extension version", "hstore"),
        ("missing", "index", "public.days_t"),
        ("missing", "operator family", "public.old_class"),
    },
    "changed": set(),
}
"""Differences that a statement makes beside its own."""
