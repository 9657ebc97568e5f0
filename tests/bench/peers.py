"""Other migration tools, each as its manual has it: how they are installed, laid out and called.

They are found in `.pgratchet/bench` of the checkout, where `install` puts them, in pinned versions; what is not
there is named and left out. Each runs every file in a transaction of its own, as we do. What is read by a tool from
the environment is given to it there, so that no password stands in an argument.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
from abc import abstractmethod
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from pgratchet.errors import ConfigurationError
from tests import ROOT
from tests.bench.measure import Command
from tests.bench.server import BenchDatabase
from tests.bench.tools import Files, Tool, compile_all, write_files

FOLDER = ROOT / ".pgratchet" / "bench"
_VENV = FOLDER / "venv"
_NODE = FOLDER / "node"
_MODULES = _NODE / "node_modules"

PYTHON_PACKAGES = (
    "alembic==1.20.1",
    "sqlalchemy==2.1.9",
    "yoyo-migrations==9.0.0",
    "sqlparse==0.6.1",
    "psycopg[binary]==3.3.9",
)
NODE_PACKAGES = ("dbmate@2.36.0", "node-pg-migrate@9.0.0", "pg@8.23.1")


class Peer(Tool):
    """Another tool; `program` is the file that is there when it is installed."""

    @property
    @abstractmethod
    def program(self) -> Path: ...


class DbmatePeer(Peer):
    """The program that its npm package brings, without that package's wrapper, which would cost a Node start."""

    name = "dbmate"

    @property
    def program(self) -> Path:
        machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
        return _MODULES / "@dbmate" / f"{sys.platform}-{machine}" / "bin" / "dbmate"

    @property
    def version(self) -> str:
        return _node_version("dbmate")

    def lay_out(self, folder: Path, files: Files) -> None:
        write_files(folder / "migrations", files, lambda n: f"{n:014d}_file.sql", _dbmate_file)

    def migrate(self, folder: Path, database: BenchDatabase) -> Command:
        return self._command(folder, database, "migrate")  # not `up`, which first looks for the database

    def status(self, folder: Path, database: BenchDatabase) -> Command:
        return self._command(folder, database, "status")

    def _command(self, folder: Path, database: BenchDatabase, verb: str) -> Command:
        options = ("--env-file", "/dev/null", "--no-dump-schema", "--migrations-dir", "migrations")
        return Command((str(self.program), *options, verb), folder, {"DATABASE_URL": database.url("postgres")})


class NodePgMigratePeer(Peer):
    name = "node-pg-migrate"
    program = _MODULES / "node-pg-migrate" / "bin" / "node-pg-migrate.js"

    @property
    def version(self) -> str:
        return _node_version("node-pg-migrate")

    def lay_out(self, folder: Path, files: Files) -> None:
        # Thirteen digits: milliseconds since 1970. Seventeen would be read as a date.
        write_files(folder / "migrations", files, lambda n: f"{1_700_000_000_000 + n}_file.sql", _node_file)

    def migrate(self, folder: Path, database: BenchDatabase) -> Command:
        return self._command(folder, database)

    def status(self, folder: Path, database: BenchDatabase) -> Command:
        return self._command(folder, database, "--dry-run")  # it has no status: this lists what is pending

    def _command(self, folder: Path, database: BenchDatabase, *extra: str) -> Command:
        options = ("--migrations-dir", "migrations", "--no-single-transaction", "--no-verbose")
        called = ("node", str(self.program), "up", *options, *extra)
        return Command(called, folder, {"DATABASE_URL": database.url("postgres")})


class AlembicPeer(Peer):
    """A revision a file, with its SQL as one string; byte code is there, as from the second run on."""

    name = "alembic"
    program = _VENV / "bin" / "alembic"

    @property
    def version(self) -> str:
        return _python_version("alembic")

    def lay_out(self, folder: Path, files: Files) -> None:
        write_files(folder / "scripts" / "versions", files, lambda n: f"r{n:06d}_file.py", _revision)
        (folder / "alembic.ini").write_text(_ALEMBIC_INI, encoding="utf-8")
        (folder / "scripts" / "env.py").write_text(_ALEMBIC_ENV, encoding="utf-8")
        compile_all(str(_VENV / "bin" / "python"), folder / "scripts")

    def migrate(self, folder: Path, database: BenchDatabase) -> Command:
        return self._command(folder, database, "upgrade", "head")

    def status(self, folder: Path, database: BenchDatabase) -> Command:
        return self._command(folder, database, "current", "--check-heads")

    def _command(self, folder: Path, database: BenchDatabase, *arguments: str) -> Command:
        url = database.url("postgresql+psycopg")
        return Command((str(self.program), "-c", "alembic.ini", *arguments), folder, {"DATABASE_URL": url})


