"""Checks this machine for a backup's needs: client programs and free space."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pgratchet.backups.pg_programs import is_older
from pgratchet.backups.size_estimate import SizeEstimate
from pgratchet.checks.findings import Finding
from pgratchet.formatting import format_size


def check_programs(version: str, folder: Path, server_version: int, *, tls: bool, packaged: Path | None) -> Finding:
    """Name the pg_dump chosen for a server, and the reason.

    `server_version` is server_version_num. `packaged` is the folder of the bundled programs, None without them.
    """
    major, (server_major, server_minor) = int(version.partition(".")[0]), divmod(server_version, 10000)
    if is_older(version, server_version):
        what = f"{version} in {folder} is older than the server's {server_major}.{server_minor}"
        remedy = (
            f"Update PostgreSQL's client programs, such as postgresql-client-{server_major}: minor versions fix bugs."
        )
        return Finding("warning", "pg_dump", what, remedy)
    if major == server_major:
        why = "the server's major version"
    else:
        why = f"the nearest version that is not older than the server's {server_major}.{server_minor}"
    if folder == packaged:
        why += "; the bundled one, which has no TLS and is used because the connection is not encrypted"
    elif tls:
        why += "; the bundled one is not used: the connection is encrypted, and it has no TLS"
    return Finding("ok", "pg_dump", f"{version} in {folder}: {why}")


def check_free_space(location: str, free: int | None, estimate: SizeEstimate) -> Finding:
    """Check the free space for a backup in bytes; `free` is None for an object store."""
    if free is None:
        return Finding("ok", "room", f"backups go to {location}, whose space is not limited")
    expected, highest = format_size(estimate.expected), format_size(estimate.highest)
    what = f"{format_size(free)} free in {location}; a backup is estimated at {expected}, and at most {highest}"
    if free >= estimate.highest:
        return Finding("ok", "room", what)
    remedy = "Free space there, or set backup_dir or a retention in the inventory."
    return Finding("problem" if free < estimate.lowest else "warning", "room", what, remedy)


def check_backup_folder(folder: Path) -> Iterator[Finding]:
    """Check for write permission in the folder of backups, or in its closest existing parent."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        remedy = "Give this user write permission, or set backup_dir in the inventory."
        yield Finding("problem", "room", f"backups go to {folder}, and this user cannot write to {existing}", remedy)
