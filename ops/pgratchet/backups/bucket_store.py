"""Keeps backups in an object store: S3, Google Cloud Storage or Azure Blob Storage.

A backup exists once the manifest's object exists; an interrupted upload creates no object. The extra `store` installs
the package obstore, which is imported on first use.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgratchet.backups import manifest
from pgratchet.backups.store import NOTES, Draft, FileStat, is_backup_name
from pgratchet.environment import without_variables
from pgratchet.errors import BackupFailed, ConfigurationError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_SERVICES = ("s3", "gcs", "azure")
_ENDPOINT_VARIABLES = r"(AWS|GOOGLE|AZURE)_.*(ENDPOINT|BASE_URL)"
"""Environment variables that would lead obstore to another server than the one in the inventory."""
_REMOVALS = {
    "s3": "aws s3 rm --recursive",
    "s3a": "aws s3 rm --recursive",
    "gs": "gcloud storage rm --recursive",
}
"""The commands that delete the objects below a URL of S3 or Google Cloud Storage."""
_ENDPOINT = re.compile(r"endpoint(_url)?$", re.IGNORECASE)
_REGION = re.compile(r"[A-Za-z0-9-]+")
_HTTP = re.compile(r"https?://[^/:?#\s]+(:[0-9]+)?(/\S*)?$")
_SERVICE_ERROR = re.compile(r"<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", re.DOTALL)
_PART = 10 << 20
"""Bytes per part of an upload or download. S3 accepts 10,000 parts of at least 5 MB each
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html). Few parts are sent at once, because each must
arrive within the timeout of one request."""


@dataclass(slots=True)
class BucketStore:
    """A prefix in a bucket. Errors of the service, and requests without an answer, are raised as BackupFailed."""

    location: str
    options: dict[str, str] = field(repr=False)
    _opened: ObjectStore | None = field(default=None, repr=False)

    @property
    def renames_drafts(self) -> bool:
        return False

    def ids(self) -> list[str]:
        obstore = _import_obstore()
        with self._translated_errors("be listed in"):
            listing = obstore.list_with_delimiter(self._client())
        names = [prefix.rstrip("/").rpartition("/")[2] for prefix in listing["common_prefixes"]]
        return sorted((name for name in names if is_backup_name(name)), reverse=True)

    def folder(self, backup_id: str) -> Path | None:  # noqa: ARG002  objects are not files on this machine
        return None

    def stat(self, backup_id: str, name: str) -> FileStat | None:
        obstore = _import_obstore()
        with self._translated_errors("be looked at in"):
            try:
                head = obstore.head(self._client(), f"{backup_id}/{name}")
            except FileNotFoundError:
                return None
        return FileStat(head["size"], head["e_tag"] or "")

    def read(self, backup_id: str, name: str) -> Iterator[bytes]:
        """Read an object part by part. Each part is a request with a timeout, whatever the size of the object."""
        obstore = _import_obstore()
        path = f"{backup_id}/{name}"
        with self._translated_errors("be read from"):
            size = obstore.head(self._client(), path)["size"]
            for start in range(0, size, _PART):
                yield bytes(obstore.get_range(self._client(), path, start=start, length=min(_PART, size - start)))

    def remove(self, backup_id: str) -> None:
        """Delete a backup. The manifest goes first, so a half-deleted backup is never listed as good."""
        obstore = _import_obstore()
        with self._translated_errors("be deleted from"):
            for page in obstore.list(self._client(), f"{backup_id}/"):
                names = sorted((each["path"] for each in page), key=lambda path: not path.endswith(manifest.NAME))
                for name in names:
                    obstore.delete(self._client(), name)

    def removal(self, backup_id: str) -> str:
        scheme, _, path = f"{self.location}/{backup_id}/".partition("://")
        if program := _REMOVALS.get(scheme):
            return f"{program} {shlex.quote(f'{scheme}://{path}')}"
        container, _, prefix = path.partition("/")
        return shlex.join(["az", "storage", "blob", "delete-batch", "--source", container, "--pattern", f"{prefix}*"])

    def note(self, name: str, text: bytes) -> None:
        with self.write(NOTES, name) as write:
            write(text)

    def notes(self) -> Iterator[bytes]:
        obstore = _import_obstore()
        with self._translated_errors("be listed in"):
            names = sorted(each["path"] for page in obstore.list(self._client(), f"{NOTES}/") for each in page)
        for name in names:
            yield b"".join(self.read(NOTES, name.rpartition("/")[2]))

    def free_space(self) -> int | None:
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
    def write(self, backup_id: str, name: str) -> Iterator[Callable[[bytes], object]]:
        """Upload an object. The object exists only when the block ends without an error."""
        obstore = _import_obstore()
        with self._translated_errors("be written to"):
            writer = obstore.open_writer(self._client(), f"{backup_id}/{name}", buffer_size=_PART, max_concurrency=4)

        def write(chunk: bytes) -> None:
            with self._translated_errors("be written to"):
                writer.write(chunk)

        yield write
        with self._translated_errors("be written to"):
            writer.close()  # completes the upload

    def _client(self) -> ObjectStore:
        if self._opened is None:
            obstore = _import_obstore()
            try:
                self._require_valid(obstore.parse_scheme(self.location))
                with without_variables(_ENDPOINT_VARIABLES):
                    self._opened = obstore.store.from_url(self.location, **self._settings())
            except (ValueError, TypeError, obstore.exceptions.BaseError) as error:
                raise ConfigurationError(
                    f"the store {self.location} cannot be used",
                    detail=_summary(error),
                    hint="Fix backup_store and backup_store_options in the inventory.",
                ) from error
        return self._opened

    def _require_valid(self, service: str) -> None:
        """Raise ValueError for unusable options, and for unsafe services such as memory and unsynced files."""
        if service not in _SERVICES:
            raise ValueError("Its URL is none of S3, Google Cloud Storage or Azure.")
        for name, value in self.options.items():
            if _ENDPOINT.search(name) and not _HTTP.match(value):  # obstore would end the process over it
                raise ValueError(f"{name} does not begin with https:// or http:// and a host.")
            if name.lower().endswith("region") and not _REGION.fullmatch(value):
                raise ValueError(f"{name} is no name of a region.")

    def _settings(self) -> dict[str, Any]:
        """The inventory's options, and timeouts short enough for a waiting person."""
        client = {"connect_timeout": "10s", "timeout": "120s"}
        options = dict(self.options)
        if any(_ENDPOINT.search(name) and value.startswith("http://") for name, value in options.items()):
            client["allow_http"] = "true"
        retry = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}
        return {"config": options, "client_options": client, "retry_config": retry}

    @contextmanager
    def _translated_errors(self, action: str) -> Iterator[None]:
        obstore = _import_obstore()
        try:
            yield
        except (OSError, obstore.exceptions.BaseError) as error:
            raise BackupFailed(
                f"the backup could not {action} {self.location}",
                detail=_summary(error),
                hint="Check the store, the bucket and the credentials. Then run again.",
            ) from error


