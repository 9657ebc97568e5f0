"""Fixtures: folders of migrations, and `invoke` in a checkout."""

from __future__ import annotations

import compileall
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pgratchet import embedded
from pgratchet.migrations import files as migrations
from tests import ROOT
from tests.servers.databases import Database
from tests.support.invoke import COMMAND, Invoke, InvokeOnDatabase, ProcessResult, environment
from tests.support.migrations import WriteMigrations, WriteRepeatables
from tests.support.schemas import check_printed_json


@pytest.fixture
def sql_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "sql"
    folder.mkdir()
    return folder


@pytest.fixture
def write(sql_folder: Path) -> WriteMigrations:
    """Write migrations by name, and read the folder."""

    def write_files(**files: str) -> tuple[migrations.Migration, ...]:
        for name, text in files.items():
            (sql_folder / f"{name.removeprefix('m')}.sql").write_text(text, encoding="utf-8")
        return migrations.read(sql_folder)

    return write_files


@pytest.fixture
def write_repeatables(sql_folder: Path) -> WriteRepeatables:
    """Write repeatable migrations by name, delete those whose text is None, and read the folder."""

    def write_files(**files: str | None) -> tuple[migrations.Migration, ...]:
        folder = sql_folder / "repeatable"
        folder.mkdir(exist_ok=True)
        for name, text in files.items():
            path = folder / f"{name}.sql"
            if text is None:
                path.unlink()
            else:
                path.write_text(text, encoding="utf-8")
        return migrations.read(sql_folder)

    return write_files


@pytest.fixture(scope="session")
def pristine_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout. It is compiled, so that the hundreds of processes of the tests need not do it again."""
    folder = tmp_path_factory.mktemp("pristine") / "clone"
    for part in ("ops", "inventory", "templates", "sql"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tasks.py", folder)
    compileall.compile_dir(folder / "ops", quiet=1)
    return folder


@pytest.fixture
def checkout(tmp_path: Path, pristine_checkout: Path) -> Iterator[Path]:
    """A copy of this checkout, as a user has it. Its bundled servers are removed with it."""
    folder = tmp_path / "clone"
    shutil.copytree(pristine_checkout, folder)
    yield folder
    for name in ("dev", "test"):
        embedded.remove(embedded.locate(folder, name))


@pytest.fixture
def invoke(checkout: Path) -> Invoke:
    def run(*arguments: str, env: Mapping[str, str] | None = None, status: int | None = 0) -> ProcessResult:
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=checkout,
            env=environment(env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        result = ProcessResult(done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stdout + done.stderr
        assert status is None or done.returncode == status, done.stdout + done.stderr
        check_printed_json(arguments, done.stdout)
        return result

    return run


@pytest.fixture
def invoke_on_database(invoke: Invoke, database: Database) -> InvokeOnDatabase:
    """invoke with DATABASE_URL set to the database of the test."""

    def run(*arguments: str, env: dict[str, str] | None = None, status: int | None = 0) -> ProcessResult:
        return invoke(*arguments, env={"DATABASE_URL": database.url, **(env or {})}, status=status)

    return run
