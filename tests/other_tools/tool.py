"""What other tools have in common: they are fetched once, set up in a folder, and run as processes."""

from __future__ import annotations

import os
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from tests import ROOT
from tests.other_tools.histories import Tables
from tests.other_tools.sample import SampleMigration
from tests.requirements import require, skip_without
from tests.servers.databases import Database

CACHE = ROOT / ".pgratchet" / "other_tools"
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "JAVA_HOME")
_NPM = (
    *("--no-audit", "--no-fund", "--ignore-scripts", "--save-exact", "--engine-strict", "--loglevel=error"),
    *("--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=3000"),
)
_missing: dict[str, str] = {}


class OtherTool(ABC):
    """A tool. `name` is its name in `invoke adopt --from`; `history` is its own tables, by column and type."""

    name: ClassVar[str]
    version: ClassVar[str]
    programs: ClassVar[tuple[str, ...]]
    history: ClassVar[Tables]
    checksum: ClassVar[str] = ""
    """The column, if any, that has the SHA-256 of a file as it is."""
    concurrent: ClassVar[bool] = True
    """Whether a migration can be told to run outside a transaction."""
    rebuilds: ClassVar[bool] = True
    """Whether its migrations are SQL, from which the schema can be made again."""
    files: ClassVar[str] = "migrations"
    """Where the migrations lie in the project."""

    @property
    def label(self) -> str:
        return f"{self.name}-{self.version}"

    @abstractmethod
    def fetch(self, home: Path) -> None:
        """Install the tool into a new folder."""

    @abstractmethod
    def write(self, project: Path, steps: Sequence[SampleMigration]) -> None:
        """Write a project of the tool with these migrations."""

    @abstractmethod
    def migrate(self, project: Path, database: Database) -> None:
        """Apply pending migrations."""

    def lay_out(self, project: Path, steps: Sequence[SampleMigration]) -> None:
        self.write(project, steps if self.concurrent else [step.in_transaction() for step in steps])

    def home(self) -> Path:
        """The folder of the tool, which is fetched if necessary. Skips the test if that fails."""
        for program in self.programs:
            require(program)
        home = CACHE / self.label
        if not home.exists() and self.label not in _missing:
            self._fetch_into(home)
        if self.label in _missing:
            skip_without(self.label, "let npm and pip reach their registries", _missing[self.label])
        return home

    def _fetch_into(self, home: Path) -> None:
        """Create the folder in one step, so that an interrupted run leaves nothing incomplete."""
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as partial:
            home_folder = Path(partial) / "home"
            home_folder.mkdir()
            try:
                self.fetch(home_folder)
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                _missing[self.label] = _gist(str(error.output or error))
            else:
                home_folder.rename(home)


def run(command: Sequence[str], cwd: Path, extra: Mapping[str, str]) -> None:
    """Run a tool with only PATH, HOME and a few more variables of the caller's environment."""
    done = _run(command, cwd, extra)
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout}"


def fetched(command: Sequence[str], home: Path) -> None:
    """Run a package manager with the settings of this machine. Raises the errors of subprocess."""
    _run(command, home, os.environ).check_returncode()


def _gist(output: str) -> str:
    """The first error lines in the output of a package manager."""
    lines = output.strip().splitlines()
    return " ".join([line for line in lines if line.startswith(("ERROR", "npm error"))][:3] or lines[-1:])


def npm(home: Path, *packages: str) -> None:
    (home / "package.json").write_text('{"private": true, "type": "module"}\n', encoding="utf-8")
    fetched(("npm", "install", *_NPM, *packages), home)


def _run(command: Sequence[str], cwd: Path, extra: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    variables = {key: os.environ[key] for key in _KEPT if key in os.environ}
    return subprocess.run(
        command,
        cwd=cwd,
        env=variables | dict(extra),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
