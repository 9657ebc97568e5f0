"""The backups that are kept on a host, seen from here: a store like any other.

Owns how they are listed and read over a line. What is there is asked once, when it is first needed, so that a list of
many backups costs no more than one of few. Refuses to write any: they are taken and deleted on the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from pgratchet.backups import manifest
from pgratchet.backups.store import Draft, FileStat
from pgratchet.errors import BackupFailed
from pgratchet.operations import operations
from pgratchet.remote import client

if TYPE_CHECKING:
    from pgratchet.database.target import Target


class HostStore:
    """The backups of one target on its host."""

    def __init__(self, given: Target) -> None:
        self._given = given
        self._line = client.connection_of(given)
        self._found: operations.BackupListing | None = None

    @property
    def where(self) -> str:
        return f"{self._line.way.host}:{self._listing().where}"

    def ids(self) -> list[str]:
        return sorted(self._listing().backups, reverse=True)

    def stat(self, backup_id: str, name: str) -> FileStat | None:
        found = self._listing().backups.get(backup_id)
        size, stamp = (found.files.get(name) if found else None) or ("", "")
        return FileStat(int(size), stamp) if size else None

    def read(self, backup_id: str, name: str) -> Iterator[bytes]:
        found = self._listing().backups.get(backup_id)
        if name == manifest.NAME and found and found.manifest is not None:
            return iter((found.manifest.encode(),))
        return self._line.read(f"{self._listing().where}/{backup_id}/{name}")

    def folder(self, backup_id: str) -> Path | None:  # noqa: ARG002  it is none of this machine's
        return None

    def notes(self) -> Iterator[bytes]:
        return (note.encode() for note in self._listing().notes)

    def note(self, name: str, text: bytes) -> None:
        client.done(self._given, operations.WriteNote(name, text.decode()), type(None))

    def room(self) -> int | None:
        return None

    def draft(self, backup_id: str) -> AbstractContextManager[Draft]:
        raise self._not_from_here(backup_id)

    def remove(self, backup_id: str) -> None:
        raise self._not_from_here(backup_id)

    def _not_from_here(self, backup_id: str) -> BackupFailed:
        return BackupFailed(
            f"backup {backup_id} is kept on {self._line.way.host}",
            detail="What is there is written and deleted there.",
            hint="Use `invoke backup`, which takes one on the host.",
        )

    def _listing(self) -> operations.BackupListing:
        if self._found is None:
            self._found = client.done(self._given, operations.ListBackups(), operations.BackupListing)
        return self._found
