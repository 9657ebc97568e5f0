"""A connection whose packets are dropped: both sides give up."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence

import pytest

from pgratchet.database import session_settings
from pgratchet.errors import OutcomeUnknown
from pgratchet.migrations.files import Migration
from tests.faults.proxy import ConnectionFault, Moment, Proxy
from tests.integration.apply.helpers import count_working_sessions
from tests.requirements import requires
from tests.servers.clusters import Clusters
from tests.servers.databases import Database, Server
from tests.support.migrations import Attempt, WriteMigrations, history
from tests.support.waiting import until

IMPATIENT = {
    "keepalives_idle": "1",
    "keepalives_interval": "1",
    "keepalives_count": "2",
    "tcp_user_timeout": "3000",
    "connect_timeout": "2",
}
"""What templates/pg_service.conf.j2 gives libpq, in seconds that a test has."""


IMPATIENT_SERVER = {
    b"tcp_keepalives_idle": b"1",
    b"tcp_keepalives_interval": b"1",
    b"tcp_keepalives_count": b"2",
    b"tcp_user_timeout": b"3000",
    b"client_connection_check_interval": b"1000",
}
"""And what a run sets for its session at the server, likewise."""


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    real = dict(setting.split(b" = ") for _, setting in session_settings._SETTINGS)
    assert set(IMPATIENT_SERVER) <= set(real), "the run sets them, and only the numbers are the test's"
    assert int(real[b"tcp_user_timeout"]) >= 30_000
    quick = ((n, s.split(b" = ")) for n, s in session_settings._SETTINGS)
    settings = tuple((n, b"%b = %b" % (name, IMPATIENT_SERVER.get(name, value))) for n, (name, value) in quick)
    monkeypatch.setattr(session_settings, "_SETTINGS", settings)


@pytest.fixture
def database_by_tcp(server: Server, database: Database, clusters: Clusters) -> Database:
    """The database by TCP, without a proxy in between, since a Unix socket loses no packets.

    A server without TCP is replaced by a cluster.
    """
    if not database.parameters["host"].startswith("/"):
        return Database({**database.parameters, **server.direct})
    return Database(clusters.make("silent", address=f"127.{os.getpid() % 250}.7.9").by_tcp)


def silenced(database: Database, files: Sequence[Migration], fault: ConnectionFault) -> tuple[Proxy, Attempt]:
    """A run whose connection is silenced while the server executes its statement."""
    proxy = Proxy(database.parameters)
    proxy.at(
        b"create table a", Moment.SENT, fault=fault, meanwhile=lambda: until(lambda: count_working_sessions(database))
    )
    through = Database({**proxy.database.parameters, **IMPATIENT})
    return proxy, Attempt(through, files, wait=2_000, statement_timeout=60_000)


@requires("a socket filter")  # which makes the black hole
@pytest.mark.parametrize("seconds", [60, 0.5])
def test_both_sides_give_up_when_packets_are_dropped(
    database_by_tcp: Database, write: WriteMigrations, short_timeouts: None, seconds: float
) -> None:
    """Whether the statement still runs, or has ended and its answer is lost."""
    files = write(m1_a=f"create table a (); select pg_sleep({seconds})")
    proxy, attempt = silenced(database_by_tcp, files, ConnectionFault.BLACK_HOLE)
    began = time.monotonic()
    thread = threading.Thread(target=attempt.run)
    thread.start()
    until(lambda: proxy.sprung)
    assert count_working_sessions(database_by_tcp) == 1, "the server does not know"
    thread.join(20)
    assert 3 < time.monotonic() - began < 12
    assert isinstance(attempt.error, OutcomeUnknown)
    assert "unknown whether 1_a took effect" in attempt.error.message
    locks = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"
    until(lambda: not database_by_tcp.rows(locks), began + 12 - time.monotonic())
    done = seconds < 1
    assert history(database_by_tcp) == ([("1_a", True)] if done else [])
    proxy.close()
