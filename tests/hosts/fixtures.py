"""Fixtures: hosts that are reached by SSH."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts import Hosts, LocalSshd, running_hosts, running_local_sshd
from tests.requirements import require


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """A bastion and two database hosts, in containers."""
    require("a Docker engine")
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
