"""Encryption of backups to age recipients, so that the machine that writes them cannot read them.

Owns the keys' forms and both directions as streams. Refuses to know stores. The format is age's (age-encryption.org/v1)
through pyrage, an extra, imported where a recipient is meant; ssh keys serve as recipients and identities too.
pyrage pulls what it encrypts, while pg_dump pushes, so that a thread and a pipe stand between the two.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pgratchet.errors import BackupFailed, ConfigurationError

SUFFIX = ".age"
_CHUNK = 1 << 20


def recipients(keys: Sequence[str]) -> list[Any]:
    """Public keys, age1... or ssh-..., as pyrage takes them; ConfigurationError names the first that is none."""
    return [_parsed(key.strip(), "recipient", f"number {n} of backup_recipients") for n, key in enumerate(keys, 1)]


def identities(file: Path) -> list[Any]:
    """The private keys in a file: one age key to a line, or one ssh key."""
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "It is no text"
        raise ConfigurationError(
            f"the identity file {file} cannot be read",
            detail=f"{reason}.",
            hint="Give the file with the private key as backup_identity in the inventory.",
        ) from error
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    keys = [text] if lines[:1] and lines[0].startswith("-----BEGIN") else lines
    return [_parsed(key, "identity", f"a line of {file}") for key in keys or [""]]


def _parsed(key: str, kind: str, where: str) -> Any:
    pyrage = _pyrage()
    name = kind.capitalize()
    is_age = key.lower().startswith("age")
    module = pyrage.x25519 if is_age else pyrage.ssh
    try:
        made = getattr(module, name)
        return made.from_str(key) if is_age or kind == "recipient" else made.from_buffer(key.encode())
    except (pyrage.RecipientError, pyrage.IdentityError, ValueError):
        # Without the key, which may be a private one in the wrong place, and the library's words, which hold it.
        raise ConfigurationError(
            f"no age {kind}: {where}",
            detail="A recipient begins with age1 or ssh-; an identity with AGE-SECRET-KEY-1, or it is an ssh key.",
            hint="`age-keygen` makes a pair of them.",
        ) from None


@contextmanager
def encrypting(write: Callable[[bytes], object], keys: Sequence[str]) -> Iterator[Callable[[bytes], object]]:
    """A function that encrypts what it is given, and gives that to `write`; all of it when the block ends."""
    given = recipients(keys)
    outlet, inlet = os.pipe()
    sink, failed = _Sink(write), list[BaseException]()

    def encrypt() -> None:
        try:
            with os.fdopen(outlet, "rb") as reader:
                _pyrage().encrypt_io(reader, sink, given)
        except BaseException as error:  # noqa: BLE001  it is raised where the block ends
            failed.append(error)

    thread = threading.Thread(target=encrypt, daemon=True)
    thread.start()
    try:
        with os.fdopen(inlet, "wb", buffering=_CHUNK) as pipe:
            yield pipe.write
    except BrokenPipeError:
        thread.join()
        if not failed:
            raise
    finally:
        thread.join()
    if failed:
        raise sink.error or failed[0]


def decrypting(chunks: Iterator[bytes], keys: Sequence[Any]) -> Iterator[bytes]:
    """What encrypted chunks hold; BackupFailed where no identity fits, or where they were changed."""
    outlet, inlet = os.pipe()
    source, failed = _Source(chunks), list[BaseException]()

    def decrypt() -> None:
        try:
            with os.fdopen(inlet, "wb", buffering=_CHUNK) as writer:
                _pyrage().decrypt_io(source, writer, list(keys))
        except BaseException as error:  # noqa: BLE001  it is raised where the chunks end
            failed.append(error)

    thread = threading.Thread(target=decrypt, daemon=True)
    thread.start()
    with os.fdopen(outlet, "rb") as reader:
        while chunk := reader.read1(_CHUNK):
            yield chunk
    thread.join()
    if source.error:
        raise source.error
    if failed:
        raise BackupFailed(
            "the backup cannot be decrypted",
            detail=f"{str(failed[0]).rstrip('.') or type(failed[0]).__name__}.",
            hint="Give the identity of one of its recipients as backup_identity; the manifest names them.",
        ) from failed[0]


class _Sink:
    """A file to write to, as pyrage takes one; it puts an error of the other side into words of its own."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self.error: Exception | None = None

    def write(self, data: bytes) -> int:
        try:
            self._write(bytes(data))
        except Exception as error:
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        """There is nothing to flush."""


class _Source:
    """A file to read from, as pyrage takes one."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, b""
        self.error: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        try:
            while not self._rest:
                self._rest = next(self._chunks)
        except StopIteration:
            return b""
        except Exception as error:
            self.error = error
            raise
        size = len(self._rest) if size < 0 else size
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


def _pyrage() -> Any:
    try:
        import pyrage
    except ImportError as error:
        raise ConfigurationError(
            "the package pyrage is not installed",
            detail="Backups are encrypted and decrypted by it.",
            hint="Install pgratchet with its extra: pip install '.[age]'.",
        ) from error
    return pyrage
