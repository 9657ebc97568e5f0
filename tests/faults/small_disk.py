"""A disk that is full after a few kilobytes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.requirements import require, skip_without


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    require("root")
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        skip_without("a small tmpfs", "allow mount (CAP_SYS_ADMIN)", mounted.stderr.decode())
    try:
        yield folder
    finally:
        # A process of the host may still end; the mount then goes with it.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
