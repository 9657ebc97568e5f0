"""Defines stores of backups, and opens the store of a target: a folder on a disk or an object store.

A backup in a store is a name with files below. A backup is written as a draft and becomes a backup when the manifest is
written, the last file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pgratchet.backups import manifest

PARTIAL = ".partial"
"""The end of the names of drafts."""
NOTES = "drills"
"""The name below which notes are stored."""


@dataclass(frozen=True, slots=True)
class FileStat:
    """Size and modification stamp of a stored file.

    The stamp changes whenever the file is written: a modification time on a disk, an ETag in an object store.
    """

    size: int
    stamp: str


class Draft(Protocol):
    """A backup during writing. `folder` is the draft's own folder on a disk, or None in an object store."""

    folder: Path | None

    def write(self, name: str) -> AbstractContextManager[Callable[[bytes], object]]:
        """Create a file. The block gets a function to write chunks; the file is safe when the block ends."""

    def stat(self, name: str) -> FileStat: ...
    def read(self, name: str) -> Iterator[bytes]: ...
    def finish(self, name: str, text: bytes) -> None:
        """Write the manifest. The draft is then a backup."""


class Store(Protocol):
    """The backups of a target."""

    @property
    def location(self) -> str:
        """The store's folder or URL, for messages."""

    @property
    def renames_drafts(self) -> bool:
        """True if a draft has another name than its backup. If not, a backup without a manifest may be a draft."""

    def ids(self) -> list[str]:
        """List the names of backups and drafts, newest first. Names of drafts end in PARTIAL."""

    def draft(self, backup_id: str) -> AbstractContextManager[Draft]:
        """Begin a backup. The draft is deleted when the block fails."""

    def stat(self, backup_id: str, name: str) -> FileStat | None: ...
    def read(self, backup_id: str, name: str) -> Iterator[bytes]: ...
    def folder(self, backup_id: str) -> Path | None:
        """The folder with the backup's files, or None when they are not on this machine's disk."""

    def remove(self, backup_id: str) -> None: ...
    def removal(self, backup_id: str) -> str:
        """The command with which a person deletes a backup or draft."""

    def note(self, name: str, text: bytes) -> None:
        """Write a note beside the backups."""

    def notes(self) -> Iterator[bytes]:
        """Read all notes, sorted by name."""

    def free_space(self) -> int | None:
        """Free bytes, or None when the space is unlimited or unknown."""


def open_store(url: str, options: Mapping[str, str], folder: Path, environment: str, target: str) -> Store:
    """Open the store of a target: below the URL of an object store, or below the folder when the URL is empty."""
    if url:
        from pgratchet.backups.bucket_store import BucketStore

        return BucketStore(f"{url.rstrip('/')}/{environment}/{target}", dict(options))
    from pgratchet.backups.disk_store import DiskStore

    return DiskStore(folder / environment / target)


def is_backup_name(name: str) -> bool:
    """Tell backups and drafts from other names in a store."""
    return manifest.is_id(name) or name.endswith(PARTIAL)
