"""Reads backups back: compares every file with a hash, and lets pg_restore read the archive to the end.

The hashes are needed because an uncompressed archive with a flipped bit reads without an error.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pgratchet import events
from pgratchet.backups import encryption, pg_programs
from pgratchet.backups.listing import BackupEntry, require_manifest
from pgratchet.backups.manifest import DUMP, FOLDER, Manifest
from pgratchet.backups.pg_programs import Programs
from pgratchet.backups.store import Store
from pgratchet.backups.throttle import Throttle
from pgratchet.errors import BackupFailed, ConfigurationError


@dataclass(frozen=True, slots=True)
class BackupReader:
    """Reads the files of a backup.

    `read` returns the chunks of a stored file. `folder` contains the files when they are on this machine's disk.
    `identity` is the file with the private key for an encrypted backup.
    """

    manifest: Manifest
    read: Callable[[str], Iterator[bytes]]
    folder: Path | None = None
    identity: Path | None = None

    @property
    def is_readable(self) -> bool:
        """False for an encrypted backup without an identity: only the hashes of the files can be checked."""
        return not self.manifest.recipients or self.identity is not None

    @property
    def archive_path(self) -> Path | None:
        """The archive as a path for pg_restore, or None."""
        if self.folder is None or self.manifest.recipients:
            return None
        return self.folder / (FOLDER if self.manifest.archive == "directory" else DUMP)

    def decrypted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Decrypt the chunks of a file of an encrypted backup with an identity. Other chunks are returned as stored."""
        if not self.manifest.recipients or self.identity is None:
            return chunks
        return encryption.decrypt(chunks, encryption.read_identities(self.identity))

    def read_checked(self, name: str, problems: list[str]) -> Iterator[bytes]:
        """Read and decrypt a file. A wrong hash is added to `problems`; a wrong key is raised as BackupFailed."""
        stored = self.read_stored(name, problems)
        try:
            yield from self.decrypted(stored)
        except BackupFailed:
            for _ in stored:  # the rest of the file, for the hash: a damaged file does not decrypt either
                pass
            if not problems:
                raise

    def read_stored(self, name: str, problems: list[str]) -> Iterator[bytes]:
        """Read a file as stored. At the end, a wrong size or hash is added to `problems`."""
        digest, size, file = hashlib.sha256(), 0, self.manifest.files[name]
        for chunk in self.read(name):
            digest.update(chunk)
            size += len(chunk)
            yield chunk
        if size != file.size:
            problems.append(f"{name}: {size} bytes of {file.size}.")
        elif digest.hexdigest() != file.sha256:
            problems.append(f"{name}: its SHA-256 is another.")


def verify(entry: BackupEntry, store: Store, programs: Programs, identity: Path | None = None) -> events.Stream:
    """Read a listed backup back. Raises BackupFailed when the backup is damaged."""
    yield from verify_files(_open(store, require_manifest(entry), identity), programs)


def verify_files(reader: BackupReader, programs: Programs, *, archive_was_read: bool = False) -> events.Stream:
    """Read a backup back once, for the hashes and for pg_restore. Raises BackupFailed when the backup is damaged.

    With `archive_was_read`, pg_restore has read the archive while it was written, and the hashes are enough.
    """
    manifest, problems = reader.manifest, list[str]()
    size, throttle = 0, Throttle()
    with ExitStack() as stack:
        feed = None
        if reader.is_readable and not archive_was_read:
            feed = stack.enter_context(pg_programs.reading_archive(programs, reader.archive_path))
        for name in manifest.files:
            for chunk in reader.read_checked(name, problems):
                size += len(chunk)
                if feed and not reader.archive_path and name.startswith(DUMP):
                    feed(chunk)
                if throttle.is_due():
                    yield events.BackupProgress("verify", size, manifest.size)
        require_undamaged(manifest, problems)


def require_undamaged(manifest: Manifest, problems: Sequence[str]) -> None:
    """Raise BackupFailed when problems with the files of a backup were found."""
    if problems:
        raise BackupFailed(
            f"backup {manifest.backup_id} was changed or damaged after it was written",
            detail="\n".join(problems),
            hint="Use another backup (`invoke backups` lists them), and find out what changed this one.",
        )


def open_content(manifest: Manifest, store: Store, identity: Path | None) -> Path | Iterator[bytes]:
    """Open the archive for pg_restore: a path when the archive is a readable file or folder here, otherwise chunks.

    Raises ConfigurationError for an encrypted backup without an identity.
    """
    reader = _open(store, manifest, identity)
    if not reader.is_readable:
        raise ConfigurationError(
            f"backup {manifest.backup_id} is encrypted",
            detail="To: " + ", ".join(manifest.recipients) + ".",
            hint="Set backup_identity in the inventory to the file with one of their private keys.",
        )
    (name,) = [name for name in manifest.files if name.startswith(DUMP)] or [DUMP]
    return reader.archive_path or reader.decrypted(reader.read(name))


def _open(store: Store, manifest: Manifest, identity: Path | None) -> BackupReader:
    read = functools.partial(store.read, manifest.backup_id)
    return BackupReader(manifest, read, store.folder(manifest.backup_id), identity)
