"""Runs on a host whose connection is cut, that are killed or get a signal: they continue and can be followed again."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from functools import partial

import pytest

from tests.hosts.containers import Host
from tests.hosts.remote_target import LOCKED, SLEEPING, RemoteTarget, RunningInvoke
from tests.requirements import IS_LONG
from tests.support.invoke import PARTS
from tests.support.waiting import until

CUTS: dict[str, tuple[Callable[[Host], None], Callable[[Host], None]]] = {
    "sshd was killed": (Host.kill_sessions, Host.mend),
    "the cable was pulled": (Host.cut, Host.mend),
    "the host's sshd is frozen": (Host.freeze_sessions, Host.thaw_sessions),
}


@pytest.mark.parametrize("how", CUTS)
def test_a_run_that_loses_its_connection_continues_and_is_followed_again(
    remote: RemoteTarget, start_invoke: Callable[..., RunningInvoke], how: str
) -> None:
    """The same process follows over a new connection and reports each event once."""
    cut, mend = CUTS[how]
    remote.describe(ssh_silence=4)
    remote.sql(m002_slow="create table a (); select pg_sleep(8)", m003_last="create table b ()")
    running = start_invoke("migrate")
    until(lambda: remote.rows(SLEEPING) == ["1"], 30)
    cut(remote.host)
    time.sleep(1)
    if how == "sshd was killed":
        assert "sshd: deploy" not in remote.host.processes()
    time.sleep(4)
    mend(remote.host)
    done = running.ended()
    assert done.status == 0, done.stderr
    for name in ("001_initial_schema", "002_slow", "003_last"):
        assert done.stderr.count(f"applied {name},") == 1
    assert remote.rows("SELECT count(*), count(DISTINCT run_id) FROM ratchet.migrations") == ["3|1"]


def test_a_cut_at_any_time_leaves_nothing_half_done(
    remote: RemoteTarget, start_invoke: Callable[..., RunningInvoke]
) -> None:
    """Before, during and after every step. A step that has begun ends, and the next run continues from there."""
    applied = "SELECT count(*) FROM ratchet.migrations"
    moments: list[tuple[str, Callable[[int], bool]]] = [
        ("connecting", lambda _: "sshd: deploy" in remote.host.processes()),
        ("locked", lambda _: remote.rows(LOCKED) == ["1"]),
        ("applying", lambda _: remote.rows(SLEEPING) == ["1"]),
        ("applied", lambda count: remote.rows(applied) == [str(count + 1)]),
    ]
    remote.describe(ssh_patience=8)
    remote("migrate")
    rounds = 4 if IS_LONG else 1
    for number, (moment, reached) in enumerate(rounds * moments):
        count = int(remote.rows(applied)[0])
        remote.sql(**{f"m{number + 100}_step": f"create table step_{number} (); select pg_sleep(1)"})
        running = start_invoke("migrate")
        until(partial(reached, count), 30)
        remote.host.kill_sessions()
        done = running.ended()
        assert done.status in (0, 7, 9, 10), (moment, done.stderr)
        until(lambda: remote.rows(LOCKED) == ["0"], 20)
        state = {each["name"]: each["status"] for each in remote("status", "--json").json["migrations"]}
        if done.status == 0 or moment != "connecting":
            assert set(state.values()) == {"applied"}, moment
    remote("migrate")
    counted = "count(*), count(DISTINCT name), count(executed_at)"
    total = 1 + rounds * len(moments)
    assert remote.rows(f"SELECT {counted} FROM ratchet.migrations") == [f"{total}|{total}|{total}"]


@pytest.mark.parametrize("how", CUTS)
def test_a_lasting_cut_ends_the_client_and_attach_shows_the_result(
    remote: RemoteTarget, start_invoke: Callable[..., RunningInvoke], how: str
) -> None:
    """The client gives up after `ssh_patience`, with the exit code of an unknown outcome."""
    cut, mend = CUTS[how]
    remote.describe(ssh_patience=2, ssh_timeout=2, ssh_silence=4)
    remote.sql(m002_slow="create table a (); select pg_sleep(9)")
    running = start_invoke("migrate")
    until(lambda: remote.rows(SLEEPING) == ["1"], 30)
    if how == "sshd was killed":
        remote.host.cut()
    cut(remote.host)
    done = running.ended(25)
    assert done.status == 7, done.stderr
    assert "may continue there" in done.stderr
    assert re.search("`invoke attach --env=far --run=[0-9a-f]{12}`", done.stderr)
    assert PARTS.search(done.stderr)
    assert remote.rows(SLEEPING) == ["1"], "it goes on"
    mend(remote.host)
    attached = remote("attach")
    assert "applied 002_slow" in attached.stderr
    assert "is done, 2 migrations applied" in attached.stdout
    assert remote("status", "--json").json["pending"] == 0


def test_killing_the_client_does_not_end_the_run(
    remote: RemoteTarget, start_invoke: Callable[..., RunningInvoke]
) -> None:
    remote.sql(m002_slow="create table a (); select pg_sleep(5)", m003_wrong="select emial")
    running = start_invoke("migrate")
    until(lambda: remote.rows(SLEEPING) == ["1"], 30)
    running.process.kill()
    assert remote("runs", "--json").json["runs"][0]["state"] == "running"
    attached = remote("attach", status=5)
    assert "applied 002_slow" in attached.stderr
    assert "003_wrong.sql:1:8" in attached.stderr
    assert remote("runs", "--json").json["runs"][0]["status"] == "5"


def test_a_run_killed_on_the_host_is_resolved_from_the_history(
    remote: RemoteTarget, start_invoke: Callable[..., RunningInvoke]
) -> None:
    remote.sql(m002_done="create table a ()", m003_slow="create table b (); select pg_sleep(60)")
    remote.describe(migration_batch_size=1)
    running = start_invoke("migrate")
    until(lambda: remote.rows(SLEEPING) == ["1"], 30)
    run_id = remote("runs", "--json").json["runs"][0]["run_id"]
    remote.host.run(f"kill -9 $(cat /home/deploy/.pgratchet/runs/{run_id}/pid)")
    done = running.ended()
    assert done.status == 5
    assert "on db1 ended without a result" in done.stderr
    assert "The history shows: 001_initial_schema and 002_done were applied." in done.stderr
    assert remote.rows(LOCKED) == ["0"]
    assert remote.rows("SELECT to_regclass('b')") == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_client_ends_the_run_on_the_host(
    remote: RemoteTarget, start_invoke: Callable[..., RunningInvoke], number: signal.Signals, status: int
) -> None:
    """The statement is cancelled and the lock released."""
    remote.sql(m002_slow="create table a (); select pg_sleep(60)")
    running = start_invoke("migrate")
    until(lambda: remote.rows(SLEEPING) == ["1"], 30)
    running.process.send_signal(number)
    done = running.ended()
    assert done.status == status, done.stderr
    assert "001_initial_schema was applied and stays." in done.stderr
    assert remote.rows(SLEEPING) == ["0"]
    assert remote.rows(LOCKED) == ["0"]


def test_closing_the_terminal_does_not_end_the_run(
    remote: RemoteTarget, start_invoke: Callable[..., RunningInvoke]
) -> None:
    remote.sql(m002_slow="create table a (); select pg_sleep(4)")
    running = start_invoke("migrate")
    until(lambda: remote.rows(SLEEPING) == ["1"], 30)
    running.process.send_signal(signal.SIGHUP)
    assert running.ended().status == 129
    assert "is done, 2 migrations applied" in remote("attach").stdout


def test_a_signal_to_attach_stops_only_the_following(
    remote: RemoteTarget, start_invoke: Callable[..., RunningInvoke]
) -> None:
    remote.sql(m002_slow="create table a (); select pg_sleep(6)")
    running = start_invoke("migrate")
    until(lambda: remote.rows(SLEEPING) == ["1"], 30)
    following = start_invoke("attach")
    time.sleep(2.5)
    following.process.send_signal(signal.SIGINT)
    done = following.ended()
    assert done.status == 130
    assert "continues on db1" in done.stderr
    assert running.ended().status == 0


def test_cancel_ends_a_run(remote: RemoteTarget, start_invoke: Callable[..., RunningInvoke]) -> None:
    remote.sql(m002_slow="create table a (); select pg_sleep(60)")
    running = start_invoke("migrate")
    until(lambda: remote.rows(SLEEPING) == ["1"], 30)
    assert "is being cancelled" in remote("cancel").stdout
    assert running.ended().status == 143
    assert remote.rows(SLEEPING) == ["0"]
    assert "has already finished" in remote("cancel").stdout
