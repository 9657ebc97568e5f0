"""Keeps backups in a folder on a disk.

A draft is a folder whose name ends in .partial. Files and folders are flushed to the disk before the draft is renamed,
and the parent folder afterwards, so a crash leaves a whole backup or a draft.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pgratchet.backups.store import NOTES, PARTIAL, Draft, FileStat, is_backup_name
from pgratchet.errors import BackupFailed

_CHUNK = 1 << 20


@dataclass(slots=True)
class DiskStore:
    """A folder of backups. Errors of the disk are raised as BackupFailed."""

    root: Path

    @property
    def location(self) -> str:
        return str(self.root)

    @property
    def renames_drafts(self) -> bool:
        return True

    def ids(self) -> list[str]:
        if not self.root.is_dir():
            return []
        return sorted((path.name for path in self.root.iterdir() if is_backup_name(path.name)), reverse=True)

    def folder(self, backup_id: str) -> Path | None:
        return self.root / backup_id

    def stat(self, backup_id: str, name: str) -> FileStat | None:
        return _stat(self.root / backup_id / name)

    def read(self, backup_id: str, name: str) -> Iterator[bytes]:
        with _translated_errors(self.root, "read from"):
            yield from _chunks(self.root / backup_id / name)

    def remove(self, backup_id: str) -> None:
        """Delete a backup. The folder is renamed first, so a half-deleted backup is never listed as good."""
        renamed = self.root / f"{backup_id.removesuffix(PARTIAL)}.removed{PARTIAL}"
        with _translated_errors(self.root, "deleted from"):
            (self.root / backup_id).rename(renamed)
            shutil.rmtree(renamed)

    def removal(self, backup_id: str) -> str:
        return shlex.join(["rm", "-r", str(self.root / backup_id)])

    def note(self, name: str, text: bytes) -> None:
        with _translated_errors(self.root, "noted in"):
            (self.root / NOTES).mkdir(parents=True, exist_ok=True, mode=0o700)
            with (self.root / NOTES / name).open("xb") as file:
                file.write(text)
                _flush(file)

    def notes(self) -> Iterator[bytes]:
        with _translated_errors(self.root, "read from"):
            for path in sorted((self.root / NOTES).glob("*.json")):
                yield path.read_bytes()

    def free_space(self) -> int | None:
        existing = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        return shutil.disk_usage(existing).free

    @contextmanager
    def draft(self, backup_id: str) -> Iterator[Draft]:
        partial = self.root / f"{backup_id}{PARTIAL}"
        with _translated_errors(self.root, "written to"):
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial.mkdir(mode=0o700)
        try:
            with _translated_errors(self.root, "written to"):
                yield _DiskDraft(partial)
                _flush_folder(partial)
                partial.rename(self.root / backup_id)
                _flush_folder(self.root)
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
        stat = _stat(self._path(name))
        assert stat is not None
        return stat

    def read(self, name: str) -> Iterator[bytes]:
        return _chunks(self._path(name))

    def finish(self, name: str, text: bytes) -> None:
        assert self.folder is not None
        for folder in (path for path in self.folder.rglob("*") if path.is_dir()):
            _flush_folder(folder)
        with self.write(name) as write:
            write(text)

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / name


def _stat(path: Path) -> FileStat | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return FileStat(stat.st_size, str(stat.st_mtime_ns))


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated_errors(root: Path, action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BackupFailed(
            f"the backup could not be {action} {root}",
            detail=f"{error.strerror or error}.",
            hint="Free space or grant access there, or set backup_dir in the inventory.",
        ) from error
