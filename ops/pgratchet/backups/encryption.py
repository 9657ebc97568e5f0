"""Encrypts backups to age recipients, so the machine taking backups cannot read them.

The format is age v1 (https://age-encryption.org/v1). The extra `age` installs the package pyrage, which is imported on
first use. SSH keys serve as recipients and identities too. pyrage reads from a file while pg_dump's output is pushed,
so a thread and a pipe connect the two.
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
"""The end of the names of encrypted files."""
_CHUNK = 1 << 20


def parse_recipients(keys: Sequence[str]) -> list[Any]:
    """Parse public keys, age1... or ssh-..., for pyrage. Raises ConfigurationError with the number of a bad key."""
    return [_parse(key.strip(), "recipient", f"number {n} of backup_recipients") for n, key in enumerate(keys, 1)]


def read_identities(file: Path) -> list[Any]:
    """Read private keys from a file: age keys, each on a line, or a single SSH key. Raises ConfigurationError."""
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "It is no text"
        raise ConfigurationError(
            f"the identity file {file} cannot be read",
            detail=f"{reason}.",
            hint="Set backup_identity in the inventory to the file with the private key.",
        ) from error
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    keys = [text] if lines[:1] and lines[0].startswith("-----BEGIN") else lines
    return [_parse(key, "identity", f"a line of {file}") for key in keys or [""]]


def _parse(key: str, kind: str, source: str) -> Any:
    pyrage = _import_pyrage()
    is_age = key.lower().startswith("age")
    module = pyrage.x25519 if is_age else pyrage.ssh
    try:
        parser = getattr(module, kind.capitalize())
        return parser.from_str(key) if is_age or kind == "recipient" else parser.from_buffer(key.encode())
    except (pyrage.RecipientError, pyrage.IdentityError, ValueError):
        # The error does not quote the key, which may be a private key in the wrong setting. pyrage's message does.
        raise ConfigurationError(
            f"not an age {kind}: {source}",
            detail="A recipient begins with age1 or ssh-, an identity with AGE-SECRET-KEY-1; or it is an SSH key.",
            hint="`age-keygen` creates a pair.",
        ) from None


@contextmanager
def encrypted_writer(write: Callable[[bytes], object], keys: Sequence[str]) -> Iterator[Callable[[bytes], object]]:
    """Yield a function to encrypt chunks, whose results are passed to `write`.

    Everything is written when the block ends. Errors of `write` are raised then too.
    """
    recipients = parse_recipients(keys)
    read_end, write_end = os.pipe()
    sink, errors = _Sink(write), list[BaseException]()

    def encrypt() -> None:
        try:
            with os.fdopen(read_end, "rb") as reader:
                _import_pyrage().encrypt_io(reader, sink, recipients)
        except BaseException as error:  # noqa: BLE001  raised at the end of the block
            errors.append(error)

    thread = threading.Thread(target=encrypt, daemon=True)
    thread.start()
    try:
        with os.fdopen(write_end, "wb", buffering=_CHUNK) as pipe:
            yield pipe.write
    except BrokenPipeError:
        thread.join()
        if not errors:
            raise
    finally:
        thread.join()
    if errors:
        raise sink.error or errors[0]


def decrypt(chunks: Iterator[bytes], identities: Sequence[Any]) -> Iterator[bytes]:
    """Decrypt chunks. Raises BackupFailed when no identity fits, and when the chunks were changed."""
    read_end, write_end = os.pipe()
    source, errors = _Source(chunks), list[BaseException]()

    def decrypt_all() -> None:
        try:
            with os.fdopen(write_end, "wb", buffering=_CHUNK) as writer:
                _import_pyrage().decrypt_io(source, writer, list(identities))
        except BaseException as error:  # noqa: BLE001  raised at the end of the chunks
            errors.append(error)

    thread = threading.Thread(target=decrypt_all, daemon=True)
    thread.start()
    with os.fdopen(read_end, "rb") as reader:
        while chunk := reader.read1(_CHUNK):
            yield chunk
    thread.join()
    if source.error:
        raise source.error
    if errors:
        raise BackupFailed(
            "the backup cannot be decrypted",
            detail=f"{str(errors[0]).rstrip('.') or type(errors[0]).__name__}.",
            hint="Set backup_identity to the private key of one of the recipients; the manifest lists them.",
        ) from errors[0]


class _Sink:
    """A writable file for pyrage. Keeps an error of `write`, because pyrage raises another error instead."""

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
        """Nothing is buffered."""


class _Source:
    """A readable file for pyrage. Keeps an error of the chunks, because pyrage raises another error instead."""

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
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def _import_pyrage() -> Any:
    try:
        import pyrage
    except ImportError as error:
        raise ConfigurationError(
            "the package pyrage is not installed",
            detail="It encrypts and decrypts backups.",
            hint="Run `pip install 'pgratchet[age]'`.",
        ) from error
    return pyrage
