"""Runs git. A failure is a value: a folder may be no repository, or git may not be installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

from pgratchet.database.target import program_environment


def run_git(folder: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """The result of a git command in a folder; an exit status of 1 when git cannot run."""
    command = ["git", "-C", str(folder), *arguments]
    environ = program_environment()
    try:
        return subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=60, env=environ)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, b"", str(error).encode())
