"""Migrations: the files, what they declare, their checksums, and the plan made of files and history.

Owns the naming rule, the directives, the checksum and `plan`, one pure function that dry run, status and the
real run all use. Refuses to know connections. The one read is `read` and `Migration.text`: the text of a file
is fetched when it is needed and not kept, so that memory grows with the largest file and not with the folder.
Texts are bytes, UTF-8 with LF line ends and without a BOM: what the checksum is of, and what is sent.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from pgratchet.errors import ConfigurationError, several

if TYPE_CHECKING:
    pass


_FILE_NAME = re.compile(r"(?P<version>[0-9]{1,40}(?:T[0-9]{1,20})?)_[A-Za-z0-9_.-]{1,180}\.sql")
_PIECE = 1_000_000
_NAMING = (
    "Name it <version>_<name>.sql, such as 0042_add_email.sql or 20250111T093000_add_email.sql; `invoke new` does."
)


@dataclass(frozen=True, slots=True)
class Migration:
    """A file of the migrations folder. `checksum` is the SHA-256, in hex, of its text with LF and no BOM."""

    name: str
    version: int
    checksum: str
    path: str

    def text(self) -> bytes:
        """Read the file again; an error when it is no longer what the plan was made of."""
        try:
            content, checksum = _content(self.path)
        except _MistakeError:
            content, checksum = b"", ""
        if checksum != self.checksum:
            raise ConfigurationError(
                f"{self.path} was changed while the run was going on",
                hint="Run again when the file is as you want it.",
            )
        return content


def read(folder: Path) -> tuple[Migration, ...]:
    """The folder's migrations in order; one ConfigurationError names every mistake in names, encoding, versions.

    Sub-folders, hidden files and files that do not end in .sql are not migrations.
    """
    if not folder.is_dir():
        raise ConfigurationError(
            f"no migrations folder {folder}",
            hint="Give the folder with --sql=DIR, or make it with `invoke new NAME`.",
        )
    found: list[Migration] = []
    mistakes: list[str] = []
    # scandir and open, not pathlib's walk: status reads every file, and there may be thousands.
    for name in sorted(e.name for e in os.scandir(folder) if _looks_like_sql(e.name) and not e.is_dir()):
        if not name.startswith("."):
            try:
                found.append(_read_file(f"{folder}/{name}", name))
            except _MistakeError as mistake:
                mistakes.append(f"{folder}/{name}: {mistake}")
    found.sort(key=lambda migration: migration.version)
    mistakes += _duplicates(found)
    if mistakes:
        raise several("the migrations cannot be used", mistakes, "Mend each file; nothing was run.")
    return tuple(found)


def from_contents(files: Iterable[tuple[str, bytes]]) -> tuple[Migration, ...]:
    """The migrations among files that lie elsewhere than in a folder, by name and content, in order; others are left
    out. Their text cannot be read again."""
    found = []
    for name, raw in files:
        if match := _FILE_NAME.fullmatch(name):
            with suppress(_MistakeError):
                found.append(Migration(name[:-4], _version(match), _normal(raw)[1], ""))
    return tuple(sorted(found, key=lambda migration: migration.version))


def create(folder: Path, name: str, moment: datetime) -> Path:
    """Write an empty migration named by the UTC time; never over an existing file or version."""
    slug = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    if not slug or len(slug) > 100:
        raise ConfigurationError(
            f'"{name}" makes no file name',
            hint="Say in a few words what the migration does, in letters and digits.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    version = f"{moment:%Y%m%dT%H%M%S}"
    path = folder / f"{version}_{slug}.sql"
    if any(folder.glob(f"{version}_*.sql")):
        raise ConfigurationError(
            f"{folder} already has a migration of this second",
            hint="Wait for the next second, and try again.",
        )
    with path.open("x", encoding="utf-8") as file:
        comment = " ".join(name.split())  # on one line, or what is behind its end would be SQL
        file.write(f"-- {comment}\n-- Runs in one transaction; it is not changed once it was applied.\n\n")
    return path


class _MistakeError(Exception):
    """Something wrong with one file, to be listed with the others."""


def _looks_like_sql(name: str) -> bool:
    return name.strip().lower().endswith(".sql")


def _read_file(path: str, name: str) -> Migration:
    match = _FILE_NAME.fullmatch(name)
    if match is None:
        raise _MistakeError(f"the file name is not one of a migration. {_NAMING}")
    if not os.path.isfile(path):  # noqa: PTH113
        raise _MistakeError("not a file that can be read; a link that leads nowhere, or a pipe.")
    _, checksum = _content(path)
    return Migration(name[:-4], _version(match), checksum, path)


def _version(match: re.Match[str]) -> int:
    return int(match["version"].replace("T", ""))


def _content(path: str) -> tuple[bytes, str]:
    """The text with LF line ends and without a BOM, and its checksum."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            raw = file.read()
    except OSError as error:
        raise _MistakeError(f"cannot be read: {error.strerror}.") from error
    return _normal(raw)


def _normal(raw: bytes) -> tuple[bytes, str]:
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    if b"\r" in raw:
        raw = raw.replace(b"\r\n", b"\n")
    if (nul := raw.find(b"\0")) >= 0:
        raise _MistakeError(f"a NUL byte at byte {nul + 1}{_line_of(raw, nul)}, which PostgreSQL cannot store.")
    if not raw.isascii():
        _refuse_other_encodings(raw)
    return raw, hashlib.sha256(raw).hexdigest()


def _refuse_other_encodings(raw: bytes) -> None:
    """Decode it, a piece at a time: a text that is not ASCII would take four times its size."""
    decoder, done = codecs.getincrementaldecoder("utf-8")(), 0
    try:
        for done in range(0, len(raw), _PIECE):
            decoder.decode(raw[done : done + _PIECE], final=done + _PIECE >= len(raw))
    except UnicodeDecodeError as error:
        at = done - (len(error.object) - len(raw[done : done + _PIECE])) + error.start
        raise _MistakeError(
            f"not UTF-8: byte 0x{raw[at]:02x} at byte {at + 1}{_line_of(raw, at)}. Save the file as UTF-8."
        ) from error


def _line_of(raw: bytes, offset: int) -> str:
    return f" (line {raw.count(10, 0, offset) + 1})"


def _duplicates(found: Sequence[Migration]) -> list[str]:
    return [
        f"{one.path} and {other.name}.sql: the same version {one.version}."
        for one, other in pairwise(found)
        if one.version == other.version
    ]
