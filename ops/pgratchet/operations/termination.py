"""Raises Terminated for SIGTERM, except in the middle of what has to be done whole, such as a message."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from pgratchet.errors import Terminated


class _Termination:
    """The state of the signal handler. It runs in the main thread, between two steps of the main thread's own code."""

    is_deferred = False
    is_awaited = False

    def receive(self, _signal: int, _frame: object) -> None:
        if self.is_deferred:
            self.is_awaited = True
        else:
            raise Terminated


_termination = _Termination()


def raise_on_signal() -> None:
    """Let SIGTERM raise Terminated in the main thread from now on."""
    signal.signal(signal.SIGTERM, _termination.receive)


def ignore_signal() -> None:
    """Ignore SIGTERM from now on: the work is done, and only its last message is left."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def deferred() -> Iterator[None]:
    """Run the block to its end, and raise Terminated behind the block when SIGTERM has come meanwhile."""
    _termination.is_deferred = True
    try:
        yield
    finally:
        _termination.is_deferred = False
    if _termination.is_awaited:
        _termination.is_awaited = False
        raise Terminated
