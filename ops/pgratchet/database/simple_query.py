"""Sends several statements in a single round trip, by the simple query protocol, and keeps all results.

psycopg's cursors drop the results before an error, and the number of results shows the failed statement. So this module
uses the level below cursors (https://www.psycopg.org/psycopg3/docs/api/pq.html).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import psycopg
from psycopg import generators, pq

_CANCEL = 5.0
"""Seconds to wait for a cancelled query to end."""
_PIECE = 64_000
_GOOD = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK, pq.ExecStatus.EMPTY_QUERY)


@dataclass(frozen=True, slots=True)
class Answer:
    """The results of the successful statements, and the error at the end of the query, if any.

    `lost`: the connection broke, and more statements may have succeeded than `results` shows.
    """

    results: Sequence[pq.abc.PGresult]
    error: psycopg.Error | None
    lost: bool = False

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
