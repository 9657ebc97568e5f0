"""Where backups are kept: a folder on a disk, or a bucket of an object store.

Owns how a backup comes to be there whole or not at all, and what is there. Refuses to know what is in its files. A
backup is a name with files below it; it is written as a draft and becomes one when its manifest is written, last. On
a disk a draft is a folder that ends in .partial, every file is on the disk before that loses its ending, and so is
the folder above; in a bucket the manifest is what makes one, and a file that broke off is no object at all.

obstore, which speaks S3, Google's and Azure's protocols, is an extra, imported where a bucket is meant.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from pgratchet.backups import manifest
from pgratchet.errors import BackupFailed, ConfigurationError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

PARTIAL = ".partial"
NOTES = "drills"
_CHUNK = 1 << 20
_SERVICES = ("s3", "gcs", "azure")
_ENDPOINT = re.compile(r"endpoint(_url)?$", re.IGNORECASE)
_REGION = re.compile(r"[A-Za-z0-9-]+")
_HTTP = re.compile(r"https?://[^/:?#\s]+(:[0-9]+)?(/\S*)?$")
_ANSWER = re.compile(r"<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", re.DOTALL)
_PART = 10 << 20
"""Bytes of a part of an upload, or a download: S3 takes ten thousand parts of at least 5 MB. Few are under way at
once, since each has to be there within the time of a request."""


@dataclass(frozen=True, slots=True)
class Stat:
    """A file as it lies there. `stamp` is another when it was written again: a time on a disk, an ETag in a bucket."""

    size: int
    stamp: str


class Draft(Protocol):
    """A backup that is being written; it is gone again when its block fails. `folder` is its own on a disk."""

    folder: Path | None

    def write(self, name: str) -> AbstractContextManager[Callable[[bytes], object]]:
        """A new file; what its block is given to write is safe when the block ends."""

    def stat(self, name: str) -> Stat: ...
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
    def stat(self, backup_id: str, name: str) -> Stat | None: ...
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


def at(url: str, options: Mapping[str, str], folder: Path, environment: str, target: str) -> Store:
    """The store of a target: below the URL where there is one, else below the folder."""
    if url:
        return Bucket(f"{url.rstrip('/')}/{environment}/{target}", dict(options))
    return Disk(folder / environment / target)


@dataclass(slots=True)
class Disk:
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

    def stat(self, backup_id: str, name: str) -> Stat | None:
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

    def stat(self, name: str) -> Stat:
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


def _stat(path: Path) -> Stat | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return Stat(found.st_size, str(found.st_mtime_ns))


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


@dataclass(slots=True)
class Bucket:
    """A prefix in a bucket. What the service refuses, or does not answer, is a BackupFailed that names it."""

    where: str
    options: dict[str, str] = field(repr=False)
    _opened: ObjectStore | None = field(default=None, repr=False)

    def ids(self) -> list[str]:
        import obstore

        with self._answering("be listed in"):
            found = obstore.list_with_delimiter(self._store())
        names = [prefix.rstrip("/").rpartition("/")[2] for prefix in found["common_prefixes"]]
        return sorted((name for name in names if _is_name(name)), reverse=True)

    def folder(self, backup_id: str) -> Path | None:  # noqa: ARG002  there is none
        return None

    def stat(self, backup_id: str, name: str) -> Stat | None:
        import obstore

        with self._answering("be looked at in"):
            try:
                found = obstore.head(self._store(), f"{backup_id}/{name}")
            except FileNotFoundError:
                return None
        return Stat(found["size"], found["e_tag"] or "")

    def read(self, backup_id: str, name: str) -> Iterator[bytes]:
        """Part by part, each a request with a time of its own: one for all of it would be cut off in the midst."""
        import obstore

        path = f"{backup_id}/{name}"
        with self._answering("be read from"):
            size = obstore.head(self._store(), path)["size"]
            for start in range(0, size, _PART):
                yield bytes(obstore.get_range(self._store(), path, start=start, length=min(_PART, size - start)))

    def remove(self, backup_id: str) -> None:
        """The manifest goes first, so that what is half deleted is never taken for a backup."""
        import obstore

        with self._answering("be deleted from"):
            for page in obstore.list(self._store(), f"{backup_id}/"):
                names = sorted((each["path"] for each in page), key=lambda path: not path.endswith(manifest.NAME))
                for name in names:
                    obstore.delete(self._store(), name)

    def note(self, name: str, text: bytes) -> None:
        with self.writing(NOTES, name) as write:
            write(text)

    def notes(self) -> Iterator[bytes]:
        import obstore

        with self._answering("be listed in"):
            names = sorted(each["path"] for page in obstore.list(self._store(), f"{NOTES}/") for each in page)
        for name in names:
            yield b"".join(self.read(NOTES, name.rpartition("/")[2]))

    def room(self) -> int | None:
        return None

    @contextmanager
    def draft(self, backup_id: str) -> Iterator[Draft]:
        try:
            yield _BucketDraft(self, backup_id)
        except BaseException:
            with suppress(BackupFailed):
                self.remove(backup_id)
            raise

    @contextmanager
    def writing(self, backup_id: str, name: str) -> Iterator[Callable[[bytes], object]]:
        import obstore

        with self._answering("be written to"):
            writer = obstore.open_writer(self._store(), f"{backup_id}/{name}", buffer_size=_PART, max_concurrency=4)

        def write(chunk: bytes) -> None:
            with self._answering("be written to"):
                writer.write(chunk)

        yield write
        with self._answering("be written to"):
            writer.close()  # which makes it an object; where it does not come to that, there is none

    def _store(self) -> ObjectStore:
        if self._opened is None:
            obstore = _obstore()
            try:
                self._refuse_elsewhere(obstore.parse_scheme(self.where))
                self._opened = obstore.store.from_url(self.where, **self._given())
            except (ValueError, TypeError, obstore.exceptions.BaseError) as error:
                raise ConfigurationError(
                    f"the store {self.where} cannot be used",
                    detail=_said(error),
                    hint="Mend backup_store and backup_store_options in the inventory.",
                ) from error
        return self._opened

    def _refuse_elsewhere(self, service: str) -> None:
        """ValueError for what obstore takes too, and is no store to be relied on: memory, a disk that is not synced."""
        if service not in _SERVICES:
            raise ValueError("Its URL is none of S3, Google Cloud Storage or Azure.")
        for name, value in self.options.items():
            if _ENDPOINT.search(name) and not _HTTP.match(value):  # obstore would end the process over it
                raise ValueError(f"{name} does not begin with https:// or http:// and a host.")
            if name.lower().endswith("region") and not _REGION.fullmatch(value):
                raise ValueError(f"{name} is no name of a region.")

    def _given(self) -> dict[str, Any]:
        """What the inventory says, for obstore; it gives up before a person does."""
        client = {"connect_timeout": "10s", "timeout": "120s"}
        options = dict(self.options)
        if any(_ENDPOINT.search(name) and value.startswith("http://") for name, value in options.items()):
            client["allow_http"] = "true"
        retry = {"max_retries": 3, "retry_timeout": _seconds(30)}
        return {"config": options, "client_options": client, "retry_config": retry}

    @contextmanager
    def _answering(self, done: str) -> Iterator[None]:
        obstore = _obstore()
        try:
            yield
        except (OSError, obstore.exceptions.BaseError) as error:
            raise BackupFailed(
                f"the backup could not {done} {self.where}",
                detail=_said(error),
                hint="See that the store answers, the bucket is there and the credentials are right; then run again.",
            ) from error


@dataclass(slots=True)
class _BucketDraft:
    bucket: Bucket
    backup_id: str
    folder: Path | None = None

    def write(self, name: str) -> AbstractContextManager[Callable[[bytes], object]]:
        return self.bucket.writing(self.backup_id, name)

    def stat(self, name: str) -> Stat:
        found = self.bucket.stat(self.backup_id, name)
        if found is None:
            raise BackupFailed(f"what was written to {self.bucket.where} is not there", hint="Run again.")
        return found

    def read(self, name: str) -> Iterator[bytes]:
        return self.bucket.read(self.backup_id, name)

    def finish(self, name: str, text: bytes) -> None:
        with self.write(name) as write:
            write(text)


def _seconds(number: int) -> Any:
    from datetime import timedelta

    return timedelta(seconds=number)


def _obstore() -> Any:
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ImportError as error:
        raise ConfigurationError(
            "the package obstore is not installed",
            detail="Backups in an object store are read and written by it.",
            hint="Install pgratchet with its extra: pip install '.[store]'.",
        ) from error
    return obstore


def _said(error: Exception) -> str:
    """The service's own words where it has any; else the first line of what obstore says, without its source."""
    if answer := _ANSWER.search(str(error)):
        return f"{answer[1]}: {answer[2].rstrip('.')}."
    first = str(error).strip().splitlines()
    return f"{first[0].rstrip('.')}." if first else f"{type(error).__name__}."
