"""Reads the backups that are kept on a host, as a store. They are written and deleted only on the host itself.

The list is fetched once, on first use, so listing many backups costs one request.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from pgratchet.backups import manifest
from pgratchet.backups.store import Draft, FileStat
from pgratchet.errors import BackupFailed
from pgratchet.operations.backups import BackupListing, ListBackups, WriteNote
from pgratchet.remote import client

if TYPE_CHECKING:
    from pgratchet.database.target import TargetStorage


class HostStore:
    """The backups of one target on its host."""

    def __init__(self, target: TargetStorage) -> None:
        self._target = target
        self._connection = client.connection_of(target)
        self._cached: BackupListing | None = None

    @property
    def location(self) -> str:
        return f"{self._connection.route.host}:{self._listing().where}"

    @property
    def renames_drafts(self) -> bool:
        return True

    def ids(self) -> list[str]:
        return sorted(self._listing().backups, reverse=True)

    def stat(self, backup_id: str, name: str) -> FileStat | None:
        files = self._listing().backups.get(backup_id)
        size, stamp = (files.files.get(name) if files else None) or ("", "")
        return FileStat(int(size), stamp) if size else None

    def read(self, backup_id: str, name: str) -> Iterator[bytes]:
        files = self._listing().backups.get(backup_id)
        if name == manifest.NAME and files and files.manifest is not None:
            return iter((files.manifest.encode(),))
        return self._connection.read(f"{self._listing().where}/{backup_id}/{name}")

    def folder(self, backup_id: str) -> Path | None:  # noqa: ARG002  it is none of this machine's
        return None

    def notes(self) -> Iterator[bytes]:
        return (note.encode() for note in self._listing().notes)

    def note(self, name: str, text: bytes) -> None:
        client.ask(self._target, WriteNote(name, text.decode()))

    def free_space(self) -> int | None:
        return None

    def draft(self, backup_id: str) -> AbstractContextManager[Draft]:
        raise self._not_from_here(backup_id)

    def remove(self, backup_id: str) -> None:
        raise self._not_from_here(backup_id)

    def removal(self, backup_id: str) -> str:
        path = f"{self._listing().where}/{backup_id}"
        return shlex.join(["ssh", self._connection.route.host, shlex.join(["rm", "-r", path])])

    def _not_from_here(self, backup_id: str) -> BackupFailed:
        return BackupFailed(
            f"backup {backup_id} is kept on {self._connection.route.host}",
            detail="Only tasks that run on the host write and delete its backups.",
            hint="Use `invoke backup`, which takes a backup on the host.",
        )

    def _listing(self) -> BackupListing:
        if self._cached is None:
            self._cached = client.ask(self._target, ListBackups())
        return self._cached
