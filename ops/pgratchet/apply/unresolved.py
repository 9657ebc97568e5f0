"""Builds the error of repeatables that wait for what does not exist: each with its own error, and a cycle if any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pgratchet.apply.diagnosis import Diagnosis
from pgratchet.apply.failures import describe, what_is_missing
from pgratchet.database.connection import sentence
from pgratchet.errors import MigrationFailed
from pgratchet.formatting import format_count, join_names, was_or_were, were_applied
from pgratchet.migrations.created_objects import created_names, last_part

if TYPE_CHECKING:
    from pgratchet.apply.repeatables import Stop

_OBJECTS = ("42P01", "42883", "42704")
"""SQLSTATEs of what another file may create: a relation, a function, another object."""
_BREAK_CYCLE = (
    "Move one of these objects into a versioned migration, or take one of the references out. Functions may refer to "
    "each other: put `SET check_function_bodies = off;` into the first of them."
)
_CREATE = (
    "Create what is missing in a migration or in a repeatable, or correct the names. A file with a directive "
    "`-- migrate: after=` has to name every repeatable that the named ones need."
)


def unresolved(
    stops: Sequence[Stop], together: Sequence[str], applied: Sequence[str], backup_id: str | None
) -> MigrationFailed:
    """Several repeatables failed for what does not exist, and no other order helps.

    `together` are the repeatables that were rolled back, and `applied` the migrations applied before.
    """
    creators = {name: stop.script.name for stop in stops for name in created_names(stop.script.migration.text())}
    needs = {stop.script.name: creator for stop in stops if (creator := _creator(stop, creators))}
    before = f"{were_applied(applied)}; " if applied else ""
    rolled_back = f"{before}{join_names(together)} {was_or_were(together)} rolled back."
    detail = "\n".join([*(_line(stop, needs) for stop in stops), rolled_back])
    again = "Then run `invoke migrate` again." + (
        f" The backup taken before this run is {backup_id}." if backup_id else ""
    )
    location = stops[0].failure.location
    if cycle := find_cycle(needs):
        return MigrationFailed(
            f"repeatables need each other in a cycle: {' -> '.join((*cycle, cycle[0]))}",
            detail=detail,
            hint=f"{_BREAK_CYCLE} {again}",
            location=location,
        )
    return MigrationFailed(
        f"{format_count(len(stops), 'repeatable')} need what does not exist",
        detail=detail,
        hint=f"{_CREATE} {again}",
        location=location,
    )


def advise(stop: Stop) -> str | None:
    """Return the hint for a single repeatable that lacks something; None where the usual hint says more."""
    location = stop.failure.location
    if not stop.is_missing or stop.error.sqlstate not in _OBJECTS or what_is_missing(stop.error, location):
        return None
    return f"{_CREATE} Then run `invoke migrate` again."


def find_cycle(needs: Mapping[str, str]) -> tuple[str, ...]:
    """Return the first cycle in a mapping of each name to one that it needs; empty when there is none."""
    for start in sorted(needs):
        path = [start]
        while (following := needs.get(path[-1])) and following not in path:
            path.append(following)
        if following:
            return tuple(path[path.index(following) :])
    return ()


def _creator(stop: Stop, creators: Mapping[str, str]) -> str | None:
    """The repeatable that creates what another one lacks, found by the name in the error or at its position."""
    quoted = Diagnosis.of(stop.error).quoted or ""
    location = stop.failure.location
    at_position = location.after.partition("(")[0].split()
    names = [quoted, *([at_position[0].strip(";,)")] if at_position else [])]
    matches = (creators.get(last_part(name)) for name in names if name)
    return next((creator for creator in matches if creator), None)


def _line(stop: Stop, needs: Mapping[str, str]) -> str:
    creator = needs.get(stop.script.name)
    known = f" It is created by {creator}." if creator else ""
    return f"{stop.failure.location}: {sentence(describe(stop.error))}{known}"