@dataclass(slots=True)
class _BucketDraft:
    store: BucketStore
    backup_id: str
    folder: Path | None = None

    def write(self, name: str) -> AbstractContextManager[Callable[[bytes], object]]:
        return self.store.write(self.backup_id, name)

    def stat(self, name: str) -> FileStat:
        stat = self.store.stat(self.backup_id, name)
        if stat is None:
            raise BackupFailed(f"what was written to {self.store.location} has disappeared", hint="Run again.")
        return stat

    def read(self, name: str) -> Iterator[bytes]:
        return self.store.read(self.backup_id, name)

    def finish(self, name: str, text: bytes) -> None:
        with self.write(name) as write:
            write(text)


def _import_obstore() -> Any:
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ImportError as error:
        raise ConfigurationError(
            "the package obstore is not installed",
            detail="It reads and writes backups in an object store.",
            hint="Run `pip install 'pgratchet[store]'`.",
        ) from error
    return obstore


def _summary(error: Exception) -> str:
    """The service's error code and message, or else the first line of obstore's error."""
    if match := _SERVICE_ERROR.search(str(error)):
        return f"{match[1]}: {match[2].rstrip('.')}."
    lines = str(error).strip().splitlines()
    return f"{lines[0].rstrip('.')}." if lines else f"{type(error).__name__}."
