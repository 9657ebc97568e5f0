"""Converts another tool's migrations to files of ours. Pure: nothing is read or written.

A migration whose text cannot run here has an obstacle. A file of ours with the same name, written by a person, is then
adopted in its place.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pgratchet.adopt.frames import remove_frames
from pgratchet.adopt.tools.tool import ToolMigration, statements_of
from pgratchet.errors import ConfigurationError
from pgratchet.migrations import file_names, repeatables, scripts
from pgratchet.migrations.files import REPEATABLE, Migration


@dataclass(frozen=True, slots=True)
class ConvertedFile(Migration):
    """Our file made from another tool's migration. The file may not exist on disk yet.

    `is_mended` means that a person wrote it in place of the tool's text.
    """

    body: bytes = b""
    is_mended: bool = False

    def text(self) -> bytes:
        return self.body

    @property
    def first_row(self) -> str:
        """The name of the history row of the file's only run, or of the first run of a repeatable."""
        return repeatables.row_name(self.name, 1) if self.is_repeatable else self.name


@dataclass(frozen=True, slots=True)
class Converted:
    """A file with remarks, and the sentence that says why it cannot run; empty when it can."""

    file: ConvertedFile
    obstacle: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Conversion:
    """Converts the migrations of a tool with these tables.

    `existing` are the files in our folder and `recorded` the checksums in our history, by name. `mended` are names or
    patterns of files that are adopted in place of the tool's.
    """

    tool: str
    tables: tuple[str, ...] = ()
    existing: Mapping[str, Migration] | None = None
    recorded: Mapping[str, str] | None = None
    mended: tuple[str, ...] = ()

    def convert(self, migration: ToolMigration, name: str, *, is_pending: bool) -> Converted:
        """Our file for a migration. The tool's text is replaced by a file of ours where that is chosen or needed."""
        unframed = remove_frames(migration.up, transactional=migration.transactional)
        text = _text(migration, unframed.text, self.tool, transactional=unframed.transactional)
        file = converted_file(name, text)
        obstacle = migration.obstacle or _mistakes(file) or (migration.guard if is_pending else "")
        if replacement := self._replacement(name, file, obstacle):
            return Converted(replacement, _mistakes(replacement), self._remarks(replacement.body))
        remarks = [migration.guard] if migration.guard and not obstacle else []
        remarks += [_UNFRAMED[unframed.transactional]] if unframed.removed else []
        remarks += [_MODE] if unframed.has_mode else []
        remarks += [_EMPTY] if not obstacle and not statements_of(unframed.text) else []
        return Converted(file, obstacle, (*remarks, *self._remarks(text)))

    def _replacement(self, name: str, file: ConvertedFile, obstacle: str) -> ConvertedFile | None:
        """The file of ours to adopt in place of the tool's; None to adopt the tool's."""
        ours = (self.existing or {}).get(name)
        if ours is None or ours.checksum == file.checksum:
            return None
        is_recorded = ours.checksum == (self.recorded or {}).get(name)
        if obstacle or is_recorded or any(fnmatchcase(name, pattern) for pattern in self.mended):
            return converted_file(name, ours.text(), is_mended=True)
        return None

    def _remarks(self, text: bytes) -> tuple[str, ...]:
        """Name the tool's own tables in a text, which an empty database does not have."""
        return tuple(
            f"It uses {table}, a table of {self.tool}, which an empty database does not have."
            for table in self.tables
            if _mentions(text.decode(), table)
        )


_EMPTY = "It has no SQL statement."
_MODE = "Its isolation level is not adopted: here it is READ COMMITTED."
_UNFRAMED = {
    True: "BEGIN and COMMIT are taken out: here the file is one transaction.",
    False: "BEGIN and COMMIT are taken out: here each statement is a transaction.",
}


def _mentions(text: str, table: str) -> bool:
    content, pattern = text.encode(), re.compile(rf"(?<![\w$]){re.escape(table)}(?![\w$])", re.IGNORECASE)
    return any(pattern.search(content[s.start : s.end].decode()) for s in statements_of(text))


def _text(migration: ToolMigration, up: str, tool: str, *, transactional: bool) -> bytes:
    """The migration in our form. With an obstacle it becomes a stand-in, which the applier refuses to run."""
    name = f"{' '.join(migration.name.split())} of {tool}"
    head = "" if transactional else "-- migrate: no-transaction\n"
    if migration.obstacle:
        head += f"-- migrate: stand-in\n-- Stands for {name}, which cannot run here. {_one_line(migration.obstacle)}\n"
    elif not statements_of(up):
        head += f"-- migrate: empty\n-- {name} has no SQL statement.\n"
    return f"{head}{up.strip()}".encode().rstrip() + b"\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def converted_file(name: str, body: bytes, *, is_mended: bool = False) -> ConvertedFile:
    """Make a file of this name and text."""
    text = body.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    is_repeatable = name.startswith(f"{file_names.REPEATABLE_FOLDER}/")
    version = REPEATABLE if is_repeatable else int(re.sub("T|_.*", "", name))
    checksum = hashlib.sha256(text).hexdigest()
    return ConvertedFile(name, version, checksum, f"{name}.sql", text, is_mended)


def _mistakes(file: ConvertedFile) -> str:
    """The mistakes for which the applier would refuse the file, as sentences; empty without mistakes."""
    if b"\0" in file.body:
        return "It has a NUL byte."
    try:
        scripts.prepare_scripts([file])
    except ConfigurationError as error:
        return " ".join(error.detail.splitlines())
    return ""


def require_runnable(files: Sequence[Migration]) -> str:
    """The mistakes of all files, each on a line; empty without mistakes."""
    try:
        scripts.prepare_scripts(files)
    except ConfigurationError as error:
        return error.detail
    return ""
