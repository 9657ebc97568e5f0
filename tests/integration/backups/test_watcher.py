"""Programs end when the process that started them is killed, and their sessions on the server with them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing

import psutil
import pytest

from pgratchet.backups.pg_programs import Programs
from tests import ROOT
from tests.integration.backups.helpers import restore_server_of
from tests.servers.databases import Database
from tests.support.waiting import until

START = """
import os, sys, threading, time
from contextlib import ExitStack
from pgratchet.backups import external
from pgratchet.backups.processes import running
{start}
"""
PROGRAMS = {
    "a program that says nothing": "with running(['sleep', '77'], os.environ): time.sleep(77)",
    "a program that reads": "with running(['cat'], os.environ, has_input=True): time.sleep(77)",
    "two programs, and one that has ended": "with ExitStack() as stack:\n"
    "    with running(['true'], os.environ): pass\n"
    "    for _ in range(2): stack.enter_context(running(['sleep', '77'], os.environ))\n"
    "    time.sleep(77)",
    "a program of a thread that has ended": "started = running(['sleep', '77'], os.environ)\n"
    "thread = threading.Thread(target=started.__enter__); thread.start(); thread.join(); time.sleep(77)",
    "a backup command with children": "list(external.run_command(['sh', '-c', 'sleep 77 & sleep 77'], os.environ, 1))",
}


def start(text: str, environ: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", START.format(start=text)]
    return subprocess.Popen(command, env={**(environ or os.environ), "PYTHONPATH": str(ROOT / "ops")})


def _arguments(pid: int) -> list[str]:
    """The command line of a process; empty when it has ended."""
    try:
        return list(map(str, psutil.Process(pid).cmdline()))
    except psutil.NoSuchProcess:
        return []


def are_gone(pids: list[int]) -> bool:
    return all(not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie" for pid in pids)


@pytest.mark.parametrize("text", PROGRAMS.values(), ids=PROGRAMS)
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGSEGV])
def test_programs_end_with_a_killed_process(text: str, kill: signal.Signals) -> None:
    with start(text) as process:
        pids: list[int] = []

        def have_started() -> bool:
            pids[:] = [each.pid for each in psutil.Process(process.pid).children(recursive=True)]
            sleeping = [pid for pid in pids if "77" in _arguments(pid)[-1:] or "cat" in text]
            return len(sleeping) >= (2 if "two" in text or "range(2)" in text or "sleep 77 &" in text else 1)

        try:
            until(have_started)
            time.sleep(0.5)  # the watcher is told of a program right after its start
        finally:
            process.send_signal(kill)
        process.wait()
    until(lambda: are_gone(pids), 5)


def test_a_session_of_a_killed_dump_ends(migrated: Database, programs: Programs) -> None:
    """pg_dump waits for a lock, so it would not notice that nobody reads its output."""
    migrated.run("CREATE TABLE waited_for ()")
    dump = [programs.path("pg_dump"), "--format=custom", f"--dbname={migrated.name}"]
    sessions = f"SELECT pid FROM pg_stat_activity WHERE application_name = 'pg_dump' AND datname = '{migrated.name}'"
    with (
        restore_server_of(migrated).client_environment() as environ,
        closing(migrated.connect()) as holder,
        holder.transaction(),
    ):
        holder.execute("LOCK TABLE waited_for")
        with start(f"with running({dump!r}, os.environ): time.sleep(77)", environ) as process:
            try:
                until(lambda: migrated.rows(f"{sessions} AND wait_event_type = 'Lock'"))
                time.sleep(0.5)
            finally:
                process.kill()
        until(lambda: migrated.rows(sessions) == [], 5)


def test_a_program_that_ended_is_forgotten() -> None:
    """Its process id may belong to another program, which must not be ended."""
    text = (
        "with running(['sleep', '0'], os.environ) as program:\n    for _ in program.wait(): pass\nos.write(1, b'done')"
    )
    process = subprocess.run(
        [sys.executable, "-c", START.format(start=text)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "ops")},
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert (process.stdout, process.stderr) == (b"done", b"")
