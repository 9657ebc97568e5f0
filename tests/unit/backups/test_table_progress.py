"""How far pg_dump or pg_restore is, from the tables that it began and the rows that the server has copied."""

from __future__ import annotations

import psycopg
import pytest

from pgratchet.backups import table_progress
from pgratchet.backups.table_progress import TableProgress

SIZES = {"public.small": 100, 'public."Large"': 1_000, "public.last": 50}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_progress, "_INTERVAL", 0.001)


def watched(progress: TableProgress, copied: dict[str, int], rows: dict[str, int] | None = None) -> TableProgress:
    """The progress after the server was asked once."""

    def read() -> dict[str, int]:
        progress.stop()
        return copied

    progress.watch(read, (lambda: rows) if rows is not None else None)
    return progress


def test_a_table_counts_when_the_next_one_begins() -> None:
    progress = TableProgress(SIZES, 1)
    begun: list[str] = []
    done = [progress.done(begun)]
    for name in ("public.small", "public.Large", "public.last"):
        begun.append(name)
        done.append(progress.done(begun))
    assert done == [0, 0, 100, 1_100]
    assert progress.total == 1_150


def test_a_part_of_a_table_counts_by_its_copied_rows() -> None:
    progress = watched(TableProgress(SIZES, 1), {'public."Large"': 30}, {'public."Large"': 120})
    assert progress.done(["public.small", "public.Large"]) == 100 + 250
    assert progress.is_copying


def test_more_rows_than_expected_are_no_more_than_the_table() -> None:
    progress = watched(TableProgress(SIZES, 1, {"public.last": 10}), {"public.last": 11})
    assert progress.done(list(SIZES)) == 1_150


def test_a_table_that_is_still_copied_is_not_finished_however_many_began_after_it() -> None:
    begun = ["public.Large", "public.small", "public.last"]
    assert TableProgress(SIZES, 2).done(begun) == 1_000
    progress = watched(TableProgress(SIZES, 2), {'public."Large"': 1}, {'public."Large"': 100})
    assert progress.done(begun) == 10


@pytest.mark.parametrize("rows", [None, {}, {"public.Large": 0}])
def test_without_numbers_of_rows_only_finished_tables_count(rows: dict[str, int] | None) -> None:
    progress = watched(TableProgress(SIZES, 1), {'public."Large"': 30}, rows)
    assert progress.done(["public.small", "public.Large"]) == 100


def test_errors_end_the_watching_only() -> None:
    def failing() -> dict[str, int]:
        raise psycopg.OperationalError

    progress = TableProgress(SIZES, 1)
    progress.watch(failing)
    assert progress.done(["public.small", "public.Large"]) == 100
    assert not progress.is_copying
