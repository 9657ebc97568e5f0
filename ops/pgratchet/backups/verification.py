"""Reads a backup back: every file against its hash, the archive to its end."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pgratchet import events
from pgratchet.backups import encryption, pg_programs
from pgratchet.backups.listing import BackupEntry, require_manifest
from pgratchet.backups.manifest import DUMP, FOLDER, Manifest
from pgratchet.backups.pg_programs import Programs
from pgratchet.backups.store import Store
from pgratchet.errors import BackupFailed, ConfigurationError

_TICK = 0.1

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class _Reading:
    """A backup to be read: by `read`, and below `folder` where it is on a disk. `identity` opens an encrypted one."""

    read: Callable[[str], Iterator[bytes]]
    folder: Path | None
    manifest: Manifest
    identity: Path | None

    @property
    def closed(self) -> bool:
        """Whether it is encrypted to others: then its hashes are all that can be held against it."""
        return bool(self.manifest.recipients) and self.identity is None

    @property
    def path(self) -> Path | None:
        """Where pg_restore can open the archive itself."""
        if self.folder is None or self.manifest.recipients:
            return None
        return self.folder / (FOLDER if self.manifest.archive == "directory" else DUMP)

    def plain(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """What the chunks of one of its files say, where that can be read here."""
        if not self.manifest.recipients or self.identity is None:
            return chunks
        return encryption.decrypting(chunks, encryption.identities(self.identity))

    def whole(self, name: str, wrong: list[str]) -> Iterator[bytes]:
        """What a file says, held against its hash, which tells one that was damaged from a key that does not fit."""
        stored = self.against(name, wrong)
        try:
            yield from self.plain(stored)
        except BackupFailed:
            for _ in stored:
                pass
            if not wrong:
                raise

    def against(self, name: str, wrong: list[str]) -> Iterator[bytes]:
        """The chunks of a file; when they end, what is wrong with it has been put to the others."""
        digest, size, file = hashlib.sha256(), 0, self.manifest.files[name]
        for chunk in self.read(name):
            digest.update(chunk)
            size += len(chunk)
            yield chunk
        if size != file.size:
            wrong.append(f"{name}: {size} bytes of {file.size}.")
        elif digest.hexdigest() != file.sha256:
            wrong.append(f"{name}: its SHA-256 is another.")


def _read_back(reading: _Reading, programs: Programs) -> Generator[events.Event, None, None]:
    """Read every file against its hash, and let pg_restore read the archive in the same pass."""
    made = reading.manifest
    wrong: list[str] = []
    with ExitStack() as stack:
        feed = None if reading.closed else stack.enter_context(pg_programs.reading_archive(programs, reading.path))
        done, shown = 0, 0.0
        for name in made.files:
            for chunk in reading.whole(name, wrong):
                done += len(chunk)
                if feed and not reading.path and name.startswith(DUMP):
                    feed(chunk)
                if time.monotonic() - shown > _TICK:
                    shown = time.monotonic()
                    yield events.BackupProgress("verify", done, made.size, done)
        _refuse_damaged(made, wrong)


def _refuse_damaged(made: Manifest, wrong: Sequence[str]) -> None:
    if wrong:
        raise BackupFailed(
            f"backup {made.backup_id} is not what was written",
            detail="\n".join(wrong),
            hint="Use another, and find out what changed this one; `invoke backups` lists them.",
        )


def verify(
    listed: BackupEntry, store: Store, programs: Programs, identity: Path | None = None
) -> Generator[events.Event, None, Manifest]:
    """Read a backup back whole against its manifest; BackupFailed where it does not hold."""
    made = require_manifest(listed)
    yield from _read_back(_opened(store, made, identity), programs)
    return made


def _opened(store: Store, made: Manifest, identity: Path | None) -> _Reading:
    return _Reading(functools.partial(store.read, made.backup_id), store.folder(made.backup_id), made, identity)


def open_content(made: Manifest, store: Store, identity: Path | None) -> Path | Iterator[bytes]:
    """The archive for pg_restore: a path where it lies on this machine as it is, else a stream of it."""
    reading = _opened(store, made, identity)
    if reading.closed:
        raise ConfigurationError(
            f"backup {made.backup_id} is encrypted",
            detail="To: " + ", ".join(made.recipients) + ".",
            hint="Give the file with the private key of one of them as backup_identity in the inventory.",
        )
    (name,) = [name for name in made.files if name.startswith(DUMP)] or [DUMP]
    return reading.path or reading.plain(reading.read(name))
