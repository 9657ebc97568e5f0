"""Where backups are kept: a folder on a disk, or a bucket of an object store.

Owns how a backup comes to be there whole or not at all, and what is there. Refuses to know what is in its files. A
backup is a name with files below it; it is written as a draft and becomes one when its manifest is written, last. On
a disk a draft is a folder that ends in .partial, every file is on the disk before that loses its ending, and so is
the folder above; in a bucket the manifest is what makes one, and a file that broke off is no object at all.

obstore, which speaks S3, Google's and Azure's protocols, is an extra, imported where a bucket is meant.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from pgratchet.backups import manifest
from pgratchet.errors import BackupFailed

if TYPE_CHECKING:
    pass

PARTIAL = ".partial"
NOTES = "drills"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class FileStat:
    """A file as it lies there. `stamp` is another when it was written again: a time on a disk, an ETag in a bucket."""

    size: int
    stamp: str


class Draft(Protocol):
    """A backup that is being written; it is gone again when its block fails. `folder` is its own on a disk."""

    folder: Path | None

    def write(self, name: str) -> AbstractContextManager[Callable[[bytes], object]]:
        """A new file; what its block is given to write is safe when the block ends."""

    def stat(self, name: str) -> FileStat: ...
    def read(self, name: str) -> Iterator[bytes]: ...
    def finish(self, name: str, text: bytes) -> None:
        """Write the last file, the one that makes it a backup."""


class Store(Protocol):
    """The backups of one target."""

    @property
    def where(self) -> str:
        """Where they are, for a sentence."""

    def ids(self) -> list[str]:
        """Every name there is, newest first, drafts among them with their ending."""

    def draft(self, backup_id: str) -> AbstractContextManager[Draft]: ...
    def stat(self, backup_id: str, name: str) -> FileStat | None: ...
    def read(self, backup_id: str, name: str) -> Iterator[bytes]: ...
    def folder(self, backup_id: str) -> Path | None:
        """Where its files can be opened by name; None where they cannot."""

    def remove(self, backup_id: str) -> None: ...
    def note(self, name: str, text: bytes) -> None:
        """Write something down beside the backups."""

    def notes(self) -> Iterator[bytes]:
        """All that was written down, in the order of its names."""

    def room(self) -> int | None:
        """Bytes that are free; None where that has no end."""


def open_store(url: str, options: Mapping[str, str], folder: Path, environment: str, target: str) -> Store:
    """The store of a target: below the URL where there is one, else below the folder."""
    from pgratchet.backups.bucket import Bucket

    if url:
        return Bucket(f"{url.rstrip('/')}/{environment}/{target}", dict(options))
    return DiskStore(folder / environment / target)


@dataclass(slots=True)
class DiskStore:
    """A folder. What the disk refuses is a BackupFailed that names it."""

    root: Path

    @property
    def where(self) -> str:
        return str(self.root)

    def ids(self) -> list[str]:
        if not self.root.is_dir():
            return []
        return sorted((path.name for path in self.root.iterdir() if _is_name(path.name)), reverse=True)

    def folder(self, backup_id: str) -> Path | None:
        return self.root / backup_id

    def stat(self, backup_id: str, name: str) -> FileStat | None:
        return _stat(self.root / backup_id / name)

    def read(self, backup_id: str, name: str) -> Iterator[bytes]:
        with _on_disk(self.root, "read from"):
            yield from _chunks(self.root / backup_id / name)

    def remove(self, backup_id: str) -> None:
        """The name goes first, so that what is half deleted is never taken for a backup."""
        doomed = self.root / f"{backup_id.removesuffix(PARTIAL)}.removed{PARTIAL}"
        with _on_disk(self.root, "deleted from"):
            (self.root / backup_id).rename(doomed)
            shutil.rmtree(doomed)

    def note(self, name: str, text: bytes) -> None:
        with _on_disk(self.root, "noted in"):
            (self.root / NOTES).mkdir(parents=True, exist_ok=True, mode=0o700)
            with (self.root / NOTES / name).open("xb") as file:
                file.write(text)
                _flush(file)

    def notes(self) -> Iterator[bytes]:
        with _on_disk(self.root, "read from"):
            for path in sorted((self.root / NOTES).glob("*.json")):
                yield path.read_bytes()

    def room(self) -> int | None:
        there = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        return shutil.disk_usage(there).free

    @contextmanager
    def draft(self, backup_id: str) -> Iterator[Draft]:
        partial = self.root / f"{backup_id}{PARTIAL}"
        with _on_disk(self.root, "written to"):
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial.mkdir(mode=0o700)
        try:
            with _on_disk(self.root, "written to"):
                yield _DiskDraft(partial)
                _sync(partial)
                partial.rename(self.root / backup_id)
                _sync(self.root)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@dataclass(slots=True)
class _DiskDraft:
    folder: Path | None

    @contextmanager
    def write(self, name: str) -> Iterator[Callable[[bytes], object]]:
        self._path(name).parent.mkdir(mode=0o700, exist_ok=True)
        with self._path(name).open("xb") as file:
            yield file.write
            _flush(file)

    def stat(self, name: str) -> FileStat:
        found = _stat(self._path(name))
        assert found is not None
        return found

    def read(self, name: str) -> Iterator[bytes]:
        return _chunks(self._path(name))

    def finish(self, name: str, text: bytes) -> None:
        assert self.folder is not None
        for folder in (path for path in self.folder.rglob("*") if path.is_dir()):
            _sync(folder)
        with self.write(name) as write:
            write(text)

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / name


def _is_name(name: str) -> bool:
    return manifest.is_id(name) or name.endswith(PARTIAL)


def _stat(path: Path) -> FileStat | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return FileStat(found.st_size, str(found.st_mtime_ns))


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _on_disk(root: Path, done: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BackupFailed(
            f"the backup could not be {done} {root}",
            detail=f"{error.strerror or error}.",
            hint="Make room or give access there, or set backup_dir in the inventory.",
        ) from error
