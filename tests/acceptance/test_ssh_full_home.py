"""A host whose home is full or read-only: a run that cannot begin is an error at once; one that has begun continues."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.faults.small_disk import small_disk
from tests.hosts.local_target import LocalTarget
from tests.hosts.remote_target import SLEEPING
from tests.support.invoke import PARTS
from tests.support.waiting import until

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)
"""The faults are those of the host."""

FAULTS = {"full": "No space left", "read-only": "Read-only"}
"""The state of the disk, and the words of the system."""
SECONDS = 25
"""Less than `ssh_patience`."""


@pytest.fixture
def disk(near: LocalTarget, tmp_path: Path) -> Iterator[Path]:
    """A small disk on which the host keeps what it has in the user's home."""
    with small_disk(tmp_path / "disk", "16M") as folder:
        (near.home / ".pgratchet").symlink_to(folder)
        yield folder


@contextmanager
def broken(disk: Path, fault: str) -> Iterator[None]:
    """The disk in that state."""
    if fault == "full":
        fill(disk)
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        (disk / "filler").unlink(missing_ok=True)


def fill(disk: Path) -> None:
    """Leave no space for a single file."""
    with (disk / "filler").open("wb", buffering=0) as filler:
        for size in (65_536, 4096, 1):
            with suppress(OSError):
                while filler.write(bytes(size)) == size:
                    pass
    assert shutil.disk_usage(disk).free == 0


@pytest.mark.parametrize("arguments", [("migrate",), ("backup",), ("restore", "--yes")], ids=lambda each: str(each[0]))
def test_a_run_that_cannot_begin_is_an_error_at_once(near: LocalTarget, disk: Path, arguments: tuple[str, ...]) -> None:
    near("migrate")
    near.sql(m002_next="create table next_one ()")
    if arguments[0] == "restore":
        arguments = (*arguments, f"--backup={near.backups().pop()}")
    before, runs = near.database.fingerprint(), near("runs", "--json").json["runs"]
    for fault, reason in FAULTS.items():
        with broken(disk, fault):
            started = time.monotonic()
            done = near(*arguments, status=2)
            assert time.monotonic() - started < SECONDS
            assert PARTS.search(done.stderr)
            assert reason in done.stderr
            assert "nothing was changed" in done.stderr
            assert near.database.fingerprint() == before
            assert near("runs", "--json").json["runs"] == runs
            assert near("status", "--json").json["pending"] == 1, "reading writes nothing on the host"
    near(*arguments)


def test_a_backup_that_cannot_be_copied_to_the_host_is_an_error_at_once(near: LocalTarget, disk: Path) -> None:
    near.describe(backup_at="here")
    near("migrate")
    backup_id, before = near.backups().pop(), near.database.fingerprint()
    for fault, reason in FAULTS.items():
        with broken(disk, fault):
            done = near("restore", "--yes", f"--backup={backup_id}", status=10)
        assert "could not be transferred" in done.stderr
        assert reason in done.stderr
        assert near.database.fingerprint() == before
    near("restore", "--yes", f"--backup={backup_id}")


def test_a_bundle_that_cannot_be_installed_is_an_error_at_once(near: LocalTarget, disk: Path) -> None:
    before = near.database.fingerprint()
    for fault, reason in FAULTS.items():
        with broken(disk, fault):
            started = time.monotonic()
            done = near("migrate", status=2)
            assert time.monotonic() - started < SECONDS
        assert "pgratchet cannot be installed on 127.0.0.1" in done.stderr
        assert reason in done.stderr
        assert near.database.fingerprint() == before
    near("migrate")
    assert not list(disk.glob("bundles/.*")), "nothing half installed is left"


@pytest.mark.parametrize(("number", "silence"), [(signal.SIGTERM, 2), (signal.SIGINT, 8)])
def test_the_first_signal_ends_a_client_whose_run_has_not_begun(
    near: LocalTarget, disk: Path, number: signal.Signals, silence: int
) -> None:
    """The host accepts the request and does not answer; it says later that the run was not begun."""
    near("status")
    python = near.home / "slow_python"
    python.write_text(f'#!/bin/sh\ncase "$*" in *" run") touch {near.home}/asked; sleep 3;; esac\nexec python3 "$@"\n')
    python.chmod(0o755)
    near.describe(ssh_python=str(python), ssh_silence=silence)
    before = near.database.fingerprint()
    running = near.start("migrate")
    until((near.home / "asked").exists, 20)
    running.process.send_signal(number)
    done = running.ended(SECONDS)
    assert done.status == 128 + number, done.stderr
    assert PARTS.search(done.stderr)
    time.sleep(3)
    assert near.database.fingerprint() == before
    assert near("runs", "--json").json["runs"] == []


def test_a_disk_that_becomes_full_does_not_stop_a_run(near: LocalTarget, disk: Path) -> None:
    """The result is recorded in the space that was kept for it."""
    near.describe(backup_at="here")
    near.sql(m002_slow="create table a (); select pg_sleep(4)", m003_last="create table b ()")
    running = near.start("migrate")
    until(lambda: near.database.rows(SLEEPING) == [(1,)], 30)
    fill(disk)
    done = running.ended()
    assert done.status == 0, done.stderr
    assert len(near.applied()) == 3
    (run,) = near("runs", "--json").json["runs"]
    assert (run["state"], run["status"]) == ("ended", "0")


def test_attach_is_told_which_run_was_lost(near: LocalTarget) -> None:
    """A hint without an id would lead to the newest run, which may be an older one."""
    near.describe(ssh_patience=0)
    near("migrate")
    near.sql(m002_slow="create table a (); select pg_sleep(5)")
    running = near.start("migrate")
    until(lambda: near.database.rows(SLEEPING) == [(1,)], 30)
    assert near.sshd.process is not None
    near.sshd.process.send_signal(signal.SIGSTOP)
    near.sshd.kill_sessions()
    done = running.ended()
    near.sshd.process.send_signal(signal.SIGCONT)
    assert done.status == 7
    hint = re.search("`invoke (attach --env=near --run=[0-9a-f]{12})`", done.stderr)
    assert hint
    assert "applied 002_slow" in near(*hint[1].split()[:1], hint[1].split()[-1]).stderr
