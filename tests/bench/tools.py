"""What is timed: pgratchet as a user runs it, and the floors under it. The peers have a module of their own.

A floor is the plainest thing that does the same work. For applying it is psql, which does no more than send: file by
file with a history of its own, or one file in one transaction; it waits for the end of each statement, so that a tool
which sends many at once can be below it. For a line with a delay it is everything in one message. For a run that
finds nothing to do it is an Invoke task that connects and asks one question, so that what Python, Invoke and psycopg
take to start is in the floor, and what is above it is ours.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from pgratchet import embedded
from pgratchet.version import __version__
from tests import ROOT
from tests.bench.measure import Command
from tests.bench.server import BenchDatabase

_PARTS = ("ops", "inventory", "templates")


@dataclass(frozen=True, slots=True)
class Files:
    """What is to be applied: `count` files, numbered from 1. `proof` is a query whose number, behind a run that did
    all of it, is `proven`."""

    name: str
    count: int
    text: Callable[[int], str]
    proof: str
    proven: int


class Tool(ABC):
    """One contestant. `lay_out` writes what it needs into a new folder, from which its commands then run."""

    name: str

    @property
    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def lay_out(self, folder: Path, files: Files) -> None: ...

    @abstractmethod
    def migrate(self, folder: Path, database: BenchDatabase) -> Command:
        """Apply what is pending."""

    def again(self, folder: Path, database: BenchDatabase) -> Command:
        """Find that nothing is pending."""
        return self.migrate(folder, database)

    def status(self, folder: Path, database: BenchDatabase) -> Command:
        """Say what is applied. The nearest thing where a tool has no word for it."""
        return self.again(folder, database)


class Ours(Tool):
    """A checkout of its own, as a user has it."""

    name = "pgratchet"
    version = __version__

    def lay_out(self, folder: Path, files: Files) -> None:
        for part in _PARTS:
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "tasks.py", folder)
        compile_all(sys.executable, folder / "ops")
        write_files(folder / "migrations", files)

    def migrate(self, folder: Path, database: BenchDatabase) -> Command:
        return self._invoke(folder, database, "migrate", "--without-backup=benchmark")

    def status(self, folder: Path, database: BenchDatabase) -> Command:
        return self._invoke(folder, database, "status")

    def _invoke(self, folder: Path, database: BenchDatabase, *arguments: str) -> Command:
        called = (*arguments, "--env=dev", "--sql=migrations", "--json")
        return Command((sys.executable, "-m", "invoke", *called), folder, {"DATABASE_URL": database.url()})


class _Psql(Tool):
    """The package's own psql: what stands on a PATH may be a wrapper that costs more than psql does."""

    @property
    def version(self) -> str:
        result = subprocess.run([_psql(), "--version"], capture_output=True, text=True, check=True)
        return result.stdout.split()[2]

    def _command(self, folder: Path, database: BenchDatabase, *arguments: str) -> Command:
        options = ("-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database.url(password=False))
        return Command((_psql(), *options, *arguments), folder, {"PGPASSWORD": database.password})


class PsqlByFile(_Psql):
    """One psql for all files, each in its transaction with a row of history."""

    name = "psql, file by file"

    def lay_out(self, folder: Path, files: Files) -> None:
        # Not beside a task file: Python lists the folder that it imports from.
        paths = write_files(folder / "migrations", files)
        with (folder / "migrations" / "all.psql").open("w", encoding="utf-8") as script:
            script.write(_HISTORY)
            script.writelines(_recorded(path) for path in paths)

    def migrate(self, folder: Path, database: BenchDatabase) -> Command:
        return self._command(folder / "migrations", database, "-f", "all.psql")


class PsqlOneFile(_Psql):
    """One file in one transaction, without any history."""

    name = "psql -1 -f"

    def lay_out(self, folder: Path, files: Files) -> None:
        write_files(folder, files)

    def migrate(self, folder: Path, database: BenchDatabase) -> Command:
        return self._command(folder, database, "-1", "-f", file_name(1))


class _Bare(PsqlByFile):
    """An Invoke task of a few lines: Python, Invoke and psycopg are in it, and no more."""

    @property
    def version(self) -> str:
        return f"{metadata.version('invoke')}, psycopg {metadata.version('psycopg')}"

    def lay_out(self, folder: Path, files: Files) -> None:
        super().lay_out(folder, files)
        (folder / "tasks.py").write_text(_BARE_TASKS, encoding="utf-8")
        compile_all(sys.executable, folder)

    def _task(self, folder: Path, database: BenchDatabase, name: str) -> Command:
        return Command((sys.executable, "-m", "invoke", name), folder, {"DATABASE_URL": database.url()})


class BareQuery(_Bare):
    """Where nothing is to be done: connect, and one question to a history that psql made."""

    name = "bare task, one query"

    def migrate(self, folder: Path, database: BenchDatabase) -> Command:
        command = super().migrate(folder, database)
        return replace(command, env={**command.env, "PGOPTIONS": "-c synchronous_commit=off"})  # never timed

    def again(self, folder: Path, database: BenchDatabase) -> Command:
        return self._task(folder, database, "ask")


class BareSend(_Bare):
    """All files as one message: no tool can that keeps a history, or says where an error is."""

    name = "bare task, one message"

    def migrate(self, folder: Path, database: BenchDatabase) -> Command:
        return self._task(folder, database, "send")


def file_name(number: int) -> str:
    return f"{number:06d}_file.sql"


def write_files(
    folder: Path, files: Files, name: Callable[[int], str] = file_name, form: Callable[[int, str], str] | None = None
) -> list[Path]:
    """Write the files, each in the `form` that a tool wants of its number and text."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name(number) for number in range(1, files.count + 1)]
    for number, path in enumerate(paths, 1):
        text = files.text(number)
        path.write_text(form(number, text) if form else text, encoding="utf-8")
    return paths


def compile_all(python: str, folder: Path) -> None:
    """Write the byte code of a folder, as it would be there from the second run on."""
    subprocess.run([python, "-m", "compileall", "-q", str(folder)], check=True, stdout=subprocess.DEVNULL)


def _psql() -> str:
    return str(embedded.programs() / "psql")


def _recorded(path: Path) -> str:
    text = path.read_text("utf-8")
    checksum, body = hashlib.sha256(text.encode()).hexdigest(), text.replace("'", "''")
    return _RECORDED.format(name=path.stem, checksum=checksum, body=body, file=path.name)


_HISTORY = """\
CREATE TABLE history (name text PRIMARY KEY, checksum text NOT NULL, body text NOT NULL, executed_at timestamptz);
"""
_RECORDED = """\
BEGIN;
INSERT INTO history (name, checksum, body) VALUES ('{name}', '{checksum}', '{body}');
\\i {file}
UPDATE history SET executed_at = clock_timestamp() WHERE name = '{name}';
COMMIT;
"""
_BARE_TASKS = """\
import os
from pathlib import Path

from invoke import task


@task
def ask(c):
    import psycopg

    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        print(connection.execute("SELECT count(*) FROM history").fetchone()[0])


@task
def send(c):
    import psycopg

    text = b"".join(path.read_bytes() for path in sorted(Path("migrations").glob("*.sql")))
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(text)
"""


def tables(count: int) -> Files:
    """Small files: a table and an index each."""

    def text(number: int) -> str:
        table = f"t{number}"
        return f"CREATE TABLE {table} (id bigint PRIMARY KEY, name text NOT NULL); CREATE INDEX ON {table} (name);\n"

    proof = r"SELECT count(*) FROM pg_class WHERE relname ~ '^t\d+_name_idx$'"
    return Files(f"tables-{count}", count, text, proof, count)


def inserts(size: int) -> Files:
    """One file of `size` bytes, a row of about 70 bytes to a statement."""

    row = "INSERT INTO items (id, name) VALUES ({:7d}, 'this is the item {:7d}');\n"
    rows = size // len(row.format(0, 0))

    def text(_: int) -> str:
        lines = (row.format(number, number) for number in range(rows))
        return "CREATE TABLE items (id bigint NOT NULL, name text NOT NULL);\n" + "".join(lines)

    return Files(f"inserts-{size}", 1, text, "SELECT count(*) FROM items", rows)


def mixed(count: int) -> Files:
    """One file of `count` statements, each row inserted and then changed."""

    def text(_: int) -> str:
        lines = ["CREATE TABLE items (id bigint PRIMARY KEY, name text NOT NULL);\n"]
        for number in range(1, count // 2):
            lines.append(f"INSERT INTO items (id, name) VALUES ({number}, 'item');\n")
            lines.append(f"UPDATE items SET name = 'the item, renamed' WHERE id = {number};\n")
        return "".join(lines) + "COMMENT ON TABLE items IS 'all of them';\n"

    return Files(f"mixed-{count}", 1, text, "SELECT count(*) FROM items", count // 2 - 1)
