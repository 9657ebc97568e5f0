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
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

from pgratchet.errors import ConfigurationError, combine_mistakes
from pgratchet.migrations import file_names, other_files
from pgratchet.migrations.squashed import Replaced, parse_header

_CHUNK = 1_000_000
_MOSTLY_ASCII_IN_UTF16 = 0.3
_MOSTLY_ASCII_IN_UTF32 = 0.6
"""Shares of NUL bytes: half of the bytes of ASCII text are NUL in UTF-16, three quarters in UTF-32."""
_LONGEST_SLUG = 100
REPEATABLE = -1
"""The version of repeatables, which have none."""
_TEMPLATE = """\
-- Write the SQL below. The file runs once, in one transaction. Do not change it after it was applied: write a new one.
-- For CREATE INDEX CONCURRENTLY and VACUUM, add the line:  -- migrate: no-transaction
-- A file without a statement is refused, unless it has the line:  -- migrate: empty
"""
"""The comment of a new file, below its description."""
_LONGEST_REPEATABLE = 96
_REPEATABLE_TEMPLATE = """\
-- Write CREATE OR REPLACE statements for a view, functions or triggers below. The file runs again whenever its text has
-- changed, after the versioned migrations. It needs no order: what it uses may come from another repeatable.
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """A migration file. `checksum` is the SHA-256 of the text, in hex.

    The name of a repeatable migration is `repeatable/NAME`; it has no version, which is -1.
    `replaces` are the files in whose place a squash file is.
    """

    name: str
    version: int
    checksum: str
    path: str
    replaces: tuple[Replaced, ...] = field(default=(), kw_only=True)

    @property
    def is_repeatable(self) -> bool:
        return self.version == REPEATABLE

    def text(self) -> bytes:
        """Read the file again; ConfigurationError when the checksum has changed."""
        try:
            text, checksum = _read_text(self.path)
        except FileMistake:
            text, checksum = b"", ""
        if checksum != self.checksum:
            raise ConfigurationError(
                f"{self.path} was changed during the run",
                hint="Finish editing the file, then run again.",
            )
        return text


def read(folder: Path) -> tuple[Migration, ...]:
    """Read the folder's migrations, in order of version, and then the repeatable ones in its sub-folder, by name.

    A single ConfigurationError names every mistake. Migrations are the files with the suffix .sql, except hidden ones
    and the snapshot of the schema. `other_files` decides about everything else.
    """
    if not folder.is_dir():
        raise ConfigurationError(
            f"no migrations folder {folder}",
            hint="Name the folder with --sql=DIR, or create it with `invoke new NAME`.",
        )
    migrations: list[Migration] = []
    mistakes: list[str] = []
    # scandir and open are faster than pathlib: status reads every file, and a folder may have thousands.
    with os.scandir(folder) as entries:
        in_order = sorted(entries, key=lambda entry: entry.name)
    for entry in in_order:
        name = entry.name
        try:
            if other_files.has_its_own_meaning(entry):
                continue
            if _looks_like_sql(name) and not other_files.is_hidden(name) and not entry.is_dir():
                migrations.append(_read_file(f"{folder}/{name}", name))
            elif reason := other_files.mistake(entry):
                raise FileMistake(reason)
        except FileMistake as mistake:
            mistakes.append(f"{folder}/{name}: {mistake}")
    migrations.sort(key=lambda migration: migration.version)
    mistakes += _duplicate_versions(migrations)
    repeatables, repeatable_mistakes = _read_repeatables(folder)
    if mistakes or repeatable_mistakes:
        summary = "the migrations cannot be used"
        raise combine_mistakes(summary, [*mistakes, *repeatable_mistakes], "Fix each file; nothing was run.")
    return (*migrations, *repeatables)


def from_contents(files: Iterable[tuple[str, bytes]]) -> tuple[Migration, ...]:
    """Make migrations of files outside a folder, by name and content, in order of version.

    Files without a migration name are left out. The text of these migrations cannot be read again.
    """
    migrations = []
    for name, raw in files:
        if match := file_names.FILE_NAME.fullmatch(name):
            with suppress(FileMistake):
                text, checksum = _normalize(raw)
                file = Migration(name[:-4], _parse_version(match), checksum, "", replaces=parse_header(text))
                migrations.append(file)
    return tuple(sorted(migrations, key=lambda migration: migration.version))


def repeatables_from_contents(files: Iterable[tuple[str, bytes]]) -> tuple[Migration, ...]:
    """Make repeatables of files outside a folder, by path below the migrations folder and content."""
    repeatables = []
    for path, raw in files:
        with suppress(FileMistake):
            repeatables.append(Migration(path[:-4], REPEATABLE, _normalize(raw)[1], ""))
    return tuple(repeatables)


def create(folder: Path, name: str, moment: datetime) -> Path:
    """Write a migration without a statement whose version is the UTC time `moment`, or the next second that is free.

    Never overwrites a file or reuses a version. `migrate` refuses the file until it has a statement.
    """
    slug = _make_slug(name, _LONGEST_SLUG)
    folder.mkdir(parents=True, exist_ok=True)
    while any(folder.glob(f"{moment:%Y%m%dT%H%M%S}_*.sql")):
        moment += timedelta(seconds=1)
    path = folder / f"{moment:%Y%m%dT%H%M%S}_{slug}.sql"
    with path.open("x", encoding="utf-8") as file:
        comment = " ".join(file_names.description_of(name).split())  # on one line: a second line would be SQL
        file.write(f"-- {comment}\n{_TEMPLATE}\n")
    return path


def create_repeatable(folder: Path, name: str) -> Path:
    """Write a repeatable migration without a statement; ConfigurationError when there is a file of that name."""
    slug = _make_slug(name, _LONGEST_REPEATABLE)
    path = folder / file_names.REPEATABLE_FOLDER / f"{slug}.sql"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(f"-- {' '.join(file_names.description_of(name).split())}\n{_REPEATABLE_TEMPLATE}\n")
    except FileExistsError:
        raise ConfigurationError(
            f"{path} exists already",
            detail="Nothing was written.",
            hint="Change that file, and it runs again; or give another name.",
        ) from None
    return path


def _make_slug(name: str, longest: int) -> str:
    """The part of a file's name that a description gives; ConfigurationError when there is none, or a long one."""
    slug = file_names.make_slug(name)
    if not slug:
        raise ConfigurationError(
            f'"{name}" gives no file name',
            detail="It has none of the letters a to z and no digit.",
            hint="Describe the migration in a few words with the letters a to z or digits.",
        )
    if len(slug) > longest:
        raise ConfigurationError(
            f"the description is too long for a file name: it has {len(slug)} characters",
            detail=f"The longest has {longest}.",
            hint="Describe the migration in a few words, and write the rest as a comment into the file.",
        )
    return slug


