"""Following a stream: every event is shown, signals reach the stream, and the stream is closed."""

from __future__ import annotations

import pytest

from pgratchet import events
from pgratchet.console.progress import follow
from pgratchet.errors import Terminated

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
                except KeyboardInterrupt as signal:
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


def test_an_error_of_the_stream_is_raised() -> None:
    def broken() -> events.Stream:
        yield FIRST
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        follow(broken(), Screen().show)
