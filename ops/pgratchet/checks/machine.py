"""Checks this machine for a backup's needs: client programs and free space."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pgratchet.checks.doctor import Finding
from pgratchet.formatting import format_size


def check_programs(version: str, folder: Path, server_version: int, *, tls: bool, packaged: Path | None) -> Finding:
    """Name the pg_dump chosen for a server, and the reason.

    `server_version` is server_version_num. `packaged` is the folder of the bundled programs, None without them.
    """
    major, server_major = int(version.partition(".")[0]), server_version // 10000
    if major == server_major:
        why = "the server's own major"
    else:
        why = f"the nearest that is not older than the server's {server_major}"
    if folder == packaged:
        why += "; of the package, which has no TLS and is used where the line is not encrypted"
    elif tls:
        why += "; the line is encrypted, and the package's has no TLS"
    return Finding("ok", "pg_dump", f"{version} in {folder}: {why}")


def check_free_space(location: str, free: int | None, backup_size: int, database_size: int) -> Finding:
    """Check the free space for a backup. Sizes are bytes; `free` is None for an object store.

    `backup_size` is an estimate. A dump is compressed and has no indexes, so it is seldom as large as the database.
    """
    if free is None:
        return Finding("ok", "room", f"backups go to {location}, which has room without end")
    database, backup = format_size(database_size), format_size(backup_size)
    what = f"{format_size(free)} free in {location}; the database has {database}, a backup takes about {backup}"
    if free >= database_size:
        return Finding("ok", "room", what)
    remedy = "Make room there, or set backup_dir, or a retention, in the inventory."
    return Finding("problem" if free < backup_size else "warning", "room", what, remedy)


def check_backup_folder(folder: Path) -> Iterator[Finding]:
    """Check for write permission in the folder of backups, or in its closest existing parent."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        remedy = "Let this user write there, or set backup_dir in the inventory."
        yield Finding("problem", "room", f"backups go to {folder}, and {existing} cannot be written to", remedy)
