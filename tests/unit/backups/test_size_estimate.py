"""The estimated size of a backup, from numbers alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgratchet.backups.manifest import BackupFile, Manifest
from pgratchet.backups.size_estimate import estimate_size
from pgratchet.database.data_size import DataSize
from tests.unit.backups.helpers import make_manifest

EMPTY = 8_000_000
MB = 1_000_000


def earlier(size: int, database_size: int) -> Manifest:
    return replace(
        make_manifest(), files={"database.dump": BackupFile(size, "0" * 64)}, database_size=EMPTY + database_size
    )


def data(heap: int, *, toast: int = 0, large_objects: int = 0, indexes: int = 0) -> DataSize:
    return DataSize(1, heap, toast, large_objects, EMPTY + heap + toast + large_objects + indexes)


@pytest.mark.parametrize(
    "size", [data(0), data(50 * MB), data(0, toast=MB), data(0, large_objects=MB), data(MB, indexes=900 * MB)]
)
def test_the_bounds_surround_the_estimate(size: DataSize) -> None:
    estimate = estimate_size(size)
    assert 0 < estimate.lowest <= estimate.expected <= estimate.highest
    assert estimate.highest <= 1.25 * (size.database - EMPTY) + 20_000


def test_indexes_do_not_count() -> None:
    assert estimate_size(data(MB, indexes=900 * MB)) == estimate_size(data(MB))


def test_a_comparable_backup_gives_the_ratio() -> None:
    assert estimate_size(data(100 * MB), [earlier(3 * MB, 60 * MB)]).expected == 5 * MB
    assert estimate_size(data(60 * MB), [earlier(5 * MB, 100 * MB)]).expected == 3 * MB
    newest = [earlier(100, 1000), earlier(10 * MB, 100 * MB), earlier(50 * MB, 100 * MB)]
    assert estimate_size(data(100 * MB), newest).expected == 10 * MB


@pytest.mark.parametrize(
    ("size", "backup"),
    [
        (data(100 * MB), earlier(5_000, 0)),
        (data(100 * MB), earlier(5_000, -EMPTY)),
        (data(100 * MB), earlier(60 * MB, 49 * MB)),
        (data(100 * MB), earlier(60 * MB, 201 * MB)),
        (data(MB), earlier(5_000, MB)),
        (data(0), earlier(5_000, 60 * MB)),
    ],
)
def test_a_backup_of_another_size_is_not_comparable(size: DataSize, backup: Manifest) -> None:
    assert estimate_size(size, [backup]) == estimate_size(size)


def test_the_lower_bound_does_not_come_from_earlier_backups() -> None:
    size, backup = data(100 * MB), earlier(90 * MB, 100 * MB)
    assert estimate_size(size, [backup]).lowest == estimate_size(size).lowest < 20_000
