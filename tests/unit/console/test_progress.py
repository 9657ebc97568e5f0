"""Following a stream: every event is shown, signals reach the stream, and the stream is closed."""

from __future__ import annotations

from collections.abc import Generator
from typing import get_args

import pytest

from pgratchet import events
from pgratchet.console.progress import draw
from pgratchet.console.result import RunResult
from pgratchet.errors import Interrupted, Terminated
from pgratchet.events import follow

FIRST, SECOND, LAST = (events.MigrationApplied(name, 1) for name in ("a", "b", "c"))


class Stream:
    """A stream that notes what reaches it. With `goes_on` it continues after each signal."""

    def __init__(self, *, goes_on: bool) -> None:
        self.goes_on = goes_on
        self.signals: list[BaseException] = []
        self.closed = False

    def run(self) -> events.Stream:
        try:
            for event in (FIRST, SECOND, LAST):
                try:
                    yield event
                except KeyboardInterrupt as signal:  # noqa: PERF203
                    self.signals.append(signal)
                    if not self.goes_on:
                        raise
        finally:
            self.closed = True


class Screen:
    """Shows events, and is interrupted by a signal at some of them."""

    def __init__(self, *signals: BaseException | None) -> None:
        self.signals = list(signals)
        self.shown: list[events.Event] = []

    def show(self, event: events.Event) -> None:
        self.shown.append(event)
        signal = self.signals.pop(0) if self.signals else None
        if signal:
            raise signal


def test_every_event_is_shown() -> None:
    stream, screen = Stream(goes_on=True), Screen()
    follow(stream.run(), screen.show)
    assert screen.shown == [FIRST, SECOND, LAST]
    assert stream.closed


def test_the_result_of_a_stream_is_returned() -> None:
    def stream() -> Generator[events.Event, None, int]:
        yield FIRST
        return 42

    assert follow(stream(), Screen().show) == 42
    assert draw(stream(), RunResult("prod", "app", "")) == 42


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_signal_while_an_event_is_shown_reaches_the_stream_which_goes_on(position: int) -> None:
    signal = Terminated()
    stream, screen = Stream(goes_on=True), Screen(*[None] * position, signal)
    follow(stream.run(), screen.show)
    assert stream.signals == [signal]
    assert screen.shown == [FIRST, SECOND, LAST]
    assert stream.closed


def test_several_signals_reach_the_stream_one_by_one() -> None:
    signals = [KeyboardInterrupt(), Terminated()]
    stream, screen = Stream(goes_on=True), Screen(*signals)
    follow(stream.run(), screen.show)
    assert stream.signals == signals
    assert screen.shown == [FIRST, SECOND, LAST]


def test_a_signal_that_ends_the_stream_is_raised() -> None:
    signal = Terminated()
    stream, screen = Stream(goes_on=False), Screen(signal)
    with pytest.raises(Terminated) as caught:
        follow(stream.run(), screen.show)
    assert caught.value is signal
    assert stream.closed


def test_an_error_of_the_screen_closes_the_stream() -> None:
    stream, screen = Stream(goes_on=True), Screen(OSError("the terminal is gone"))
    with pytest.raises(OSError, match="the terminal is gone"):
        follow(stream.run(), screen.show)
    assert stream.closed
    assert stream.signals == []


@pytest.mark.parametrize("error", [ValueError("broken"), Terminated()])
def test_an_error_of_the_stream_is_raised_and_not_thrown_into_it(error: BaseException) -> None:
    def broken() -> events.Stream:
        yield FIRST
        raise error

    screen = Screen()
    with pytest.raises(type(error)) as caught:
        follow(broken(), screen.show)
    assert caught.value is error
    assert screen.shown == [FIRST]


LINES: dict[events.Event, str] = {
    events.Planned(("one",), 1, 1): "",
    events.LockAwaited("pid 7"): "waiting for the migration lock: held by pid 7\n",
    events.BackupProgress("dump", 1, 2): "",
    events.BackupRetried("lost"): "pg_dump failed, and is tried once more: lost\n",
    events.BackupsRemoved(("a", "b")): "deleted by retention: a, b\n",
    events.RetentionSkipped(("a", "b"), "why"): "not deleted by retention: a, b: why\n",
    events.SpaceLow("/a", 2000, 3000): "warning: the backup may not fit: 2.0 kB free in /a, about 3.0 kB needed\n",
    events.BackupTaken("a", "/a", 2000, 5): "backup a: 2.0 kB, read back whole, 5 ms\n",
    events.BackupTaken("a", "/a", None, 5): "backup a: /a, 5 ms\n",
    events.Restored("d", 5): 'restored into the database "d", 5 ms\n',
    events.ItemNotRestored("INDEX i", "no", "CREATE INDEX i"): "not restored: INDEX i: no\n",
    events.Compared(2, 3, ()): "compared 2 tables with 3 rows: all as in the manifest\n",
    events.LeftOut(("A is hidden.", "B too.")): "not in the backup: A is hidden.\nnot in the backup: B too.\n",
    events.Compared(2, 3, ("x",)): "compared 2 tables with 3 rows: 1 difference\n",
    events.Compared(
        2, 3, (), 1, 2, ("a note",)
    ): "compared 2 tables with 3 rows, 1 sequence, 2 materialized views: all as in the manifest\na note\n",
    events.Swapped("d", "e"): "",
    events.BatchSent(("one",)): "",
    events.MigrationBegun("one"): "applying one\n",
    events.StatementDone("one", 1, 2): "one: statement 1 of 2\n",
    events.Retrying("one", "busy", 5, ("pid 7",)): "one: busy, waiting for pid 7; trying again in 5 ms\n",
    events.SnapshotsAwaited("one", ("pid 7",)): "one: waiting for open transactions: pid 7\n",
    FIRST: "applied a, 1 ms\n",
    events.Rehearsed("a", 5): "rehearsed a, 5 ms\n",
    events.RightsMissing(("One.", "Two.")): (
        "warning: this role cannot restore the backup alone. One. (1 more) See `invoke doctor`.\n"
    ),
    events.SessionsAwaited("d", ("pid 7",)): ('waiting for sessions of "d" that this role may not end: pid 7\n'),
    events.ServerNotice("NOTICE", "hello"): "NOTICE: hello\n",
    events.Finished(1, 0): "",
}


def test_every_kind_of_event_has_a_line() -> None:
    assert {type(event) for event in LINES} == set(get_args(events.Event))


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("event", LINES, ids=lambda event: type(event).__name__)
def test_an_event_is_a_line_of_text_away_from_a_terminal(
    capsys: pytest.CaptureFixture[str], event: events.Event, quiet: bool
) -> None:
    draw((each for each in [event]), RunResult("env", "target", "run"), quiet=quiet)
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "" if quiet else LINES[event])


def test_a_failed_run_has_a_result_too() -> None:
    def failing() -> events.Stream:
        yield events.Planned(("a", "b"), 5, 2)
        yield events.BackupTaken("b", "/b", 1, 1)
        yield FIRST
        raise Interrupted(Terminated())

    result = RunResult("env", "target", "run")
    with pytest.raises(Interrupted):
        draw(failing(), result, quiet=True)
    assert (result.applied, result.total, result.pending, result.backup_path) == (["a"], 5, 1, "/b")
