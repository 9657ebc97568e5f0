"""Selects what a database has run: the versioned files, and each repeatable with the text that ran last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pgratchet.migrations.created_objects import created_names, may_drop
from pgratchet.migrations.files import Migration
from pgratchet.migrations.plan import Plan
from pgratchet.migrations.scripts import prepare_scripts


@dataclass(frozen=True, slots=True)
class RecordedMigration(Migration):
    """A migration with the text that the history has."""

    body: bytes

    def text(self) -> bytes:
        return self.body


def recorded_names(plan: Plan) -> tuple[str, ...]:
    """Return the names of the history rows whose texts `applied_files` needs."""
    return tuple(
        each.row.name for each in plan.repeatables.entries if each.row and each.state in ("changed", "missing")
    )


def applied_files(plan: Plan, texts: Mapping[str, str]) -> tuple[Migration, ...]:
    """Return the migrations that a database has run. `texts` are those of `recorded_names`, as far as they are known.

    A repeatable whose file is gone is left out when a versioned migration may have dropped what it made.
    """
    versioned = tuple(each.migration for each in plan.entries if each.state == "applied" and each.migration)
    return (*versioned, *_applied_repeatables(plan, versioned, texts))


def _applied_repeatables(plan: Plan, versioned: tuple[Migration, ...], texts: Mapping[str, str]) -> Iterator[Migration]:
    if not plan.repeatables.entries:
        return
    required = {name for script in prepare_scripts(versioned) for name in script.directives.after}
    for entry in plan.repeatables.entries:
        text = texts.get(entry.row.name) if entry.row else None
        if entry.row and text is not None and entry.state in ("changed", "missing"):
            body = text.encode()
            names = set(created_names(body))
            if entry.state == "missing" and any(may_drop(file.text(), names) for file in versioned):
                continue
            yield RecordedMigration(entry.name, -1, entry.row.checksum, "", body)
        elif entry.migration and (entry.state != "new" or entry.name in required):
            yield entry.migration
