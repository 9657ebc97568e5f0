"""The image of templates/docker: built with Docker, and run without root on a read-only file system."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import ROOT
from tests.requirements import require, skip_without
from tests.servers.databases import Database

BASE = "debian:bookworm-slim"
"""As the other tests' hosts; its Python is 3.11."""
TAG = "pgratchet-migrate:tests"
RunImage = Callable[..., "subprocess.CompletedProcess[str]"]


def docker(*arguments: str, timeout: int = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=timeout)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image, built from wheels in its context, so that the build needs no package index."""
    require("docker")
    require("a Docker engine")
    context = tmp_path_factory.mktemp("image")
    for part in ("ops", "inventory", "templates", "sql"):
        shutil.copytree(ROOT / part, context / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tasks.py", context)
    shutil.copy(ROOT / "constraints.txt", context)
    command = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "--python-version=3.11"]
    command += ["--require-hashes", "-r", "constraints.txt", "-d", "wheels"]
    fetched = subprocess.run(command, cwd=context, capture_output=True, text=True, check=False)
    if fetched.returncode:
        skip_without("wheels of the dependencies", "let pip reach a package index", fetched.stderr[-200:])
    arguments = (f"BASE={BASE}", "PIP_NO_INDEX=1", "PIP_FIND_LINKS=/build")
    options = [each for argument in arguments for each in ("--build-arg", argument)]
    file = str(context / "templates" / "docker" / "Dockerfile")
    built = docker("build", "--network=host", "-q", "-t", TAG, "-f", file, *options, str(context))
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    return TAG


@pytest.fixture
def run_image(image: str, database: Database, tmp_path: Path) -> Iterator[RunImage]:
    """Run the image as Kubernetes does: as its own user, on a read-only root, with backups and /tmp mounted."""
    backups = tmp_path / "backups"
    backups.mkdir()
    backups.chmod(0o777)
    mounts = ("--read-only", "--tmpfs=/tmp", f"--volume={backups}:/app/backups", "--cap-drop=ALL")

    def started(*arguments: str, program: str = "invoke") -> subprocess.CompletedProcess[str]:
        options = ("--network=host", "--env=DATABASE_URL", f"--entrypoint={program}", image, *arguments)
        return subprocess.run(
            ["docker", "run", "--rm", *mounts, *options],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "DATABASE_URL": database.url},
        )

    yield started
    # What the image's user has written there is not this one's to remove.
    clear = ("--entrypoint=find", image, "/b", "-mindepth", "1", "-delete")
    docker("run", "--rm", "--user=0", f"--volume={backups}:/b", *clear)


@pytest.mark.parametrize("server", ["outside"], indirect=True)
def test_the_image_migrates_without_root(run_image: RunImage, database: Database) -> None:
    assert run_image("-u", program="id").stdout == "10001\n"
    before = run_image("status", "--json")
    assert '"pending": 1' in before.stdout, before.stderr
    done = run_image("migrate", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert database.rows("SELECT name FROM ratchet.migrations") == [("001_initial_schema",)]
    assert run_image("status", "--check").returncode == 0
    assert '"complete": true' in run_image("backups", "--json").stdout


def test_the_image_contains_no_trace_of_the_package_index(image: str) -> None:
    output = docker("inspect", image).stdout + docker("run", "--rm", "--entrypoint=sh", image, "-c", "env; ls /").stdout
    assert "PIP_" not in output
    assert "build" not in output.splitlines()
