"""Sends several statements in a single round trip, by the simple query protocol, and keeps all results.

psycopg's cursors drop the results before an error, and the number of results shows the failed statement. So this module
uses the level below cursors (https://www.psycopg.org/psycopg3/docs/api/pq.html).

A migration can select millions of rows that nobody reads. `send_migration` receives them in chunks, and drops them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

import psycopg
from psycopg import generators, pq
from psycopg.abc import PQGen
from psycopg.waiting import Ready, Wait

_CANCEL = 5.0
"""Seconds to wait for a cancelled query to end."""
_INTERVALS = 5
"""After so many intervals of psycopg (0.1 s) without an answer, `send_migration` reports."""
_PIECE = 64_000
_CHUNKS_SINCE = 170000
"""The first version of libpq that receives rows in chunks; an older one receives them singly."""
_CHUNK_ROWS = 1000
_CHUNK_STATUS = (pq.ExecStatus.SINGLE_TUPLE, pq.ExecStatus.TUPLES_CHUNK)
_COPY_STATUS = (pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH)
_GOOD = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK, pq.ExecStatus.EMPTY_QUERY)


_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Answer:
    """The results of the successful statements, and the error at the end of the query, if any.

    `lost`: the connection broke, and more statements may have succeeded than `results` shows. `chunks` are the rows of
    the last table with the expected columns, when `send_migration` has dropped all others.
    """

    results: Sequence[pq.abc.PGresult]
    error: psycopg.Error | None
    lost: bool = False
    chunks: Sequence[pq.abc.PGresult] = ()

    @property
    def answered(self) -> int:
        return len(self.results)

    @property
    def tables(self) -> list[pq.abc.PGresult]:
        """The results with columns."""
        return [result for result in self.results if result.nfields]


def send(connection: psycopg.Connection, text: bytes) -> Answer:
    """Send a text of several statements and wait for all results."""
    try:
        with connection.lock:
            connection.pgconn.send_query(text)
            results = connection.wait(generators.execute(connection.pgconn))
    except psycopg.OperationalError as error:
        return Answer((), error, lost=True)
    except KeyboardInterrupt:
        _cancel(connection)
        raise
    return _answer(connection, results)


def send_migration(
    connection: psycopg.Connection, text: bytes, columns: Sequence[bytes], report: Callable[[], Iterable[_T]] = tuple
) -> Generator[_T, None, Answer]:
    """Send a text of several statements like `send`; drop all rows except those of the last table with `columns`.

    An empty name in `columns` stands for any name. While the server works, what `report` returns is yielded. A
    KeyboardInterrupt, also one that is thrown in, cancels the query.
    """
    results: list[pq.abc.PGresult] = []
    chunks: list[pq.abc.PGresult] = []
    try:
        with connection.lock:
            connection.pgconn.send_query(text)
            if pq.version() >= _CHUNKS_SINCE:
                connection.pgconn.set_chunked_rows_mode(_CHUNK_ROWS)
            else:
                connection.pgconn.set_single_row_mode()
            trip = _RoundTrip(_receive(connection.pgconn, columns, results, chunks))
            connection.wait(trip.begin())
            while not trip.is_over:
                yield from report()
                connection.wait(trip.resume())
    except psycopg.OperationalError as error:
        return Answer((), error, lost=True)
    except KeyboardInterrupt:
        _cancel(connection)
        raise
    return replace(_answer(connection, results), chunks=chunks)


@dataclass(slots=True)
class _RoundTrip:
    """A generator of psycopg that `Connection.wait` runs in parts. A part ends with the trip, or at a long pause."""

    generator: PQGen[None]
    is_over: bool = False
    _state: Wait = Wait.R

    def begin(self) -> PQGen[None]:
        self._state = next(self.generator)
        yield from self.resume()

    def resume(self) -> PQGen[None]:
        intervals = 0
        try:
            while intervals < _INTERVALS:
                ready = yield self._state
                if ready == Ready.NONE:  # nothing came in an interval
                    intervals += 1
                else:
                    self._state = self.generator.send(ready)
        except StopIteration:
            self.is_over = True


def _receive(
    pgconn: pq.abc.PGconn,
    columns: Sequence[bytes],
    results: list[pq.abc.PGresult],
    chunks: list[pq.abc.PGresult],
) -> PQGen[None]:
    """Receive the results of a query: each to `results` without its rows, and the rows to keep to `chunks`."""
    yield from generators.send(pgconn)
    current: list[pq.abc.PGresult] = []
    while (result := (yield from _fetch(pgconn, results))) is not None:
        is_expected = result.nfields == len(columns) and all(
            result.fname(n) == name for n, name in enumerate(columns) if name
        )
        if result.status in _CHUNK_STATUS:
            current += [result] if is_expected else []
            continue
        results.append(result)
        if is_expected:
            chunks[:], current = current, []
        if result.status in _COPY_STATUS:  # libpq returns it again and again until the rows were sent
            return


def _fetch(pgconn: pq.abc.PGconn, results: Sequence[pq.abc.PGresult]) -> PQGen[pq.abc.PGresult | None]:
    """Fetch the next result; None at the end, which can be that of the connection after a fatal error."""
    try:
        result: pq.abc.PGresult | None = yield from generators.fetch(pgconn)
        return result
    except psycopg.DatabaseError:
        if any(result.status == pq.ExecStatus.FATAL_ERROR for result in results):
            return None
        raise


def copy(connection: psycopg.Connection, statement: bytes, data: memoryview) -> Answer:
    """Send a COPY ... FROM STDIN with rows, in pieces, so libpq does not copy all rows at once."""
    answer = send(connection, statement)
    if answer.error:
        return answer
    pgconn, wait = connection.pgconn, connection.wait
    try:
        with connection.lock:
            for start in range(0, len(data), _PIECE):
                wait(generators.copy_to(pgconn, data[start : start + _PIECE]))
            return Answer((wait(generators.copy_end(pgconn, None)),), None)
    except KeyboardInterrupt:
        _cancel(connection)
        raise
    except psycopg.Error as error:
        return Answer((), error, lost=pgconn.status != pq.ConnStatus.OK)


def _cancel(connection: psycopg.Connection) -> None:
    """Cancel the running query; close the connection when the query cannot be cancelled."""
    try:
        _try_to_cancel(connection)
    except KeyboardInterrupt:  # a second signal
        with suppress(KeyboardInterrupt):
            _try_to_cancel(connection)
    if connection.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
        connection.pgconn.finish()


def _try_to_cancel(connection: psycopg.Connection) -> None:
    """Cancel the running query. psycopg does so only while waiting; a signal can also arrive before the wait."""
    pgconn = connection.pgconn
    with suppress(psycopg.Error):
        if pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
            connection.cancel_safe(timeout=_CANCEL)
            connection.wait(generators.fetch_many(pgconn), timeout=_CANCEL)
        if pgconn.transaction_status == pq.TransactionStatus.ACTIVE:  # a COPY that waits for its rows
            connection.wait(generators.copy_end(pgconn, b"interrupted"), timeout=_CANCEL)


def _answer(connection: psycopg.Connection, results: Sequence[pq.abc.PGresult]) -> Answer:
    good = [result for result in results if result.status in _GOOD]
    failed = [result for result in results if result.status == pq.ExecStatus.FATAL_ERROR]
    lost = connection.pgconn.status != pq.ConnStatus.OK
    if failed:
        return Answer(good, psycopg.errors.error_from_result(failed[0]), lost)
    return Answer(good, psycopg.OperationalError("the connection broke") if lost else None, lost)


def rows(result: pq.abc.PGresult) -> list[tuple[str | None, ...]]:
    """Return the rows of a result, as text from the server."""
    columns = range(result.nfields)
    return [tuple(_text(result.get_value(n, c)) for c in columns) for n in range(result.ntuples)]


def _text(value: bytes | None) -> str | None:
    return None if value is None else bytes(value).decode()
