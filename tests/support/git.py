"""A git repository with migrations."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.requirements import require


def git(folder: Path, *arguments: str) -> None:
    own = ("-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "commit.gpgsign=false")
    subprocess.run([require("git"), "-C", str(folder), *own, *arguments], check=True, capture_output=True)


def commit(folder: Path) -> None:
    git(folder, "add", "-A", "..")
    git(folder, "commit", "-q", "-m", "x")