def read_repeatable(path: str, name: str) -> Migration:
    """Read a file of the folder of repeatable migrations; FileMistake when that is not possible."""
    _require_file(path)
    return Migration(f"{file_names.REPEATABLE_FOLDER}/{name[:-4]}", REPEATABLE, _read_text(path)[1], path)


class FileMistake(Exception):
    """A mistake in a file, combined later with the mistakes in others."""


def _looks_like_sql(name: str) -> bool:
    return name.strip().lower().endswith(".sql")


def _read_file(path: str, name: str) -> Migration:
    if file_names.undoes(name):
        raise FileMistake("a down migration. It would run as the next step: delete it, or move it elsewhere.")
    match = file_names.FILE_NAME.fullmatch(name)
    if match is None:
        raise FileMistake(file_names.describe_fault(name))
    _require_file(path)
    text, checksum = _read_text(path)
    return Migration(name[:-4], _parse_version(match), checksum, path, replaces=parse_header(text))


def _read_repeatables(folder: Path) -> tuple[tuple[Migration, ...], list[str]]:
    """Read the sub-folder of the repeatable migrations; returns these and the mistakes, none without that folder."""
    if not os.path.isdir(f"{folder}/{file_names.REPEATABLE_FOLDER}"):  # noqa: PTH112
        return (), []
    from pgratchet.migrations import repeatables

    return repeatables.collect(folder)


def _require_file(path: str) -> None:
    if not os.path.isfile(path):  # noqa: PTH113
        raise FileMistake("not a regular file. It is a broken link, a pipe or a device.")


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
    if other := name_wide_encoding(raw):
        raise FileMistake(f"the file is {other}. Save it as UTF-8.")
    if (nul := text.find(b"\0")) >= 0:
        raise FileMistake(f"a NUL byte at byte {nul + 1}{_line_of(text, nul)}, which PostgreSQL cannot store.")
    if not text.isascii():
        _refuse_other_encodings(text)
    return text, hashlib.sha256(text).hexdigest()


def name_wide_encoding(raw: bytes) -> str | None:
    """Return the name of an encoding with two or four bytes for each character, with or without a byte order mark."""
    start = raw[:1000]
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    share = start.count(0) / max(1, len(start))
    if share > _MOSTLY_ASCII_IN_UTF32 and len(raw) % 4 == 0:
        return "UTF-32"
    return "UTF-16" if share > _MOSTLY_ASCII_IN_UTF16 and len(raw) % 2 == 0 else None


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
