"""Watches the session of a rehearsal from other sessions: the locks, and the waits of an application.

A session cannot look at its own locks during a statement outside a transaction, such as VACUUM. So another session
looks every few milliseconds. At a lock against reads or writes of a table, a further session asks for the lock of a
query or of a write. PostgreSQL grants the lock when the table is free, so an application would wait as long.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field

import psycopg

from pgratchet.database import queries
from pgratchet.rehearsal.lock_modes import MODES, Blocked, blocked_by

_INTERVAL = 0.01
"""Seconds between two looks. No slow-down of the observed session was measured with it."""
_MOST_WAITS = 16
"""Waits at once. Further tables of a transaction are not tried."""
_LOCKABLE_KINDS = "rp"
"""Relations that LOCK TABLE accepts without recursion into others: tables and partitioned tables."""
_WAITS: Mapping[Blocked, str] = {"reads": "ACCESS SHARE", "writes": "ROW EXCLUSIVE"}

Key = tuple[int, Blocked]


@dataclass(frozen=True, slots=True)
class Wait:
    """A wait of another session for a table: when the lock was noticed, by `time.monotonic`, how long, and the mode."""

    since: float
    duration_ms: float
    mode: str


@dataclass(slots=True)
class Observer:
    """Watches the session of the server process `pid`, from sessions that `connect` opens."""

    connect: Callable[[], psycopg.Connection]
    pid: int
    _names: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    _noticed: set[tuple[int, str]] = field(default_factory=set)
    _waits: dict[Key, Future[Wait | None]] = field(default_factory=dict)
    _idle: queue.SimpleQueue[psycopg.Connection] = field(default_factory=queue.SimpleQueue)
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _is_over: threading.Event = field(default_factory=threading.Event)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_MOST_WAITS))

    @contextmanager
    def watching(self) -> Iterator[Observer]:
        """Watch for the block."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._is_over.set()
            thread.join()
            self._pool.shutdown(cancel_futures=True)
            while not self._idle.empty():
                self._idle.get().close()

    def begin(self, names: Mapping[int, tuple[str, str]]) -> None:
        """Forget all locks and waits so far. `names` has the names and the kinds of the relations to watch, by oid."""
        with self._guard:
            self._names, self._noticed, self._waits = names, set(), {}

    def seen_modes(self) -> set[tuple[int, str]]:
        """Return the locks seen since `begin`: oids and modes as in pg_locks."""
        with self._guard:
            return {(oid, mode) for oid, mode in self._noticed if oid in self._names}

    def waits(self) -> dict[Key, Wait]:
        """Return the waits of the other sessions, after the end of all."""
        with self._guard:
            waits = dict(self._waits)
        ended = {key: future.result() for key, future in waits.items()}
        return {key: wait for key, wait in ended.items() if wait is not None}

    def _watch(self) -> None:
        query = queries.load(__file__, "probe")["observed"].encode()
        with suppress(psycopg.Error), closing(self.connect()) as connection:
            while not self._is_over.wait(_INTERVAL):
                rows = connection.execute(query, {"pid": self.pid}).fetchall()
                now = time.monotonic()
                with self._guard:
                    for oid, mode, granted in rows:
                        self._noticed.add((oid, mode))
                        if granted:
                            self._start_waits(oid, mode, now)

    def _start_waits(self, oid: int, mode: str, now: float) -> None:
        name, kind = self._names.get(oid, ("", ""))
        blocked = blocked_by(MODES[mode])
        if kind not in _LOCKABLE_KINDS or not name or blocked is None:
            return
        kinds: tuple[Blocked, ...] = ("reads", "writes") if blocked == "reads" else ("writes",)
        for what in kinds:
            if (oid, what) not in self._waits and len(self._waits) < _MOST_WAITS:
                self._waits[oid, what] = self._pool.submit(self._wait, name, mode, _WAITS[what], now)

    def _session(self) -> psycopg.Connection:
        with suppress(queue.Empty):
            return self._idle.get_nowait()
        return self.connect()

    def _wait(self, name: str, mode: str, requested: str, since: float) -> Wait | None:
        """Wait for a lock as an application does. None after an error."""
        with suppress(psycopg.Error):
            connection = self._session()
            try:
                connection.execute(f"BEGIN; LOCK TABLE ONLY {name} IN {requested} MODE; ROLLBACK".encode())
            except psycopg.errors.UndefinedTable:  # the transaction dropped it
                connection.execute("ROLLBACK")
            wait = Wait(since, (time.monotonic() - since) * 1000, mode)
            self._idle.put(connection)
            return wait
        return None
