"""Programs, libraries and systems that tests need. A test without one is skipped with a line that says what to install.

    @requires("sshd", "Linux")      on a test, a parameter, or a module as `pytestmark`
    require("sshd")                 in a fixture or a helper; returns the path of a program
    import_or_skip("moto")          a library that may be missing
    skip_without("a server", "start Docker")    anything else

A new need is a line in one of the three tables. The run ends with a summary of the skipped tests by need; `pytest -rs`
lists each of them.
"""

from __future__ import annotations

import ctypes.util
import gc
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.faults import socket_filter

IS_LONG = os.environ.get("PGRATCHET_TESTS") == "long"
"""Whether tests that take minutes are wanted, and more rounds of others."""
SUMMARY_LINES = 10
_PREFIX = "needs "
_FOLDERS = os.pathsep.join(
    (str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin")
)
_PROGRAMS = {
    "ansible-inventory": "pip install ansible-core",
    "chromium": "apt-get install chromium",
    "docker": "install the docker command",
    "git": "apt-get install git",
    "java": "apt-get install default-jre-headless",
    "lint-imports": "pip install import-linter",
    "node": "install Node.js",
    "npm": "install Node.js",
    "openssl": "apt-get install openssl",
    "pgbouncer": "apt-get install pgbouncer",
    "pgrep": "apt-get install procps",
    "ps": "apt-get install procps",
    "squawk": "pip install squawk-cli",
    "ssh": "apt-get install openssh-client",
    "ssh-keygen": "apt-get install openssh-client",
    "ssh-keyscan": "apt-get install openssh-client",
    "sshd": "apt-get install openssh-server",
}
_LIBRARIES = {
    "ansible": "pip install ansible-core",
    "check_jsonschema": "pip install check-jsonschema",
    "dotenv": "pip install python-dotenv",
    "flask_cors": "pip install flask-cors",
    "hypothesis": "pip install hypothesis",
    "kubernetes_validate": "pip install kubernetes-validate",
    "moto": "pip install 'moto[s3]'",
    "obstore": "pip install obstore",
    "postgast": "pip install postgast",
    "pyrage": "pip install pyrage",
    "testcontainers": "pip install testcontainers",
    "xdist": "pip install pytest-xdist",
}


@cache
def docker_answers() -> bool:
    try:
        import docker
        from docker.errors import DockerException
    except ImportError:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # docker leaves the socket open if no engine answers
        try:
            with closing(docker.from_env(timeout=5)) as client:
                return bool(client.ping())
        except (DockerException, OSError):
            return False
        finally:
            gc.collect()


def _node_reads_env_files() -> bool:
    node = find_program("node")
    if node is None:
        return False
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.match(r"v(\d+)\.(\d+)", version)
    return match is not None and (int(match[1]), int(match[2])) >= (20, 6)


_SYSTEMS: dict[str, tuple[Callable[[], bool], str]] = {
    "a Docker engine": (docker_answers, "start one"),
    "Linux": (lambda: sys.platform == "linux", "run the tests there"),
    "a socket filter": (socket_filter.is_permitted, "run the tests as root on Linux, with CAP_NET_ADMIN"),
    "libpq": (lambda: ctypes.util.find_library("pq") is not None, "apt-get install libpq5"),
    "files in memory": (lambda: hasattr(os, "memfd_create"), "run the tests on Linux"),
    "Node.js 20.6": (_node_reads_env_files, "install Node.js 20.6 or later"),
    "root": (lambda: os.geteuid() == 0, "run the tests as root"),
}


def requires(*names: str) -> pytest.MarkDecorator:
    """Mark a test, a parameter or a module that needs these."""
    for name in names:
        if name not in _PROGRAMS | _LIBRARIES | _SYSTEMS:
            raise KeyError(f"{name!r} is not in the tables of {__name__}")
    return pytest.mark.requires(*names)


def require(name: str) -> str:
    """Return the path of a program, or "" for a library or a system; skip the test if it is missing."""
    if name in _PROGRAMS:
        return find_program(name) or skip_without(name, _PROGRAMS[name])
    if name in _LIBRARIES:
        import_or_skip(name)
        return ""
    is_met, action = _SYSTEMS[name]
    return "" if is_met() else skip_without(name, action)


def find_program(name: str) -> str | None:
    """Search beside this Python, on PATH, and where servers are installed."""
    return shutil.which(name, path=_FOLDERS)


def import_or_skip(name: str) -> Any:
    """Return a library; at the top of a module a missing one skips the whole module."""
    return pytest.importorskip(name, reason=_reason(name, _LIBRARIES[name]), exc_type=ImportError)


def skip_without(need: str, action: str, detail: str = "") -> NoReturn:
    """Skip the test. Tests with the same need and action are one line of the summary, whatever the detail."""
    pytest.skip(_reason(need, action) + (f" [{detail.strip()}]" if detail else ""))


def _reason(need: str, action: str) -> str:
    return f"{_PREFIX}{need}: {action}"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "requires(*names): programs, libraries or systems, see tests/requirements.py")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("requires"):
        for name in mark.args:
            require(name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the skipped tests by reason, the most frequent first, in at most ten lines."""
    counts = Counter(_reason_of(report) for report in terminalreporter.stats.get("skipped", ()))
    if counts:
        terminalreporter.section("skipped")
        for line in summary(counts):
            terminalreporter.write_line(line)


def summary(counts: Counter[str]) -> list[str]:
    """A line for each reason; reasons that do not fit share the last line."""
    reasons = counts.most_common()
    shown = reasons if len(reasons) <= SUMMARY_LINES else reasons[: SUMMARY_LINES - 1]
    lines = [f"{number:5} {reason}" for reason, number in shown]
    if rest := reasons[len(shown) :]:
        lines.append(f"{sum(number for _, number in rest):5} for {len(rest)} other reasons: pytest -rs lists them")
    return lines


def _reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The reason without its detail in brackets."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = text.removeprefix("Skipped: ").partition("\n")[0]
    return reason.partition(" [")[0] if reason.startswith(_PREFIX) else reason


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in CI that skipped a test for Docker although an engine answers: the set-up is broken."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", ()) if reporter else ()
    names = [report.nodeid for report in skipped if "Docker" in _reason_of(report)]
    if os.environ.get("CI") == "true" and names and docker_answers.__wrapped__():  # asked again
        print(f"\nskipped for Docker, although an engine answers: {names}")  # noqa: T201
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
