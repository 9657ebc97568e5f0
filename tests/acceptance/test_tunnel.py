"""`invoke` through a tunnel that is cut."""

from __future__ import annotations

import pytest

from tests.hosts.local_target import LocalTarget
from tests.support.waiting import until

pytestmark = pytest.mark.parametrize("server", ["outside"], indirect=True)
"""A tunnel leads to a port; the bundled server has a socket only."""

PAUSED = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"


def test_a_run_through_a_tunnel_that_is_cut_reports_what_the_history_has(near: LocalTarget) -> None:
    """Its session is lost with the tunnel; over the tunnel that is opened again it finds out what was committed."""
    near.describe(reach="tunnel", migration_batch_size=1)
    near.sql(m002_done="create table a ()", m003_slow="create table b (); select pg_sleep(3)", m004_last="select 1")
    running = near.start("migrate", "--without-backup=the test cuts the connection")
    until(lambda: near.database.rows(PAUSED) == [(1,)], 30)
    near.sshd.kill_sessions()
    done = running.ended()
    assert done.status in (0, 5), done.stderr
    assert all(f"applied {name}," in done.stderr for name in near.applied()), done.stderr
    assert "002_done" in near.applied()
    assert near("status", "--json").json["applied"] == len(near.applied())
    near("migrate", "--without-backup=the test is about the tunnel")
    assert len(near.applied()) == 4
