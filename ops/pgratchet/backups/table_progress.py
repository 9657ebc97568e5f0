"""Measures how far pg_dump or pg_restore is: the tables that it has finished, and the rows of those in progress.

The programs report when they begin a table, so one large table would look like a standstill. The server knows how many
rows a COPY has processed (https://www.postgresql.org/docs/current/progress-reporting.html#COPY-PROGRESS-REPORTING).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial

import psycopg

from pgratchet.database import queries
from pgratchet.errors import RatchetError

_INTERVAL = 0.2
"""Seconds between two questions to the server."""


class TableProgress:
    """The progress of a program that copies tables, `jobs` at a time.

    `sizes` are the tables' parts of the whole work, in any unit. `rows` are their numbers of rows; as long as they are
    not known, a table counts when it is finished.
    """

    def __init__(self, sizes: Mapping[str, int], jobs: int, rows: Mapping[str, int] | None = None) -> None:
        self._sizes, self._jobs = _unquoted(sizes), jobs
        self._rows = _unquoted(rows or {})
        self._current: Mapping[str, int] = {}  # rows copied, as the server said last
        self._copied: dict[str, int] = {}  # the same of every table, as last said
        self._is_over = threading.Event()

    @property
    def total(self) -> int:
        """The size of all tables."""
        return sum(self._sizes.values())

    @property
    def is_copying(self) -> bool:
        """True when a table was being copied as the server was asked last."""
        return bool(self._current)

    def item(self, begun: Sequence[str]) -> str:
        """A table that is being copied, empty before the first one."""
        return next((name for name in reversed(begun) if _plain(name) in self._current), begun[-1] if begun else "")

    def done(self, begun: Sequence[str]) -> int:
        """The size of what is finished. `begun` are the tables that the program has begun, in this order."""
        names = [_plain(name) for name in begun]
        unfinished = {*names[-self._jobs :], *self._current}
        finished = sum(self._sizes.get(name, 0) for name in names if name not in unfinished)
        return finished + sum(self._part_of(name) for name in unfinished)

    def _part_of(self, name: str) -> int:
        rows = self._rows.get(name, 0)
        return self._sizes.get(name, 0) * min(self._copied.get(name, 0), rows) // rows if rows else 0

    def watch(
        self,
        read_copied: Callable[[], Mapping[str, int]],
        count: Callable[[], Mapping[str, int]] | None = None,
        measure: Callable[[Mapping[str, int]], Mapping[str, int]] | None = None,
    ) -> None:
        """Read the numbers of copied rows until `stop`.

        `count` first returns the rows of the tables, and `measure` better sizes, from these rows. Errors end the
        watching and nothing else: progress is only information.
        """
        with suppress(psycopg.Error, RatchetError):
            rows = count() if count else {}
            self._rows |= _unquoted(rows)
            if measure and not self._is_over.wait(_INTERVAL):
                self._sizes |= _unquoted(measure(rows))
            while not self._is_over.wait(_INTERVAL):
                self._current = _unquoted(read_copied())
                self._copied.update(self._current)

    def stop(self) -> None:
        """End the watching."""
        self._is_over.set()


@contextmanager
def watched(progress: TableProgress, connection: psycopg.Connection) -> Iterator[TableProgress]:
    """Watch the progress on a session of the same database, which is used for nothing else inside the block."""
    thread = threading.Thread(target=progress.watch, args=(partial(read_copied, connection),), daemon=True)
    thread.start()
    try:
        yield progress
    finally:
        progress.stop()
        thread.join()


COPIED = queries.load(__file__, "table_progress")["copied"]
"""Two queries. The second returns the tables that are being copied in the session's database, and their rows so far."""


def read_copied(connection: psycopg.Connection) -> dict[str, int]:
    """Read the rows that this role's sessions have copied so far, of each table that they are copying."""
    cursor = connection.execute(COPIED.encode())
    cursor.nextset()
    return {str(name): int(number) for name, number in cursor.fetchall()}


def _plain(name: str) -> str:
    """A name as pg_dump and pg_restore print it in messages."""
    return name.replace('"', "")


def _unquoted(numbers: Mapping[str, int]) -> dict[str, int]:
    return {_plain(name): number for name, number in numbers.items()}
