"""Faults at a numbered round trip of a run: the process is killed, the connection cut, or the backend terminated.

Nothing of the runner is replaced. Every round trip of a connection, also of the history or a cursor, calls psycopg's
`Connection.wait`. CountedConnections counts these calls and causes the fault at one of them. A fault before a trip
needs no case: the server cannot distinguish it from a fault after the previous trip.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

import psycopg
from psycopg.waiting import Ready, Wait

from pgratchet.database import connection

RoundTripAction = Literal["kill", "cut", "end"]
RoundTripMoment = Literal["half", "sent", "behind"]
_Result = TypeVar("_Result")
_Trip = Generator[Wait, Ready | int, _Result]


@dataclass(frozen=True)
class RoundTripFault:
    """`half`: after the first piece is sent; `sent`: after everything is sent, before the answer; `behind`: after the
    answer.

    With `again`, the same fault comes once more, so many round trips later.
    """

    act: RoundTripAction
    at: int
    moment: RoundTripMoment
    again: int = 0


@dataclass
class CountedConnections:
    """The connections of one run, and the number of round trips over all of them."""

    parameters: dict[str, str]
    fault: RoundTripFault | None = None
    trips: int = 0

    def connect(self) -> psycopg.Connection:
        session = connection.connect(self.parameters)
        # Whoever watches for blockers does so in a thread, at times that are no part of the run's order.
        if threading.current_thread() is threading.main_thread():
            vars(session)["wait"] = partial(self._wait, session, session.wait)
        return session

    def _wait(
        self, session: psycopg.Connection, wait: Callable[[_Trip[_Result]], _Result], trip: _Trip[_Result]
    ) -> _Result:
        if getattr(trip, "__name__", "") == "resume":  # the rest of a trip, after a pause
            return wait(trip)
        self.trips += 1
        if self.fault is None or self.trips not in (self.fault.at, self.fault.at + self.fault.again):
            return wait(trip)
        if self.fault.moment != "behind":
            return wait(self._struck(trip, session))
        try:
            return wait(trip)
        finally:
            self._strike(session)

    def _struck(self, trip: _Trip[_Result], session: psycopg.Connection) -> _Trip[_Result]:
        """The same trip, with the fault once half of it or all of it is sent."""
        assert self.fault is not None
        struck = False
        try:
            state = next(trip)
            while self.fault.moment == "sent" and state & Wait.W:
                state = trip.send((yield state))
            self._strike(session)
            struck = True
            while True:
                state = trip.send((yield state))
        except StopIteration as end:
            if not struck:
                self._strike(session)
            result: _Result = end.value
            return result

    def _strike(self, session: psycopg.Connection) -> None:
        assert self.fault is not None
        if self.fault.act == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.fault.act == "cut":
            _cut(session)
        else:
            with connection.connect(self.parameters) as other:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", (session.info.backend_pid,))


def _cut(session: psycopg.Connection) -> None:
    if session.pgconn.status == psycopg.pq.ConnStatus.OK:
        with socket.socket(fileno=os.dup(session.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)
