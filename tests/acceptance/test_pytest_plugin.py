"""The pytest plugin in a separate project: fresh databases, several workers, and nothing left behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgratchet import embedded
from pgratchet.database import connection
from tests import ROOT
from tests.requirements import requires

SLOW = """
import os, pathlib, time
def test_slow(pg_database):
    pathlib.Path("ready").write_text(str(os.getpid()))
    time.sleep(60)
"""


@pytest.fixture
def outside_server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A server that the sample project gets as a URL, and that outlives its run."""
    with embedded.scratch() as server:
        yield {**server.parameters(), "dbname": "postgres"}


@pytest.fixture
def sample_project(tmp_path: Path) -> Path:
    folder = tmp_path / "sample"
    shutil.copytree(ROOT / "tests" / "sample_project", folder)
    return folder


def start(folder: Path, *arguments: str, variables: dict[str, str] | None = None) -> subprocess.Popen[str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("TEST_", "PYTEST_"))}
    if variables:
        environ["TEST_DATABASE_URL"] = (
            f"postgresql://{variables['user']}@/postgres?host={variables['host']}&port={variables['port']}"
        )
    environ |= {"PYTHONPATH": str(ROOT / "ops"), "TMPDIR": str(folder.parent)}
    # By its entry point it may be loaded already, where the package is installed.
    command = [sys.executable, "-m", "pytest", "-p", "pgratchet.testing.pytest_plugin", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def ours(parameters: dict[str, str]) -> list[tuple[object, ...]]:
    with connection.connect(parameters) as session:
        return session.execute("SELECT datname FROM pg_database WHERE datname LIKE 'pgratchet_test_%'").fetchall()


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.05)


def answers(folder: Path) -> list[Path]:
    return list(folder.parent.rglob("pgratchet-server.json"))


def test_the_sample_project_passes_on_its_own_server_which_stops(sample_project: Path) -> None:
    (sample_project / "inventory").mkdir()
    (sample_project / "inventory" / "prod.yml").write_text("all: {hosts: {shop: {pg_dbname: shop, roles: [shop_app]}}}")
    (sample_project / "sql" / "0004_grant.sql").write_text("grant select on customers to shop_app;\n")
    with start(sample_project, "-q") as run:
        output, _ = run.communicate(timeout=180)
    assert re.search(r"24 passed", output), output
    assert not answers(sample_project)


@requires("xdist")
def test_two_workers_share_a_server_and_a_template(sample_project: Path) -> None:
    with start(sample_project, "-q", "-n", "2") as run:
        output, _ = run.communicate(timeout=180)
    assert re.search(r"24 passed", output), output
    until(lambda: not answers(sample_project))


def test_a_failing_test_leaves_nothing(sample_project: Path, outside_server: dict[str, str]) -> None:
    (sample_project / "tests" / "test_fails.py").write_text("def test_it(pg_database):\n    assert not pg_database\n")
    with start(sample_project, "-q", "tests/test_fails.py", variables=outside_server) as run:
        output, _ = run.communicate(timeout=120)
    assert "1 failed" in output, output
    assert ours(outside_server) == []


def test_an_interrupt_leaves_nothing(sample_project: Path, outside_server: dict[str, str]) -> None:
    (sample_project / "tests" / "test_slow.py").write_text(SLOW)
    with start(sample_project, "tests/test_slow.py", variables=outside_server) as run:
        until((sample_project / "ready").exists)
        assert ours(outside_server)
        run.send_signal(signal.SIGINT)
        output, _ = run.communicate(timeout=60)
    assert "KeyboardInterrupt" in output
    assert ours(outside_server) == []


def test_the_next_run_drops_only_what_a_killed_run_left(sample_project: Path, outside_server: dict[str, str]) -> None:
    (sample_project / "tests" / "test_slow.py").write_text(SLOW)
    with connection.connect(outside_server) as session:
        session.execute("CREATE DATABASE pgratchet_testing")
    with start(sample_project, "tests/test_slow.py", variables=outside_server) as run:
        until((sample_project / "ready").exists)
        run.kill()
    assert len(ours(outside_server)) > 1, "the killed run left nothing to drop"
    with start(sample_project, "-q", "tests/test_orders.py", "-k", "url", variables=outside_server) as run:
        output, _ = run.communicate(timeout=120)
    assert "1 passed" in output, output
    assert ours(outside_server) == [("pgratchet_testing",)]


def test_a_run_keeps_the_databases_of_a_running_one(sample_project: Path, outside_server: dict[str, str]) -> None:
    (sample_project / "tests" / "test_slow.py").write_text(SLOW)
    with start(sample_project, "tests/test_slow.py", variables=outside_server) as living:
        until((sample_project / "ready").exists)
        before = ours(outside_server)
        with start(sample_project, "-q", "tests/test_orders.py", "-k", "url", variables=outside_server) as run:
            output, _ = run.communicate(timeout=120)
        assert "1 passed" in output, output
        assert ours(outside_server) == before
        living.send_signal(signal.SIGINT)
        living.communicate(timeout=60)
    assert ours(outside_server) == []


def test_the_server_stops_when_a_run_is_killed(sample_project: Path) -> None:
    (sample_project / "tests" / "test_slow.py").write_text(SLOW)
    with start(sample_project, "tests/test_slow.py") as run:
        until((sample_project / "ready").exists)
        assert answers(sample_project)
        run.kill()
    until(lambda: not answers(sample_project))


def test_the_plugin_imports_nothing_heavy_at_start_up() -> None:
    heavy = ("psycopg", "pgratchet.testing.databases", "pgratchet.embedded")
    program = f"import sys, pgratchet.testing.pytest_plugin; print([n for n in {heavy} if n in sys.modules])"
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "ops")}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


ERRORS = """
def test_unknown(pg_migrated_to):
    pg_migrated_to("0099")

def test_failing(pg_migrated_to):
    pg_migrated_to("customers").migrate("sql/9999_bad.sql")

def test_path(pg_migrated_to):
    pg_migrated_to("sql/0001_customers.sql")
"""


def test_errors_show_the_line_of_the_test_and_no_source_of_the_plugin(sample_project: Path) -> None:
    (sample_project / "sql" / "9999_bad.sql").write_text("create tabl b ();\n")
    (sample_project / "test_errors.py").write_text(ERRORS)
    with start(sample_project, "-q", "test_errors.py") as run:
        output, _ = run.communicate(timeout=180)
    assert "2 failed, 1 passed" in output
    assert (
        '>       pg_migrated_to("0099")\nE       pgratchet.errors.ConfigurationError: no migration is named' in output
    )
    assert 'syntax error at or near "tabl"' in output
    assert "pgratchet/" not in output.replace("pgratchet/testing/pytest_plugin", "")
