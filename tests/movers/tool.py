"""What the tools have in common: fetched once, laid out in a folder, run as a process."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from tests.conftest import ROOT, Database
from tests.movers.histories import Tables
from tests.movers.sample import Step

CACHE = ROOT / ".pgratchet" / "movers"
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "JAVA_HOME")
_NPM = ("--no-audit", "--no-fund", "--ignore-scripts", "--save-exact", "--engine-strict", "--loglevel=error")


class Mover(ABC):
    """A tool. `name` is what `invoke adopt --from` calls it; `history` are its own tables, by column and type."""

    name: ClassVar[str]
    version: ClassVar[str]
    programs: ClassVar[tuple[str, ...]]
    history: ClassVar[Tables]
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
        """Put the tool into a new folder."""

    @abstractmethod
    def write(self, project: Path, steps: Sequence[Step]) -> None:
        """The project as the tool wants it, with those migrations."""

    @abstractmethod
    def migrate(self, project: Path, database: Database) -> None:
        """Apply what is pending."""

    def lay_out(self, project: Path, steps: Sequence[Step]) -> None:
        self.write(project, steps if self.concurrent else [step.in_transaction() for step in steps])

    def home(self) -> Path:
        """Where the tool is. The folder appears at once and whole, so that a run which was cut leaves nothing half."""
        for program in self.programs:
            if shutil.which(program) is None:
                pytest.skip(f"there is no {program}, which {self.label} comes by or runs on")
        home = CACHE / self.label
        if not home.exists():
            CACHE.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=CACHE) as partial:
                made = Path(partial) / "home"
                made.mkdir()
                self.fetch(made)
                made.rename(home)
        return home


def run(command: Sequence[str], cwd: Path, extra: Mapping[str, str]) -> None:
    """Run a tool. It sees nothing of the caller's environment but where programs and the home are."""
    done = _run(command, cwd, extra)
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout}"


def fetched(command: Sequence[str], home: Path, package: str) -> None:
    """Run a package manager, as it is set up here; skip where it does not bring the package."""
    done = _run(command, home, dict(os.environ))
    if done.returncode != 0:
        pytest.skip(f"{package} cannot be had: {done.stdout.strip()[-200:]}")


def npm(home: Path, *packages: str) -> None:
    (home / "package.json").write_text('{"private": true, "type": "module"}\n', encoding="utf-8")
    fetched(("npm", "install", *_NPM, *packages), home, packages[0])


def _run(command: Sequence[str], cwd: Path, extra: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    kept = {key: os.environ[key] for key in _KEPT if key in os.environ}
    return subprocess.run(
        command,
        cwd=cwd,
        env=kept | dict(extra),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
