"""Runs single items of an archive, to learn the SQLSTATE of an error: pg_restore prints only its text.

`pg_restore --use-list --file=-` prints the SQL of an item (https://www.postgresql.org/docs/current/app-pgrestore.html).
Since PostgreSQL's minor versions of August 2025 the output begins and ends with psql's \\restrict and \\unrestrict.
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg

from pgratchet.backups.pg_programs import Programs
from pgratchet.backups.processes import RunningProgram, running, split_lines
from pgratchet.database.target import plain_environment

OpenArchive = Callable[[], "Path | Iterator[bytes]"]
"""Opens an archive from its beginning: a path, or chunks that can be read once."""
_FAILED_ITEM = re.compile(r"from TOC entry (\d+); \d+ \d+ (.*)")
_META_COMMAND = re.compile(rb"\\(un)?restrict [0-9A-Za-z]+\s*")
_ENCODING = re.compile(rb"SET client_encoding = '[^']*';\s*")
_COPY = re.compile(rb"COPY .* FROM stdin;\r?\n")
_TABLESPACE = re.compile(rb"SET default_tablespace = ([^'].*);\s*")
_END_OF_DATA = b"\\.\n"


@dataclass(frozen=True, slots=True)
class ArchiveItem:
    """An item of an archive, by its number there. `name` has the kind, the name and, at the end, the owner."""

    number: int
    name: str

    @property
    def has_data(self) -> bool:
        return self.name.startswith("TABLE DATA ")


def failed_items(messages: Sequence[str]) -> list[ArchiveItem]:
    """Find the items that pg_restore names in its error messages, in their order."""
    names = {int(match[1]): match[2] for text in messages if (match := _FAILED_ITEM.search(text))}
    return [ArchiveItem(number, name) for number, name in names.items()]


@contextmanager
def script_of(
    programs: Programs, open_archive: OpenArchive, numbers: Sequence[int], options: Sequence[str] = ()
) -> Iterator[Iterator[bytes]]:
    """The SQL of some items, as lines. `options` select what is restored, as those of pg_restore."""
    with tempfile.NamedTemporaryFile("w") as selection:
        selection.write("".join(f"{number};\n" for number in numbers))
        selection.flush()
        with _printing(programs, open_archive, [f"--use-list={selection.name}", *options]) as lines:
            yield lines


def find_tablespaces(programs: Programs, open_archive: OpenArchive) -> list[str]:
    """Find the tablespaces that the tables and indexes of an archive are in, as quoted names."""
    with _printing(programs, open_archive, ["--schema-only"]) as lines:
        matches = [match[1].decode(errors="replace") for line in lines if (match := _TABLESPACE.fullmatch(line))]
    return sorted(set(matches))


@contextmanager
def _printing(programs: Programs, open_archive: OpenArchive, options: Sequence[str]) -> Iterator[Iterator[bytes]]:
    content = open_archive()
    command = [programs.path("pg_restore"), "--file=-", *options]
    command += [str(content)] if isinstance(content, Path) else []
    with running(command, plain_environment(), has_input=not isinstance(content, Path)) as program:
        if not isinstance(content, Path):
            threading.Thread(target=_feed, args=(program, content), daemon=True).start()
        yield _lines(program)


def _feed(program: RunningProgram, content: Iterator[bytes]) -> None:
    with suppress(OSError, ValueError):  # the block has ended, and closed the pipe
        for chunk in content:
            program.write(chunk)
            if not program.accepts_input:
                return
        program.end_input()


def _lines(program: RunningProgram) -> Iterator[bytes]:
    yield from split_lines(iter(program.read, b""))
    program.require_success()


def run_script(connection: psycopg.Connection, lines: Iterator[bytes], *, has_data: bool) -> None:
    """Run the SQL of an item. Raises psycopg.Error."""
    statements: list[bytes] = []
    for line in lines:
        if _META_COMMAND.fullmatch(line):
            continue
        if _ENCODING.fullmatch(line):
            connection.execute(line)  # the server decodes all statements of one message at once
        if has_data and _COPY.fullmatch(line):
            connection.execute(b"".join(statements))
            statements.clear()
            with closing(connection.cursor()) as cursor, cursor.copy(line) as copy:
                for row in iter(lines.__next__, _END_OF_DATA):
                    copy.write(row)
        else:
            statements.append(line)
    connection.execute(b"".join(statements))