class YoyoPeer(Peer):
    name = "yoyo-migrations"
    program = _VENV / "bin" / "yoyo"

    @property
    def version(self) -> str:
        return _python_version("yoyo-migrations")

    def lay_out(self, folder: Path, files: Files) -> None:
        write_files(folder / "migrations", files)

    def migrate(self, folder: Path, database: BenchDatabase) -> Command:
        return self._command(folder, database, "apply")

    def status(self, folder: Path, database: BenchDatabase) -> Command:
        return self._command(folder, database, "list")

    def _command(self, folder: Path, database: BenchDatabase, verb: str) -> Command:
        # It takes the URL as an argument only; libpq has the password by its variable.
        url = database.url("postgresql+psycopg", password=False)
        called = (str(self.program), "--batch", "--no-config-file", verb, "--database", url, "migrations")
        return Command(called, folder, {"PGPASSWORD": database.password})


def find() -> tuple[list[Peer], list[str]]:
    """The peers that are installed, and the names of those that are not."""
    every: Sequence[Peer] = (DbmatePeer(), NodePgMigratePeer(), AlembicPeer(), YoyoPeer())
    return [peer for peer in every if peer.program.exists()], [p.name for p in every if not p.program.exists()]


def install() -> None:
    """Fetch the peers from the package registries, as pip and npm are set up here."""
    npm = shutil.which("npm")
    if npm is None:
        raise ConfigurationError("there is no npm", hint="Install Node.js: two of the peers come by it.")
    _NODE.mkdir(parents=True, exist_ok=True)
    python = str(_VENV / "bin" / "python")
    quiet = ("--no-audit", "--no-fund", "--ignore-scripts", "--save-exact")
    for command in (
        (sys.executable, "-m", "venv", str(_VENV)),
        (python, "-m", "pip", "install", "--disable-pip-version-check", "-q", *PYTHON_PACKAGES),
        (npm, "install", "--prefix", str(_NODE), *quiet, *NODE_PACKAGES),
    ):
        if subprocess.run(command, check=False).returncode:
            raise ConfigurationError("the peers could not be installed", hint="See what pip or npm says above.")


def _node_version(package: str) -> str:
    return str(json.loads((_MODULES / package / "package.json").read_text("utf-8"))["version"])


def _python_version(package: str) -> str:
    folders = [str(folder) for folder in _VENV.glob("lib/python*/site-packages")]
    return next(iter(metadata.distributions(name=package, path=folders))).version


def _dbmate_file(_: int, text: str) -> str:
    return f"-- migrate:up\n{text}\n-- migrate:down\n"


def _node_file(_: int, text: str) -> str:
    return f"-- Up Migration\n{text}\n-- Down Migration\n"


def _revision(number: int, text: str) -> str:
    # A colon before a word would be a parameter to SQLAlchemy.
    escaped = re.sub(r"(?<![:\w\\]):(?=\w)", r"\\:", text)
    down = f"r{number - 1:06d}" if number > 1 else None
    return _REVISION.format(revision=f"r{number:06d}", down=down, sql=escaped)


_ALEMBIC_INI = """\
[alembic]
script_location = %(here)s/scripts
path_separator = os
"""
_ALEMBIC_ENV = """\
import os

from alembic import context
from sqlalchemy import create_engine, pool

engine = create_engine(os.environ["DATABASE_URL"], poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, transactional_ddl=True, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
"""
_REVISION = """\
from alembic import op

revision = {revision!r}
down_revision = {down!r}
branch_labels = None
depends_on = None


def upgrade():
    op.execute({sql!r})


def downgrade():
    pass
"""
