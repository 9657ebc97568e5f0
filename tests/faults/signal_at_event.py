"""`invoke` that sends itself SIGINT at a numbered event: `python signal_at_event.py NUMBER MOMENT TASK...`.

Only the first event of each kind is counted; each phase of a backup or a restore is a kind. MOMENT is `drawing`, while
the event is shown, or `waiting`, while the next event is awaited. Each event is also a line on standard error. With
NUMBER 0 no signal is sent.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from invoke.main import program

from pgratchet import events
from pgratchet.console import progress

EVENT = "event of the test: "
_DELAY = 0.01
"""Seconds after which a signal finds the stream waiting."""


def main(number: int, moment: str) -> None:
    show, kinds = progress._Lines.show, set[str]()

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    def show_with_signal(screen: progress._Lines, event: events.Event) -> None:
        is_first = (kind := _kind(event)) not in kinds
        kinds.add(kind)
        sys.stderr.write(f"{EVENT}{type(event).__name__}\n")
        is_wanted = is_first and len(kinds) == number
        if is_wanted and moment == "drawing":
            interrupt()
        show(screen, event)
        if is_wanted and moment == "waiting":
            timer = threading.Timer(_DELAY, interrupt)
            timer.daemon = True
            timer.start()

    setattr(progress._Lines, "show", show_with_signal)  # noqa: B010  not a method to mypy
    program.run(["invoke", *sys.argv[3:]])


def _kind(event: events.Event) -> str:
    return type(event).__name__ + (event.phase if isinstance(event, events.BackupProgress) else "")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(int(sys.argv[1]), sys.argv[2])
