"""Writes lost rows into a new folder: a file per table in the text format of COPY, and a script that loads them.

Nothing is ever overwritten: the folder must be new or empty, and every file is created. Rows may be confidential, so
only this user may read the folder and its files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from pgratchet.backups.lost_rows import ABSENT, Losses, TableLoss
from pgratchet.errors import BackupFailed, ConfigurationError
from pgratchet.formatting import format_count, format_size

SCRIPT = "load.sql"
README = "README.txt"
_LONGEST_STEM = 60

_README = """Lost rows of the database "{old}", which the database "{new}" does not have or has differently.

Each .copy file has the rows of one table in the text format of COPY. {script} loads them in one transaction, and sets
sequences forward to where they were:

    cd {folder}
    psql {connection} --set=ON_ERROR_STOP=1 --single-transaction --file={script}

Before you run it:
- Read {script}, and remove the tables that you do not want.
- A row that was changed, and not added, has the same key as the row that is in the database now. Its table stops with
  "duplicate key value". Load such a file into a temporary table, take over the new rows, and look at the others:

    CREATE TEMPORARY TABLE lost (LIKE the_table);
    \\copy lost FROM 'FILE'
    INSERT INTO the_table OVERRIDING SYSTEM VALUE SELECT * FROM lost ON CONFLICT DO NOTHING;
    SELECT lost.*, the_table.* FROM lost JOIN the_table USING (id);  -- the changed rows, as they were and as they are

- Triggers of the tables run.
{notes}"""


class LostRowsExport:
    """Writes at most `limit` bytes of rows into a folder. A table whose rows do not fit is left out."""

    def __init__(self, folder: Path, limit: int) -> None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigurationError(
                f"{folder} is not an empty folder",
                detail="An export never overwrites a file.",
                hint="Give a folder that does not exist: --export-lost=DIR.",
            )
        self._folder, self._limit = folder, limit
        self._size = 0
        self._number = 0
        self.left_out: list[tuple[str, int]] = []

    def write(self, table: str, lines: Iterator[bytes]) -> tuple[int, str | None]:
        """Write the rows of a table. Returns their number, and the name of the file, or None when there is none."""
        first = next(lines, None)
        if first is None:
            return 0, None
        self._number += 1
        name = f"{self._number:04}-{_stem(table)}.copy"
        try:
            rows, size = self._write_file(self._folder / name, chain((first,), lines))
        except BaseException:
            (self._folder / name).unlink()
            raise
        if self._size + size > self._limit:
            (self._folder / name).unlink()
            self.left_out.append((table, size))
            return rows, None
        self._size += size
        return rows, name

    def _write_file(self, path: Path, lines: Iterator[bytes]) -> tuple[int, int]:
        """Write rows while they fit. Returns the number and the size of all rows."""
        rows, size = 0, 0
        with _create(path) as file:
            for line in lines:
                rows, size = rows + 1, size + len(line)
                if self._size + size <= self._limit:
                    file.write(line)
        return rows, size

    def finish(self, losses: Losses, connection: Mapping[str, str]) -> None:
        """Write the script and the README. `connection` has the libpq parameters, without a password, to load them.

        Raises BackupFailed when tables did not fit.
        """
        order = {name: number for number, name in enumerate(losses.load_order)}
        written = sorted((loss for loss in losses.tables if loss.file), key=lambda loss: order.get(loss.table, 0))
        with _create(self._folder / SCRIPT) as file:
            file.write("".join(_script(losses, written)).encode())
        with _create(self._folder / README) as file:
            file.write(self._readme(losses, connection).encode())
        with _create(self._folder / ".gitignore") as file:
            file.write(b"# Rows of a database do not belong into a repository.\n*\n")
        if self.left_out:
            raise BackupFailed(
                f"the lost rows are larger than {format_size(self._limit)}",
                detail=f"Left out: {', '.join(f'{table} ({format_size(size)})' for table, size in self.left_out)}. "
                f"The other tables are in {self._folder}.",
                hint="Raise --max-size=MB, and give another folder.",
            )

    def _readme(self, losses: Losses, connection: Mapping[str, str]) -> str:
        notes = [f"- {loss.table}: {loss.note}.\n" for loss in losses.tables if loss.note]
        notes += [f"- {table} was left out: its rows are {format_size(size)}.\n" for table, size in self.left_out]
        now = losses.large_objects_now
        if losses.large_objects != now:
            notes.append(f"- Large objects are not here: {losses.large_objects} then, {now} now.\n")
        return _README.format(
            old=losses.old_database,
            new=losses.database,
            connection=_shell_quoted(connection_string({**connection, "dbname": losses.database})),
            folder=_shell_quoted(str(self._folder)),
            script=SCRIPT,
            notes="".join(notes),
        )


def _script(losses: Losses, written: Sequence[TableLoss]) -> Iterator[str]:
    yield "\\encoding UTF8\n"
    for loss in written:
        yield f"\n-- {_one_line(loss.table)}: {format_count(loss.rows or 0, 'row')}"
        yield f"; {_one_line(loss.note)}\n" if loss.note else "\n"
        columns = f" ({', '.join(loss.columns)})" if loss.columns else ""
        command = f"\\copy {loss.table}{columns} FROM '{loss.file}'\n"
        if "\n" in command[:-1] or "\r" in command:
            yield "-- psql cannot load it: a name contains a line break.\n"
        elif loss.note == ABSENT:
            yield f"-- Create the table first, then run:\n-- {command}"
        else:
            yield command
    for sequence in losses.sequences:
        if sequence.now is not None and "\n" not in sequence.sequence:
            yield f"\n-- The sequence is at {sequence.now} now, and was at {sequence.old}.\n"
            name, farther = sequence.sequence.replace("'", "''"), "greatest" if sequence.old > sequence.now else "least"
            value = f"{farther}(last_value, {sequence.old})"
            yield f"SELECT pg_catalog.setval('{name}', {value}) FROM {sequence.sequence};\n"  # noqa: S608  quoted


def _create(path: Path) -> BinaryIO:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _stem(table: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "_", table)[:_LONGEST_STEM]


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


def _shell_quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)


def connection_string(parameters: Mapping[str, str]) -> str:
    """Write libpq parameters as a connection string, with quotes where they are needed."""
    return " ".join(f"{name}={_conninfo_quoted(value)}" for name, value in parameters.items() if value)


def _conninfo_quoted(value: str) -> str:
    if re.fullmatch(r"[\w.,:/+-]+", value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
