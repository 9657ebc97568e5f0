"""Limits how often progress is reported."""

from __future__ import annotations

import time


class Throttle:
    """Allows one report per `interval` seconds, the first immediately."""

    def __init__(self, interval: float = 0.1) -> None:
        self._interval = interval
        self._last = 0.0

    def is_due(self) -> bool:
        """Tell whether a report is due. The caller then makes it."""
        now = time.monotonic()
        if now - self._last <= self._interval:
            return False
        self._last = now
        return True
