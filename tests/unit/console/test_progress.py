"""Following a run: its events are shown in order, and a signal while one is shown reaches the run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from pgratchet import events
from pgratchet.console import progress
from pgratchet.console.result import RunResult
from pgratchet.errors import Interrupted, Terminated


def applied(name: str) -> events.MigrationApplied:
    return events.MigrationApplied(name, 5)


@dataclass
class Screen:
    """Shows events by their names, and raises a signal at some of them."""

    signals: dict[str, KeyboardInterrupt] = field(default_factory=dict)
    shown: list[str] = field(default_factory=list)

    def show(self, event: events.Event) -> None:
        assert isinstance(event, events.MigrationApplied)
        self.shown.append(event.name)
        if signal := self.signals.get(event.name):
            raise signal


@dataclass
class Run:
    """A run that takes note of signals and goes on, as often as it is told to."""

    patience: int = 0
    signals: list[KeyboardInterrupt] = field(default_factory=list)
    is_closed: bool = False

    def stream(self) -> events.Stream:
        try:
            for name in ("one", "two", "three", "four"):
                try:
                    yield applied(name)
                except KeyboardInterrupt as signal:  # noqa: PERF203
                    self.signals.append(signal)
                    if len(self.signals) > self.patience:
                        raise Interrupted(signal) from None
                    yield applied(f"cancelled at {name}")
        finally:
            self.is_closed = True


def test_every_event_is_shown_and_the_stream_is_closed() -> None:
    run, screen = Run(), Screen()
    progress.follow(run.stream(), screen.show)
    assert screen.shown == ["one", "two", "three", "four"]
    assert run.is_closed


def test_a_signal_while_an_event_is_shown_reaches_the_run_which_goes_on() -> None:
    signal = Terminated()
    run, screen = Run(patience=1), Screen({"two": signal})
    progress.follow(run.stream(), screen.show)
    assert run.signals == [signal]
    assert screen.shown == ["one", "two", "cancelled at two", "three", "four"]
    assert run.is_closed


def test_a_second_signal_reaches_the_run_too() -> None:
    first, second = KeyboardInterrupt(), Terminated()
    run, screen = Run(patience=1), Screen({"two": first, "three": second})
    with pytest.raises(Interrupted) as caught:
        progress.follow(run.stream(), screen.show)
    assert run.signals == [first, second]
    assert caught.value.status == 143
    assert screen.shown == ["one", "two", "cancelled at two", "three"]
    assert run.is_closed


def test_a_signal_while_the_event_after_a_signal_is_shown_reaches_the_run_too() -> None:
    first, second = KeyboardInterrupt(), KeyboardInterrupt()

    def stream() -> events.Stream:
        signals = []
        try:
            yield applied("one")
        except KeyboardInterrupt as signal:
            signals.append(signal)
        try:
            yield applied("cancelling")
        except KeyboardInterrupt as signal:
            signals.append(signal)
        assert signals == [first, second]
        yield applied("cancelled")

    screen = Screen({"one": first, "cancelling": second})
    progress.follow(stream(), screen.show)
    assert screen.shown == ["one", "cancelling", "cancelled"]


def test_a_run_that_lets_a_signal_pass_ends_by_it() -> None:
    def stream() -> events.Stream:
        yield applied("one")

    signal = KeyboardInterrupt()
    running = stream()
    with pytest.raises(KeyboardInterrupt) as caught:
        progress.follow(running, Screen({"one": signal}).show)
    assert caught.value is signal
    assert inspect.getgeneratorstate(running) == inspect.GEN_CLOSED


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_what_a_run_raises_is_raised_and_not_thrown_into_it_again(error: BaseException) -> None:
    def stream() -> events.Stream:
        yield applied("one")
        raise error

    screen = Screen()
    with pytest.raises(type(error)) as caught:
        progress.follow(stream(), screen.show)
    assert caught.value is error
    assert screen.shown == ["one"]


def test_an_error_while_an_event_is_shown_closes_the_run() -> None:
    def fail(_: events.Event) -> None:
        raise BrokenPipeError

    run = Run()
    with pytest.raises(BrokenPipeError):
        progress.follow(run.stream(), fail)
    assert run.is_closed
    assert not run.signals


@pytest.fixture
def drawn(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def draw(*shown: events.Event, quiet: bool = False) -> str:
        result = RunResult("env", "target", "run", plan=("one",))
        progress.draw((event for event in shown), result, quiet=quiet)
        output = capsys.readouterr()
        assert output.out == ""
        return output.err

    return draw


EVENTS: dict[events.Event, str] = {
    events.Planned(("one",), 1, 1): "",
    events.LockAwaited("pid 7"): "waiting for the migration lock: held by pid 7\n",
    events.BackupProgress("dump", 1, 2): "",
    events.BackupRetried("lost"): "pg_dump failed, and is tried once more: lost\n",
    events.BackupsRemoved(("a", "b")): "deleted, as no longer kept: a, b\n",
    events.BackupTaken("a", "/a", 2000, 5): "backup a: 2.0 kB, read back whole, 5 ms\n",
    events.BackupTaken("a", "/a", None, 5): "backup a: /a, 5 ms\n",
    events.Restored("d", 5): 'restored into the database "d", 5 ms\n',
    events.Compared(2, 3, ()): "compared 2 tables with 3 rows: all as in the manifest\n",
    events.Compared(2, 3, ("x",)): "compared 2 tables with 3 rows: 1 differences\n",
    events.Swapped("d", None): '"d" is what was restored\n',
    events.Swapped("d", "e"): '"d" is what was restored; the old one is kept as "e"\n',
    events.BatchSent(("one",)): "",
    events.StatementDone("one", 1, 2): "one: statement 1 of 2\n",
    events.Retrying("one", "busy", 5, ("pid 7",)): "one: busy, waiting for pid 7; trying again in 5 ms\n",
    events.SnapshotsAwaited("one", ("pid 7",)): "one: waiting for open transactions: pid 7\n",
    applied("one"): "applied one, 5 ms\n",
    events.ServerNotice("NOTICE", "hello"): "NOTICE: hello\n",
    events.Finished(1, 0): "",
}


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_is_a_line_of_text_away_from_a_terminal(drawn: Callable[..., str], event: events.Event) -> None:
    assert drawn(event) == EVENTS[event]
    assert drawn(event, quiet=True) == ""


def test_a_result_is_built_from_the_events_of_a_run_that_fails_too() -> None:
    def stream() -> events.Stream:
        yield events.Planned(("one", "two"), 5, 2)
        yield events.BackupTaken("b", "/b", 1, 1)
        yield applied("one")
        raise Interrupted(KeyboardInterrupt())

    result = RunResult("env", "target", "run")
    with pytest.raises(Interrupted):
        progress.draw(stream(), result, quiet=True)
    assert (result.applied, result.total, result.pending, result.backup_path) == (["one"], 5, 1, "/b")
