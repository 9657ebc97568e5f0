"""Migration files: their names, versions, texts and checksums.

A text is read when needed and not kept, so memory grows with the largest file and not with the folder. Texts are bytes:
UTF-8 with LF line ends and without a byte order mark. The checksum covers these bytes, and the server receives them.
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

from pgratchet.errors import ConfigurationError, combine_mistakes

_FILE_NAME = re.compile(r"(?P<version>[0-9]{1,40}(?:T[0-9]{1,20})?)_[A-Za-z0-9_.-]{1,180}\.sql")
_CHUNK = 1_000_000
_NAMING = (
    "Name it <version>_<name>.sql, such as 0042_add_email.sql or 20250111T093000_add_email.sql; `invoke new` does."
)


@dataclass(frozen=True, slots=True)
class Migration:
    """A migration file. `checksum` is the SHA-256 of the text, in hex."""

    name: str
    version: int
    checksum: str
    path: str

    def text(self) -> bytes:
        """Read the file again; ConfigurationError when the checksum has changed."""
        try:
            text, checksum = _read_text(self.path)
        except FileMistake:
            text, checksum = b"", ""
        if checksum != self.checksum:
            raise ConfigurationError(
                f"{self.path} was changed while the run was going on",
                hint="Run again when the file is as you want it.",
            )
        return text


def read(folder: Path) -> tuple[Migration, ...]:
    """Read the folder's migrations, in order of version; a single ConfigurationError names every mistake.

    Sub-folders, hidden files and files without the suffix .sql are not migrations.
    """
    if not folder.is_dir():
        raise ConfigurationError(
            f"no migrations folder {folder}",
            hint="Give the folder with --sql=DIR, or make it with `invoke new NAME`.",
        )
    migrations: list[Migration] = []
    mistakes: list[str] = []
    # scandir and open are faster than pathlib: status reads every file, and a folder may have thousands.
    for name in sorted(e.name for e in os.scandir(folder) if _looks_like_sql(e.name) and not e.is_dir()):
        if not name.startswith("."):
            try:
                migrations.append(_read_file(f"{folder}/{name}", name))
            except FileMistake as mistake:
                mistakes.append(f"{folder}/{name}: {mistake}")
    migrations.sort(key=lambda migration: migration.version)
    mistakes += _duplicate_versions(migrations)
    if mistakes:
        raise combine_mistakes("the migrations cannot be used", mistakes, "Fix each file; nothing was run.")
    return tuple(migrations)


def from_contents(files: Iterable[tuple[str, bytes]]) -> tuple[Migration, ...]:
    """Make migrations of files outside a folder, by name and content, in order of version.

    Files without a migration name are left out. The text of these migrations cannot be read again.
    """
    migrations = []
    for name, raw in files:
        if match := _FILE_NAME.fullmatch(name):
            with suppress(FileMistake):
                migrations.append(Migration(name[:-4], _parse_version(match), _normalize(raw)[1], ""))
    return tuple(sorted(migrations, key=lambda migration: migration.version))


def create(folder: Path, name: str, moment: datetime) -> Path:
    """Write an empty migration whose version is the UTC time `moment`; never overwrites a file or reuses a version."""
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
        comment = " ".join(name.split())  # on one line: a second line would be SQL
        file.write(f"-- {comment}\n-- Runs in one transaction; it is not changed once it was applied.\n\n")
    return path


class FileMistake(Exception):
    """A mistake in a file, combined later with the mistakes in others."""


def _looks_like_sql(name: str) -> bool:
    return name.strip().lower().endswith(".sql")


def _read_file(path: str, name: str) -> Migration:
    match = _FILE_NAME.fullmatch(name)
    if match is None:
        raise FileMistake(f"the file name is not one of a migration. {_NAMING}")
    if not os.path.isfile(path):  # noqa: PTH113
        raise FileMistake("not a file that can be read; a link that leads nowhere, or a pipe.")
    _, checksum = _read_text(path)
    return Migration(name[:-4], _parse_version(match), checksum, path)


def _parse_version(match: re.Match[str]) -> int:
    return int(match["version"].replace("T", ""))


def _read_text(path: str) -> tuple[bytes, str]:
    """Read a file; returns text and checksum."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            raw = file.read()
    except OSError as error:
        raise FileMistake(f"cannot be read: {error.strerror}.") from error
    return _normalize(raw)


def _normalize(raw: bytes) -> tuple[bytes, str]:
    """Remove the byte order mark and turn CRLF into LF; returns text and checksum."""
    text = raw.removeprefix(b"\xef\xbb\xbf")
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
    if (nul := text.find(b"\0")) >= 0:
        raise FileMistake(f"a NUL byte at byte {nul + 1}{_line_of(text, nul)}, which PostgreSQL cannot store.")
    if not text.isascii():
        _refuse_other_encodings(text)
    return text, hashlib.sha256(text).hexdigest()


def _refuse_other_encodings(text: bytes) -> None:
    """Raise FileMistake unless the text is UTF-8."""
    # In chunks: decoded at once, a text that is not ASCII would take four times its size.
    decoder, start = codecs.getincrementaldecoder("utf-8")(), 0
    try:
        for start in range(0, len(text), _CHUNK):
            decoder.decode(text[start : start + _CHUNK], final=start + _CHUNK >= len(text))
    except UnicodeDecodeError as error:
        # The decoder puts the incomplete end of the chunk before in front of this one.
        offset = start - (len(error.object) - len(text[start : start + _CHUNK])) + error.start
        byte = f"byte 0x{text[offset]:02x} at byte {offset + 1}{_line_of(text, offset)}"
        raise FileMistake(f"not UTF-8: {byte}. Save the file as UTF-8.") from error


def _line_of(text: bytes, offset: int) -> str:
    return f" (line {text.count(10, 0, offset) + 1})"


def _duplicate_versions(migrations: Sequence[Migration]) -> list[str]:
    return [
        f"{one.path} and {other.name}.sql: the same version {one.version}."
        for one, other in pairwise(migrations)
        if one.version == other.version
    ]
