"""Backups by another tool: a command that prints the id and the time of its backup."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pgratchet import events
from pgratchet.backups import external
from pgratchet.backups.disk_store import DiskStore
from pgratchet.errors import BackupFailed
from pgratchet.operations.backups import take_backup
from pgratchet.operations.base import Machine
from tests.servers.databases import Database
from tests.support.waiting import until


def write_command(path: Path, script: str) -> list[str]:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return [str(path)]


NOW = "20261124-101500F $(date -u +%Y-%m-%dT%H:%M:%SZ)"


@pytest.mark.parametrize(
    ("script", "last_event"),
    [
        ("echo disk on fire >&2; exit 3", "disk on fire\nIt ended with status 3."),
        ("echo done", "Its last line must be"),
        ("", "Its last line must be"),
        ("echo old 2020-01-01T00:00:00Z", "may be 3600 s old at most"),
        ("echo nozone 2026-11-24T10:15:00", "Its last line must be"),
        ("echo future 2099-01-01T00:00:00Z", "dated in the future"),
    ],
)
def test_another_tool_must_name_a_fresh_backup(tmp_path: Path, script: str, last_event: str) -> None:
    command = write_command(tmp_path / "tool", script)
    with pytest.raises(BackupFailed, match="did not give a fresh backup") as caught:
        list(external.run_command(command, os.environ, 3600))
    assert last_event in caught.value.detail
    with pytest.raises(BackupFailed, match="did not give a fresh backup"):
        list(external.run_command([str(tmp_path / "none")], os.environ, 3600))


def test_another_tool_replaces_pg_dump(migrated: Database, disk_store: DiskStore, tmp_path: Path) -> None:
    from tests.support.targets import target_of

    tool = write_command(tmp_path / "tool", f'echo "$PGSERVICE of $PGRATCHET_ENV" > {tmp_path}/said; echo {NOW}')
    target = target_of(migrated, backup_command=tool)
    with target.connected() as connection:
        (event,) = take_backup(target, Machine(tmp_path), connection)
    assert isinstance(event, events.BackupTaken)
    assert event.backup_id == "20261124-101500F"
    assert (tmp_path / "said").read_text() == "target of env\n"
    assert disk_store.ids() == []


ENDLESS = "sleep 100 & echo $! > {pid}; wait"
STUBBORN = "trap '' TERM; sleep 100 & echo $! > {pid}; while :; do wait; sleep 0.1; done"


def is_alive(pid_file: Path) -> bool:
    try:
        os.kill(int(pid_file.read_text()), 0)
    except (OSError, ValueError):
        return False
    return True


@pytest.mark.parametrize("script", [ENDLESS, STUBBORN])
def test_a_command_that_does_not_end_is_ended_with_everything_it_started(
    tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external, "_GRACE", 0.3)
    pid = tmp_path / "pid"
    command = write_command(tmp_path / "tool", "echo a reason >&2; " + script.format(pid=pid))
    started = time.monotonic()
    with pytest.raises(BackupFailed, match="did not give a fresh backup") as caught:
        list(external.run_command(command, os.environ, 3600, 1))
    assert caught.value.detail.splitlines() == [
        "a reason",
        "It was still running after 1.0 s, the backup_command_timeout, and was ended.",
    ]
    assert time.monotonic() - started < 5
    until(lambda: not is_alive(pid))


@pytest.mark.parametrize("script", [ENDLESS, STUBBORN])
def test_an_interrupt_ends_everything_that_the_command_started(
    tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external, "_GRACE", 0.3)
    pid = tmp_path / "pid"
    command = write_command(tmp_path / "tool", script.format(pid=pid))

    def interrupt() -> None:
        until(lambda: is_alive(pid))
        os.kill(os.getpid(), signal.SIGINT)

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            list(external.run_command(command, os.environ, 3600, 60))
    finally:
        thread.join()
        signal.signal(signal.SIGINT, previous)
    until(lambda: not is_alive(pid))


def test_output_without_an_end_and_a_process_left_behind_do_not_stop_a_good_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external, "_GRACE", 0.3)
    pid = tmp_path / "pid"
    command = write_command(tmp_path / "tool", f"sleep 100 & echo $! > {pid}; yes | head -c 500000; echo {NOW}")
    (event,) = external.run_command(command, os.environ, 3600, 20)
    assert isinstance(event, events.BackupTaken)
    assert event.backup_id == "20261124-101500F"
    os.kill(int(pid.read_text()), signal.SIGKILL)


@pytest.mark.parametrize(
    "written",
    [r"\033[2J\033[31mred\033[0m", r"\033]0;title\007red", r"r\be\177d", r"r\302\233ed", r"\033]52;c;eA==\033\\red"],
)
def test_what_a_terminal_would_obey_is_removed_from_the_output(tmp_path: Path, written: str) -> None:
    command = write_command(tmp_path / "tool", f"printf '{written}\\n' >&2; exit 3")
    with pytest.raises(BackupFailed) as caught:
        list(external.run_command(command, os.environ, 3600))
    assert caught.value.detail == "red\nIt ended with status 3."
    command = write_command(tmp_path / "tool", f"printf '{written} '; date -u +%Y-%m-%dT%H:%M:%SZ")
    (event,) = external.run_command(command, os.environ, 3600)
    assert isinstance(event, events.BackupTaken)
    assert event.backup_id == "red"
