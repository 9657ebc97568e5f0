"""Compares the counts of a live database with the manifest of a backup, to estimate what a restore would lose.

Only counts are compared: rows that were changed, and as many rows deleted as inserted, do not show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import psycopg

from pgratchet.backups.lost_rows import find_history_objects
from pgratchet.backups.manifest import Manifest
from pgratchet.backups.snapshot import open_snapshot
from pgratchet.database.history import History


@dataclass(frozen=True, slots=True)
class CountChange:
    """A count in the backup and now. None for a table or sequence that does not exist."""

    name: str
    in_backup: int | None
    now: int | None


@dataclass(frozen=True, slots=True)
class CountedLosses:
    """The counts that differ between a backup and the live database. `migrations` were applied since the backup."""

    database: str
    compared: int
    tables: tuple[CountChange, ...]
    sequences: tuple[CountChange, ...]
    migrations: tuple[str, ...]
    large_objects: CountChange


def count_losses(connect: Callable[[], psycopg.Connection], history: History, manifest: Manifest) -> CountedLosses:
    """Count the rows of the live database, and compare them with a manifest. Changes nothing."""
    with open_snapshot(connect) as snapshot:
        left_out = find_history_objects(snapshot.connection, history)
        database, now = snapshot.connection.info.dbname, snapshot.read_contents(history)
    before = manifest.contents
    values = {name: state.last_value for name, state in (before.sequences or {}).items()}
    values_now = {name: state.last_value for name, state in (now.sequences or {}).items()}
    return CountedLosses(
        database=database,
        compared=len(now.tables.keys() - left_out),
        tables=tuple(_changes(before.tables, now.tables, left_out)),
        sequences=tuple(_changes(values, values_now, left_out)) if before.sequences is not None else (),
        migrations=tuple(name for name in now.history if name not in before.history),
        large_objects=CountChange("large objects", before.large_objects, now.large_objects),
    )


def _changes(before: Mapping[str, int], now: Mapping[str, int], left_out: frozenset[str]) -> Iterator[CountChange]:
    for name in sorted({*before, *now} - left_out):
        if before.get(name) != now.get(name):
            yield CountChange(name, before.get(name), now.get(name))
