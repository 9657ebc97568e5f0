"""Fixtures: hosts that are reached by SSH."""

from __future__ import annotations

import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hosts.containers import Hosts, running_hosts
from tests.hosts.local_sshd import LocalSshd, running_local_sshd
from tests.hosts.local_target import LocalTarget
from tests.hosts.remote_target import RemoteTarget, RunningInvoke
from tests.requirements import require
from tests.servers.databases import Database
from tests.support.invoke import COMMAND, Invoke, environment


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """A bastion and two database hosts, in containers."""
    require("a Docker engine")
    require("openssl")
    with running_hosts(tmp_path_factory.mktemp("hosts")) as started:
        yield started


@pytest.fixture
def local_sshd(tmp_path: Path) -> Iterator[LocalSshd]:
    """An sshd on this machine."""
    require("sshd")
    folder = tmp_path / "sshd"
    folder.mkdir()
    with running_local_sshd(folder) as started:
        yield started


@pytest.fixture
def near(local_sshd: LocalSshd, database: Database, checkout: Path, invoke: Invoke) -> LocalTarget:
    """A database that is reached through the sshd on this machine."""
    target = LocalTarget(local_sshd, database, checkout, invoke)
    target.describe()
    return target


@pytest.fixture
def remote(hosts: Hosts, checkout: Path, invoke: Invoke) -> Iterator[RemoteTarget]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    hosts.db1.psql(f"CREATE DATABASE {name} OWNER owner", "postgres")
    target = RemoteTarget(hosts, hosts.db1, checkout, invoke, name)
    target.describe()
    yield target
    hosts.know()
    hosts.db1.psql(f"DROP DATABASE {name} WITH (FORCE)", "postgres")


@pytest.fixture
def start_invoke(remote: RemoteTarget) -> Iterator[Callable[..., RunningInvoke]]:
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> RunningInvoke:
        process = subprocess.Popen(
            [*COMMAND, *arguments, "--env=far"],
            cwd=remote.clone,
            env=environment({"SECRET": remote.hosts.password}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
        )
        started.append(process)
        return RunningInvoke(process)

    yield begin
    remote.host.thaw_sessions()
    remote.host.mend()
    for process in started:
        process.kill()
        process.communicate()
