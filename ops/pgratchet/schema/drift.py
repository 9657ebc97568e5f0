"""Compares the schema of a database with the one that its migration files make.

Texts that differ are restored and dumped again on one server by one pg_dump, because the text of an expression depends
on how often it was restored, and on the versions of the server and of pg_dump (`comparison`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fnmatch import translate

from pgratchet.database.history import History
from pgratchet.migrations.files import Migration
from pgratchet.schema.builder import SchemaBuilder
from pgratchet.schema.comparison import ROUND_TRIPS
from pgratchet.schema.differences import Difference, Objects, find_differences
from pgratchet.schema.dump_text import ignored_names, major_version, without_meta_commands
from pgratchet.schema.live import LiveSchema
from pgratchet.schema.objects import SchemaObject, read_objects
from pgratchet.schema.privileges import for_any_owner

_VERSION = "extension version"


@dataclass(frozen=True, slots=True)
class NotCompared:
    """An object that could not be compared, and the reason in a sentence."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Drift:
    """The differences between the files and a database, and the objects that were not compared."""

    differences: tuple[Difference, ...]
    not_compared: tuple[NotCompared, ...]


@dataclass(frozen=True, slots=True)
class _Sides:
    """The dumps of the files and of the database, and the statements that the scratch server refused."""

    files: bytes
    database: bytes
    refused: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class SchemaComparison:
    """Compares a live schema with that of `files`, which are the migrations that the database has run.

    `ignored` are patterns of names, such as `partman.*`; what belongs to a matching table is ignored too.
    """

    builder: SchemaBuilder
    live: LiveSchema
    files: Sequence[Migration]
    ignored: Sequence[str] = ()

    def find_drift(self) -> Drift:
        """The differences. Raises ConfigurationError when a file does not run on the scratch server."""
        differences, refused = self._compare(_Sides(self.builder.build(self.files), self.live.dump))
        not_compared = [NotCompared(name, "The role may not read it.") for name in self.live.unreadable]
        return Drift(*_without_refused(differences, refused, not_compared))

    def try_script(self, script: str) -> list[str]:
        """Run a script on the schema of the files, and on that of the database; returns what is wrong, as phrases."""
        phrases = []
        changed, error = self.builder.run(script.encode(), self.builder.build(self.files))
        if error:
            phrases.append(f"it fails on the schema of the files: {error}")
        else:
            rest, _ = self._compare(_Sides(changed, self.live.dump))
            phrases += [f"it does not make this change: {each.change} {each.kind} {each.name}" for each in rest]
        again, error = self.builder.run(script.encode(), self.live.dump)
        if error:
            phrases.append(f"it fails on the schema of the database: {error}")
        else:
            changes, _ = self._compare(_Sides(self.live.dump, again))
            phrases += [f"it changes the database itself: {each.kind} {each.name}" for each in changes]
        return phrases

    def _compare(self, sides: _Sides) -> tuple[list[Difference], tuple[tuple[str, str], ...]]:
        """The differences after as many round trips as are needed, and what the scratch server refused in these."""
        if without_meta_commands(sides.files) == without_meta_commands(sides.database):
            return [], ()  # most often, and reading the objects takes longer than everything else
        for trip in range(ROUND_TRIPS + 1):
            differences = _differences(sides, self.live, self.ignored)
            if not differences or trip == ROUND_TRIPS:
                break
            before, sides = sides, _round_trip(self.builder, sides)
            if sides == before:  # no further round trip changes the texts
                break
        return differences, sides.refused


def _round_trip(builder: SchemaBuilder, sides: _Sides) -> _Sides:
    files, database = builder.round_trip(sides.files), builder.round_trip(sides.database)
    refused = (*sides.refused, *files.refused, *database.refused)
    return _Sides(_with_versions_of(sides.files, files.dump), _with_versions_of(sides.database, database.dump), refused)


def _with_versions_of(original: bytes, copy: bytes) -> bytes:
    """A copy with the versions that `append_versions` wrote behind the original: a server creates those that it has."""
    start = original.find(b"\n--\n-- Name: ", original.rfind(b"-- PostgreSQL database dump complete"))
    return copy + original[start:] if start >= 0 else copy


def _differences(sides: _Sides, live: LiveSchema, ignored: Sequence[str]) -> list[Difference]:
    names = ignored_names(sides.files, sides.database)
    # Another major version comes with other versions of extensions.
    kinds = () if major_version(sides.files) == major_version(sides.database) else (_VERSION,)
    pattern = re.compile("|".join(translate(each) for each in ignored)) if ignored else None
    schemas = {History().schema, *live.left_out} - {"public"}  # where a history may lie among other tables
    expected, actual = (
        comparable(read_objects(dump, names), live.user, pattern, kinds, schemas)
        for dump in (sides.files, sides.database)
    )
    return find_differences(expected, actual)


def comparable(
    objects: Objects,
    user: str,
    ignored: re.Pattern[str] | None = None,
    kinds: Collection[str] = (),
    schemas: Collection[str] = (),
) -> dict[tuple[str, str], SchemaObject]:
    """The objects without privileges that the owner `user` has anyway, and without what is to be ignored.

    `ignored` matches names, `kinds` are kinds, and `schemas` are schemas that hold only histories.
    """
    left_out = {name for schema in schemas for name in (schema, f"schema {schema}")}
    chosen = {}
    for key, each in objects.items():
        if each.kind in kinds or (each.name in left_out and each.kind in ("schema", "privileges", "comment")):
            continue
        if ignored and any(ignored.fullmatch(name) for name in (each.name, each.relation)):
            continue
        if one := _without_owner(each, user):
            chosen[key] = one
    return chosen


def _without_owner(each: SchemaObject, user: str) -> SchemaObject | None:
    if each.kind not in ("privileges", "default privileges"):
        return each
    texts = (for_any_owner(statement.encode(), user).decode() for statement in each.statements)
    statements = tuple(sorted(text for text in texts if text))
    return replace(each, statements=statements) if statements else None


def _without_refused(
    differences: Sequence[Difference], refused: Sequence[tuple[str, str]], not_compared: list[NotCompared]
) -> tuple[tuple[Difference, ...], tuple[NotCompared, ...]]:
    """Move the differences of objects whose statement the scratch server refused to those that were not compared.

    A refused statement without a difference is not compared either: the copy of the schema lacks its object.
    """
    reasons = dict(refused)
    real: list[Difference] = []
    for difference in differences:
        texts = f"{difference.expected}\n{difference.actual}"
        sql = next((sql for sql in reasons if sql in texts), None)
        if sql is None:
            real.append(difference)
        else:
            not_compared.append(_refused(f"{difference.kind} {difference.name}", reasons.pop(sql)))
    not_compared += [_refused(sql.splitlines()[0], reason) for sql, reason in reasons.items()]
    return tuple(real), tuple(not_compared)


def _refused(name: str, reason: str) -> NotCompared:
    return NotCompared(name, f"The scratch server refuses it: {reason}.")
