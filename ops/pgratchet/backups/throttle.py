"""Limits how often progress is reported."""

from __future__ import annotations

import time


class Throttle:
    """Allows a report every `interval` seconds, the first immediately."""

    def __init__(self, interval: float = 0.1) -> None:
        self._interval = interval
        self._last = 0.0

    def is_due(self) -> bool:
        """Tell whether a report is due. The caller then reports."""
        now = time.monotonic()
        if now - self._last <= self._interval:
            return False
        self._last = now
        return True
