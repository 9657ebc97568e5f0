"""Compares the estimated size of a backup with the real one, and the bar's percentage with the time: `python -m
tests.bench.progress [MEGABYTES ...]`.

Each size is a database with one table of short rows, which has most of the data, one of long values, which are stored
apart and do not compress, one of repeated texts, and a hundred small tables.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from pgratchet import embedded, events
from pgratchet.backups import backup
from pgratchet.backups.backup import BackupOptions, estimated_size
from pgratchet.backups.disk_store import DiskStore
from pgratchet.backups.pg_programs import find_programs
from pgratchet.formatting import format_size
from pgratchet.operations.backups import backup_source
from tests.servers.databases import Database
from tests.support.targets import target_of

_TABLES = """
CREATE TABLE short AS SELECT n AS id, md5(n::text) AS word, now() AS at
    FROM generate_series(1, {megabytes} * 7500) AS n;
CREATE INDEX ON short (word);
CREATE TABLE long AS SELECT n AS id, (SELECT string_agg(sha512((n * 100 + i)::text::bytea), '')
    FROM generate_series(1, 80) AS i) AS value FROM generate_series(1, {megabytes} * 50) AS n;
CREATE TABLE repeated AS SELECT n AS id, repeat('some words ', 20) AS words
    FROM generate_series(1, {megabytes} * 400) AS n;
DO $$ BEGIN FOR n IN 1..100 LOOP EXECUTE format('CREATE TABLE small_%s AS SELECT 1 AS x', n); END LOOP; END $$;
ANALYZE
"""
_SAMPLES = 10
_FIRST_PART = 0.2
"""The part of the time in which the rows are still being counted."""


def measure(database: Database, megabytes: int, folder: Path) -> str:
    """One line of the table."""
    database.run(_TABLES.format(megabytes=megabytes))
    store, target = DiskStore(folder), target_of(database)
    with target.connected() as connection:
        source, estimate = backup_source(target, connection), estimated_size(store, connection)
    samples: list[tuple[float, float]] = []
    stream = backup.take(source, store, find_programs(source.server_version), BackupOptions())
    for event in stream:
        if isinstance(event, events.BackupProgress) and event.phase == "dump":
            samples.append((time.monotonic(), 100 * event.done / event.total))
    assert isinstance(event, events.BackupTaken)
    size = event.size or 0
    return (
        f"{megabytes:>5} MB: backup {format_size(size)}, estimate {format_size(estimate.expected)} "
        f"({estimate.expected / size:.2f} of it; between {format_size(estimate.lowest)} and "
        f"{format_size(estimate.highest)}); dump {samples[-1][0] - samples[0][0]:.1f} s; bar: {_deviations(samples)}"
    )


def _deviations(samples: list[tuple[float, float]]) -> str:
    """The percentage at ten times, and the largest difference to the part of the time after the first part."""
    begin, end = samples[0][0], samples[-1][0]
    shown, largest = [], 0.0
    for number in range(1, _SAMPLES):
        part = number / _SAMPLES
        _, percentage = min(samples, key=lambda sample: abs(sample[0] - begin - part * (end - begin)))
        shown.append(f"{percentage:.0f}")
        if part >= _FIRST_PART:
            largest = max(largest, abs(percentage - 100 * part))
    return f"{' '.join(shown)} %, at most {largest:.0f} points off after the first fifth"


def main(sizes: list[int]) -> None:
    with embedded.scratch() as server, tempfile.TemporaryDirectory() as folder:
        for megabytes in sizes:
            name = f"size_{megabytes}"
            parameters = {**server.parameters(), "dbname": "postgres"}
            Database(parameters).run(f"CREATE DATABASE {name}")
            print(measure(Database({**parameters, "dbname": name}), megabytes, Path(folder, name)), flush=True)


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]] or [1, 50, 1000])
