"""Estimates the size of a backup before it is taken. The only place that does; pure.

A dump has the rows and no indexes, as compressed text. How well they compress is not known in advance: measured backups
of 1 MB to 1 GB have from 0.5 % (a few values, repeated) to 115 % (random bytes) of their data
(tests/integration/backups/test_size_estimate.py). So the estimate has bounds, and only the certain lower one is a
reason to refuse a backup.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pgratchet.backups.manifest import Manifest
from pgratchet.database.data_size import DataSize

_HEAP_RATIO = 0.35
_TOAST_RATIO = 0.9
"""The usual sizes of a dump, relative to rows, and to TOAST values and large objects, which may be compressed."""
_HIGHEST_RATIO = 1.25
"""A dump has random bytes as hexadecimal digits, which compress to little more than the bytes."""
_LOWEST_RATIO = 1 / 50_000
"""Equal rows compress to almost nothing."""
_LOWEST_SIZE = 3 * 4096
"""A dump, the roles and the manifest: three files of a block each."""
_TABLE_SIZE = 2_000
"""Bytes for each table's definition, in the archive and in the manifest."""
_EMPTY_SIZE = 8_000_000
"""Bytes of an empty database: the catalog, which a dump leaves out."""
_LEAST_COMPARABLE = 32_000_000
"""Bytes from which a database is mostly data, so that sizes of the whole database can be compared."""
_MOST_GROWTH = 2.0
"""How much larger or smaller a database may be than it was at an earlier backup to be comparable."""


@dataclass(frozen=True, slots=True)
class SizeEstimate:
    """An estimated size in bytes. It is certainly not below `lowest`, and hardly above `highest`."""

    lowest: int
    expected: int
    highest: int


def estimate_size(data: DataSize, earlier: Iterable[Manifest] = ()) -> SizeEstimate:
    """Estimate a backup of the data. `earlier` are backups of the same database, newest first."""
    values = data.toast + data.large_objects
    total = data.heap + values
    definitions = _LOWEST_SIZE + data.tables * _TABLE_SIZE
    highest = round(total * _HIGHEST_RATIO) + definitions
    usual = round(data.heap * _HEAP_RATIO + values * _TOAST_RATIO) + definitions
    comparable = next((each for each in earlier if _is_comparable(each, data)), None)
    if comparable:
        growth = (data.database - _EMPTY_SIZE) / (comparable.database_size - _EMPTY_SIZE)
        usual = min(round(comparable.size * growth), highest)
    return SizeEstimate(_LOWEST_SIZE + round(total * _LOWEST_RATIO), usual, highest)


def _is_comparable(earlier: Manifest, data: DataSize) -> bool:
    sizes = sorted((earlier.database_size - _EMPTY_SIZE, data.database - _EMPTY_SIZE))
    return sizes[0] >= _LEAST_COMPARABLE and sizes[1] <= sizes[0] * _MOST_GROWTH
