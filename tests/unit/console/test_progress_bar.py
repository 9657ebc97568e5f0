"""The measures beside a progress bar, and the bar in terminals of two widths."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn

from pgratchet import events
from pgratchet.console import progress as lines
from pgratchet.console.progress_bar import ProgressBar, measures


@pytest.mark.parametrize(
    ("done", "total", "unit", "rate", "left", "shown"),
    [
        (39_100_000, 86_900_000, "bytes", 8_100_000, 6, " 44 %  39.1 of 86.9 MB  8.1 MB/s  6 s left"),
        (900_000, 86_900_000, "bytes", None, None, "  1 %  900.0 kB of 86.9 MB  3 s"),
        (0, 500, "bytes", 0, None, "  0 %  0 of 500 B  3 s"),
        (1_200_000, 1_200_001, "rows", 800.4, 65, " 99 %  1,200,000 rows  800/s  1 min 5 s left"),
        (12, 12, "rows", 5, 12_000, "100 %  12 rows  5/s  3 h 20 min left"),
        (1, 3, "migrations", 1, 700, "1 of 3  3 s"),
        (0, 0, "bytes", None, None, "3 s"),
    ],
)
def test_measures_have_amount_rate_and_time(
    done: int, total: int, unit: str, rate: float | None, left: int | None, shown: str
) -> None:
    assert measures(done, total, unit, rate=rate, remaining=left, elapsed=3) == shown  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("width", "shown"), [(80, "dumping p...f_2026"), (200, "dumping public.customer_orders_of_2026")]
)
def test_a_description_leaves_room_for_the_measures(width: int, shown: str) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True)
    with Progress(TextColumn("{task.description}"), console=console) as progress:
        bar = ProgressBar(progress)
        bar.step("dumping", 5, 10, "bytes", "public.customer_orders_of_2026")
        (task,) = progress.tasks
        assert (task.description, task.completed, task.total) == (shown, 5, 10)
        bar.step("building", 0, 0, "bytes", "INDEX public.orders_customer_idx")
        (task,) = progress.tasks
        assert (task.description, task.total) == ("building INDEX public.orders_customer_idx", None)


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (80, "applying 2026...3_index_orders_by_customer"),
        (60, "applying 20...customer"),
        (100, "applying 20261127T045323_index_orders_by_customer"),
    ],
)
def test_files_that_begin_alike_can_be_told_apart(width: int, shown: str) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True)
    with Progress(TextColumn("{task.description}"), console=console) as progress:
        ProgressBar(progress).step("applying", 0, 10, "migrations", "20261127T045323_index_orders_by_customer")
        (task,) = progress.tasks
        assert task.description == shown


def test_a_log_has_a_line_a_minute(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    shown = lines._Lines(quiet=False)
    for second in range(0, 130, 10):
        now[0] = 1_000.0 + second
        shown.show(events.BackupProgress("dump", second * 1_000_000, 240_000_000, "public.orders"))
    now[0] += 90
    shown.show(events.BackupProgress("index", item="INDEX public.i"))
    now[0] += 90
    shown.show(events.BackupProgress("index", item="INDEX public.i"))
    assert capsys.readouterr().err.splitlines() == [
        "dumping public.orders: 25 % 60.0 of 240.0 MB 1.0 MB/s 3 min 0 s left",
        "dumping public.orders: 50 % 120.0 of 240.0 MB 1.0 MB/s 2 min 0 s left",
        "building INDEX public.i: 1 min 30 s",
    ]
