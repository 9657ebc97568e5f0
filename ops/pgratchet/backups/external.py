"""Runs another backup tool, the inventory's `backup_command`, and checks the reported backup.

The command runs in a process group of its own, which is ended as a whole: at the timeout, at Ctrl-C, and when this
process is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import IO

from pgratchet import events
from pgratchet.backups import watcher
from pgratchet.backups.watcher import watched
from pgratchet.errors import BackupFailed
from pgratchet.formatting import elapsed_ms, format_duration, printable

_GRACE = 5
"""Seconds for a command to end after SIGTERM, and for its output to end after it."""
_CLOCK_SKEW = 60
"""Seconds that the clock of the tool's machine may be ahead."""
_KEPT = 65_536
"""Bytes at the end of the output that are kept: a command may write without an end."""


def run_command(command: Sequence[str], environ: Mapping[str, str], max_age: int, timeout: int = 3600) -> events.Stream:
    """Run the command and report the backup as BackupTaken.

    The last line of the command's output is the backup's name and time, in ISO 8601 with a time zone. Raises
    BackupFailed when the command fails or runs for longer than `timeout` seconds, and when the backup is older than
    `max_age` seconds.
    """
    started = time.monotonic()
    name, moment = _parse_output(command[0], _output(command, environ, timeout))
    age = (datetime.now(timezone.utc) - moment).total_seconds()
    if age < -_CLOCK_SKEW:
        raise _failure(command[0], f"Backup {name} is dated in the future, {moment.isoformat()}: a clock is wrong.")
    if age > max_age:
        raise _failure(command[0], f"Backup {name} is of {moment.isoformat()}, and may be {max_age} s old at most.")
    yield events.BackupTaken(name, f"taken by {command[0]}", None, elapsed_ms(started, time.monotonic()))


def _output(command: Sequence[str], environ: Mapping[str, str], timeout: int) -> str:
    """The end of the command's standard output, without control characters."""
    watcher.prepare()
    try:
        process = subprocess.Popen(
            list(command),
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise _failure(command[0], f"It could not be started: {getattr(error, 'strerror', error)}.") from error
    with watched(process, is_group=True):
        output, errors = _Tail(process.stdout), _Tail(process.stderr)
        try:
            status = process.wait(timeout)
            output.wait(_GRACE)
            errors.wait(_GRACE)
        except subprocess.TimeoutExpired:
            _end_group(process)
            limit = format_duration(timeout * 1000)
            reason = f"It was still running after {limit}, the backup_command_timeout, and was ended."
            raise _failure(command[0], "\n".join([*errors.last_lines(), reason])) from None
        except BaseException:
            _end_group(process)
            raise
    if status != 0:
        raise _failure(command[0], "\n".join([*errors.last_lines(), f"It ended with status {status}."]))
    return output.text()


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the command and everything that it started, also what ignores SIGTERM or outlives the command."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _Tail:
    """The end of a pipe's content, read in a thread. A process that the command left behind may keep the pipe open."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        assert pipe is not None
        self._pipe, self._content = pipe, b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._pipe:
            while chunk := os.read(self._pipe.fileno(), _KEPT):
                self._content = (self._content + chunk)[-_KEPT:]

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)

    def text(self) -> str:
        return printable(self._content.decode(errors="replace"))

    def last_lines(self) -> list[str]:
        return self.text().strip().splitlines()[-10:]


def _parse_output(program: str, output: str) -> tuple[str, datetime]:
    words = output.strip().splitlines()[-1].split() if output.strip() else []
    try:
        name, text = words
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        if moment.tzinfo is None:
            raise ValueError
    except ValueError:
        reason = "Its last line must be the backup's name and time, such as 20261124-101500F 2026-11-24T10:15:00Z."
        raise _failure(program, reason) from None
    return name, moment


def kept_by_command(program: str) -> str:
    """Say where the backups of an environment with a `backup_command` are."""
    return f"The inventory's backup_command, {program}, keeps the backups."


def _failure(program: str, detail: str) -> BackupFailed:
    return BackupFailed(
        f"the backup command {program} did not give a fresh backup",
        detail=detail,
        hint="Run the inventory's backup_command by hand to find the cause. Without a backup, no migration runs.",
    )
