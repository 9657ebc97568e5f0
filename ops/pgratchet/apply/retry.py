"""Retries after lock timeouts, until a deadline, with random delays between the tries."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence

import psycopg

from pgratchet import events


class Retry:
    """A series of tries for at most `wait` milliseconds, with exponential backoff and full jitter.

    After lock_not_available, deadlock_detected or serialization_failure the transaction was rolled back, and can be
    repeated.
    """

    ERRORS = ("55P03", "40P01", "40001")

    def __init__(self, wait: int) -> None:
        self._deadline = time.monotonic() + wait / 1000
        self._tries = 0

    def allows(self, error: psycopg.Error) -> bool:
        """Return whether to try again after this error."""
        return error.sqlstate in self.ERRORS and not self.is_over()

    def is_over(self) -> bool:
        return time.monotonic() >= self._deadline

    def pause(self, name: str, reason: str, blockers: Sequence[str]) -> Iterator[events.Event]:
        """Report the retry and sleep before the next try."""
        self._tries += 1
        delay = random.uniform(0.05, min(5.0, 0.2 * 2**self._tries))  # noqa: S311  not a secret
        yield events.Retrying(name, reason, int(delay * 1000), tuple(blockers))
        time.sleep(delay)
