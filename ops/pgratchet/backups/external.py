"""Runs another backup tool (`backup_command`) and checks what it reports."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from pgratchet import events
from pgratchet.errors import BackupFailed
from pgratchet.formatting import milliseconds

if TYPE_CHECKING:
    pass


def external(command: Sequence[str], environ: Mapping[str, str], max_age: int) -> Generator[events.Event, None, str]:
    """Let another tool take the backup, and believe it only where it names a fresh one; returns its name.

    The last line that the command prints is the backup's name and the time it was taken, in ISO 8601 with a zone.
    `max_age` in seconds.
    """
    started = time.monotonic()
    try:
        done = subprocess.run(
            list(command),
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
            errors="replace",
        )
    except (OSError, ValueError) as error:
        raise _refused(command[0], f"It could not be started: {getattr(error, 'strerror', error)}.") from error
    if done.returncode != 0:
        told = done.stderr.strip().splitlines()[-10:]
        raise _refused(command[0], "\n".join([*told, f"It ended with status {done.returncode}."]))
    name, moment = _named(command[0], done.stdout)
    age = (datetime.now(timezone.utc) - moment).total_seconds()
    if not -60 <= age <= max_age:
        raise _refused(command[0], f"Backup {name} is of {moment.isoformat()}, and may be {max_age} s old at most.")
    yield events.BackupTaken(name, f"taken by {command[0]}", None, milliseconds(started, time.monotonic()))
    return name


def _named(program: str, printed: str) -> tuple[str, datetime]:
    words = printed.strip().splitlines()[-1].split() if printed.strip() else []
    try:
        name, text = words
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        if moment.tzinfo is None:
            raise ValueError
    except ValueError:
        reason = "Its last line must be the backup's name and time, such as 20261124-101500F 2026-11-24T10:15:00Z."
        raise _refused(program, reason) from None
    return name, moment


def _refused(program: str, detail: str) -> BackupFailed:
    return BackupFailed(
        f"the backup command {program} gave no fresh backup",
        detail=detail,
        hint="Run the backup_command of the inventory by hand; no migration runs without a good backup.",
    )
