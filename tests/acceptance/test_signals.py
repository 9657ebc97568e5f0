"""Signals to `invoke migrate`: the statement ends, the lock is free, the history is true, and the next run goes on."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import COMMAND, Done, environment
from tests.conftest import Database

INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
STATUS = {INT: 130, TERM: 143, HUP: 129}
SLEEP = "create table slow (); select pg_sleep(20);"
BUILD = "-- migrate: no-transaction\ncreate table if not exists built (x int);\ncreate index concurrently i on t (x);\n"
OURS = "FROM pg_stat_activity WHERE application_name = 'pgratchet' AND pid <> pg_backend_pid()"


class Running:
    """A run as a process of its own, with its stdin at /dev/null or closed."""

    def __init__(self, clone: Path, database: Database, *, stdin_closed: bool = False) -> None:
        command = [*COMMAND, "migrate", "--json"]
        if stdin_closed:
            command = ["sh", "-c", 'exec "$@" <&-', "sh", *command]
        self.process = subprocess.Popen(
            command,
            cwd=clone,
            env=environment({"DATABASE_URL": database.url}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def send(self, number: signal.Signals, times: int) -> None:
        self.process.send_signal(number)
        for _ in range(times - 1):
            time.sleep(0.2)
            if self.process.poll() is None:
                self.process.send_signal(number)

    def ended(self) -> Done:
        stdout, stderr = self.process.communicate(timeout=15)
        return Done(self.process.returncode, stdout, stderr)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def ready(clone: Path, database: Database) -> Iterator[list[Running]]:
    """A database with a table and the seed's migration behind it; the runs of the test are ended with it."""
    runs: list[Running] = []
    database.run("CREATE TABLE t (x int)")
    yield runs
    for each in runs:
        each.kill()
