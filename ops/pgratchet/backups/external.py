"""Runs another backup tool, the inventory's `backup_command`, and checks the reported backup."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from pgratchet import events
from pgratchet.errors import BackupFailed
from pgratchet.formatting import elapsed_ms


def run_command(command: Sequence[str], environ: Mapping[str, str], max_age: int) -> events.Stream:
    """Run the command and report the backup as BackupTaken.

    The last line of the command's output is the backup's name and time, in ISO 8601 with a time zone. Raises
    BackupFailed when the command fails, and when the backup is older than `max_age` seconds.
    """
    started = time.monotonic()
    name, moment = _parse_output(command[0], _output(command, environ))
    age = (datetime.now(timezone.utc) - moment).total_seconds()
    if not -60 <= age <= max_age:
        raise _failure(command[0], f"Backup {name} is of {moment.isoformat()}, and may be {max_age} s old at most.")
    yield events.BackupTaken(name, f"taken by {command[0]}", None, elapsed_ms(started, time.monotonic()))


def _output(command: Sequence[str], environ: Mapping[str, str]) -> str:
    try:
        process = subprocess.run(
            list(command),
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
            errors="replace",
        )
    except (OSError, ValueError) as error:
        raise _failure(command[0], f"It could not be started: {getattr(error, 'strerror', error)}.") from error
    if process.returncode != 0:
        last_lines = process.stderr.strip().splitlines()[-10:]
        raise _failure(command[0], "\n".join([*last_lines, f"It ended with status {process.returncode}."]))
    return process.stdout


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


def _failure(program: str, detail: str) -> BackupFailed:
    return BackupFailed(
        f"the backup command {program} gave no fresh backup",
        detail=detail,
        hint="Run the backup_command of the inventory by hand; no migration runs without a good backup.",
    )
