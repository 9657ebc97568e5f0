"""Keeps backups in an object store: S3, Google Cloud Storage or Azure Blob Storage."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgratchet.backups import manifest
from pgratchet.backups.store import NOTES, Draft, FileStat, _is_name
from pgratchet.errors import BackupFailed, ConfigurationError

if TYPE_CHECKING:
    from obstore.store import ObjectStore


_SERVICES = ("s3", "gcs", "azure")


_ENDPOINT = re.compile(r"endpoint(_url)?$", re.IGNORECASE)


_REGION = re.compile(r"[A-Za-z0-9-]+")


_HTTP = re.compile(r"https?://[^/:?#\s]+(:[0-9]+)?(/\S*)?$")


_ANSWER = re.compile(r"<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", re.DOTALL)


_PART = 10 << 20
"""Bytes of a part of an upload, or a download: S3 takes ten thousand parts of at least 5 MB. Few are under way at
once, since each has to be there within the time of a request."""


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

    def stat(self, backup_id: str, name: str) -> FileStat | None:
        import obstore

        with self._answering("be looked at in"):
            try:
                found = obstore.head(self._store(), f"{backup_id}/{name}")
            except FileNotFoundError:
                return None
        return FileStat(found["size"], found["e_tag"] or "")

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

    def stat(self, name: str) -> FileStat:
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
