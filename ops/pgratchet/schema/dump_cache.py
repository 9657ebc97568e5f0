"""Keeps the schemas that files make, so that a scratch server is needed only after a change.

A text is kept under the hash of everything that it depends on, and can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_MOST_FILES = 50


@dataclass(frozen=True, slots=True)
class DumpCache:
    """A folder of texts. `basis` is part of every key: versions of programs, names of roles and the like."""

    folder: Path
    basis: Sequence[str]

    def get_or_make(self, parts: Sequence[str], make: Callable[[], bytes]) -> bytes:
        """The text for the parts of a key, made when it is not kept."""
        digest = hashlib.sha256("\0".join((*self.basis, *parts)).encode(errors="surrogateescape")).hexdigest()
        path = self.folder / f"{digest}.sql"
        with suppress(OSError):
            text = path.read_bytes()
            os.utime(path)
            return text
        text = make()
        with suppress(OSError):  # a folder that cannot be written costs time and nothing else
            self._write(path, text)
        return text

    def _write(self, path: Path, text: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}.partial")
        draft.write_bytes(text)
        draft.replace(path)
        by_age = sorted(self.folder.glob("*.sql"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in by_age[_MOST_FILES:]:
            old.unlink(missing_ok=True)
