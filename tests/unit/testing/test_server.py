"""The server that the workers of a test run share, with threads for workers and keepers, and no PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pgratchet.errors import ConfigurationError, Unreachable
from pgratchet.testing import server


@dataclass
class Servers:
    """Servers that are slow to start and to stop, and a count of those that run."""

    folder: Path
    problem: str = ""
    started: int = 0
    running: set[str] = field(default_factory=set)
    most: int = 0
    keepers: list[threading.Thread] = field(default_factory=list)

    def start_keeper(self) -> None:
        keeper = threading.Thread(target=server.keep, args=(self.open, self.folder))
        self.keepers.append(keeper)
        keeper.start()

    @contextmanager
    def open(self) -> Iterator[Mapping[str, str]]:
        if self.problem:
            raise OSError(self.problem)
        self.started += 1
        port = str(self.started)
        self.running.add(port)
        self.most = max(self.most, len(self.running))
        time.sleep(0.01)
        yield {"port": port}
        time.sleep(0.05)
        self.running.discard(port)

    def join(self) -> None:
        for keeper in self.keepers:
            keeper.join(10)


def test_workers_that_start_together_share_a_server(tmp_path: Path) -> None:
    servers, everyone_is_in = Servers(tmp_path), threading.Barrier(8)

    def work(_: int) -> str:
        with server.shared_server(tmp_path, servers.start_keeper) as parameters:
            everyone_is_in.wait(10)
            return parameters["port"]

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(8))) == {"1"}
    servers.join()
    assert (servers.started, servers.running) == (1, set())
    assert not list(tmp_path.glob("*.json"))


def test_a_worker_never_gets_a_server_that_another_workers_end_is_stopping(tmp_path: Path) -> None:
    servers = Servers(tmp_path)

    def work(number: int) -> bool:
        time.sleep(0.007 * number)  # some begin while the server of those before them is stopping
        with server.shared_server(tmp_path, servers.start_keeper) as parameters:
            time.sleep(0.005)
            return parameters["port"] in servers.running

    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(work, range(20)))
    servers.join()
    assert servers.started > 1, "no worker began while a server was stopping"
    assert servers.most == 1


def test_each_worker_is_told_why_a_server_does_not_start(tmp_path: Path) -> None:
    servers = Servers(tmp_path, problem="no shared memory")

    def work(_: int) -> str:
        with pytest.raises(Unreachable) as caught, server.shared_server(tmp_path, servers.start_keeper):
            pass
        return caught.value.detail

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, range(3))) == ["no shared memory"] * 3
    servers.join()


@pytest.mark.parametrize("name", ["schema", "search_path", "pgbouncer"])
def test_a_url_of_another_tool_is_refused_by_the_name_of_its_parameter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TEST_DATABASE_URL", f"postgresql://u:hunter2@h/d?{name}=x")
    opening = server.running_server("url", tmp_path, alone=True)
    with pytest.raises(ConfigurationError, match=f"cannot be used: {name}\n") as caught, opening:
        pass
    assert "hunter2" not in str(caught.value)


def test_a_url_may_have_any_parameter_of_libpq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_DATABASE_URL", "postgresql://u@a,b:7/d?options=-cx%3Dy&application_name=t")
    with server.running_server("url", tmp_path, alone=True) as parameters:
        assert (parameters["host"], parameters["options"]) == ("a,b", "-cx=y")
