"""The bundled PostgreSQL: created, found and stopped, without wider permissions."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgratchet import embedded
from pgratchet.database import connection
from pgratchet.errors import RatchetError, Unreachable
from tests import ROOT
from tests.requirements import requires


@pytest.fixture
def server(tmp_path: Path) -> Iterator[embedded.Server]:
    server = embedded.locate(tmp_path, "unit", make=True)
    yield server
    embedded.remove(server)


def modes(*folders: Path) -> dict[Path, int]:
    return {each: stat.S_IMODE(each.stat().st_mode) for folder in folders for each in (folder, *folder.parents)}


def test_a_server_starts_stops_and_starts_again_with_its_data(server: embedded.Server) -> None:
    with pytest.raises(Unreachable, match="not running") as caught:
        embedded.attach(server)
    assert "not been created" in caught.value.detail
    assert embedded.start(server, "app") is True
    assert embedded.start(server, "app", ("shop_app", "Shop Readers", "shop_app")) is False
    assert embedded.start(server, "app", ("shop_app",)) is False
    parameters = {**embedded.attach(server), "dbname": "app"}
    with connection.connect(parameters) as session:
        session.execute("CREATE TABLE kept ()")
        session.execute('GRANT SELECT ON kept TO shop_app, "Shop Readers"')
    assert embedded.stop(server) is True
    assert embedded.stop(server) is False
    with pytest.raises(Unreachable) as caught:
        embedded.attach(server)
    assert str(server.root) in caught.value.detail
    embedded.start(server, "app")
    with connection.connect(parameters) as session:
        assert session.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_a_server_listens_on_a_socket_in_its_own_folder(server: embedded.Server) -> None:
    embedded.start(server, "app")
    assert stat.S_IMODE(server.socket_folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(server.data.stat().st_mode) == 0o700
    with connection.connect({**server.parameters(), "dbname": "app"}) as session:
        assert session.execute("SHOW listen_addresses").fetchone() == ("",)


def test_permissions_outside_its_folder_do_not_change(server: embedded.Server, tmp_path: Path) -> None:
    home = Path.home()
    before = modes(home, tmp_path, embedded.programs())
    embedded.start(server, "app")
    assert modes(home, tmp_path, embedded.programs()) == before


@requires("root")
def test_root_runs_a_server_although_its_user_cannot_reach_the_programs(
    server: embedded.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a virtual environment below a home with permissions 0700."""
    closed = tmp_path / "home"
    package = embedded.programs().parent.parent
    for folder in (package, package.with_name(package.name + ".libs")):
        shutil.copytree(folder, closed / folder.name, symlinks=True)
    closed.chmod(0o700)
    monkeypatch.setattr(embedded, "programs", lambda: closed / package.name / "pginstall" / "bin")
    before = modes(closed)
    embedded.start(server, "app")
    copy = embedded.server_programs()
    try:
        assert not copy.is_relative_to(closed)
        assert modes(closed) == before
        with connection.connect({**server.parameters(), "dbname": "app"}) as session:
            session.execute("CREATE EXTENSION pg_trgm")
    finally:
        embedded.stop(server)
        shutil.rmtree(copy.parents[2])


def test_concurrent_copies_of_the_programs_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by the first runs of two checkouts: the second finds the copy of the first."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "file").touch()
    target = tmp_path / "programs-1"
    copy = shutil.copytree

    def copy_late(source: Path, *arguments: Any, **options: Any) -> None:
        copy(source, *arguments, **options)
        if not target.exists():
            monkeypatch.setattr(shutil, "copytree", copy)
            embedded._copy_programs(package, target)

    monkeypatch.setattr(shutil, "copytree", copy_late)
    embedded._copy_programs(package, target)
    assert (target / "package" / "file").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"package", "programs-1"}


def test_a_long_checkout_path_gets_a_short_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "state_folder", lambda: tmp_path / ("x" * 90))
    server = embedded.locate(tmp_path, "unit")
    assert len(str(server.socket_folder)) < 60
    assert server.socket_folder != server.root / "socket"


def test_checkouts_and_environments_have_their_own_servers(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    roots = [embedded.locate(tmp_path / a, b, make=True).root for a in ("x", "y") for b in ("dev", "test")]
    assert len(set(roots)) == 4
    assert roots == [embedded.locate(tmp_path / a, b).root for a in ("x", "y") for b in ("dev", "test")]


def test_a_moved_checkout_keeps_its_server_and_a_new_one_has_none(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    root = embedded.locate(old, "dev", make=True).root
    old.rename(tmp_path / "new")
    old.mkdir()
    assert embedded.locate(tmp_path / "new", "dev").root == root
    assert embedded.locate(old, "dev").root != root
    assert list(old.iterdir()) == []


def test_concurrent_first_starts_create_one_server(server: embedded.Server) -> None:
    started: list[bool] = []
    threads = [threading.Thread(target=lambda: started.append(embedded.start(server, "app"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(started) == [False] * 5 + [True]


def test_an_interrupted_initdb_is_repeated(server: embedded.Server) -> None:
    (server.data / "base").mkdir(parents=True)
    assert embedded.start(server, "app")


def test_a_server_that_cannot_start_is_reported_with_the_reason(server: embedded.Server) -> None:
    embedded.start(server, "app")
    embedded.stop(server)
    with (server.data / "postgresql.conf").open("a") as file:
        file.write("nonsense = here\n")
    with pytest.raises(Unreachable, match="could not start") as caught:
        embedded.start(server, "app")
    assert "nonsense" in caught.value.detail


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(RatchetError, match="not installed"):
        embedded.programs()


def test_leftovers_of_a_crash_are_not_mistaken_for_a_server(server: embedded.Server) -> None:
    """A pid file of an ended process, and a socket without a listener."""
    embedded.start(server, "app")
    parameters = {**server.parameters(), "dbname": "app"}
    with connection.connect(parameters) as session:
        session.execute("CREATE TABLE kept ()")
    lines = (server.data / "postmaster.pid").read_text().splitlines()
    embedded.stop(server)
    process = subprocess.Popen(["true"])
    process.wait()
    (server.data / "postmaster.pid").write_text("\n".join([str(process.pid), *lines[1:]]) + "\n")
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(server.socket_folder / ".s.PGSQL.5432"))
    with pytest.raises(Unreachable, match="not running"):
        embedded.attach(server)
    embedded.start(server, "app")
    with connection.connect(parameters) as session:
        assert session.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_scratch_servers_of_killed_processes_are_discarded_and_no_others() -> None:
    """They have whole copies of databases: a drill restores into them."""
    code = "from pgratchet import embedded\nwith embedded.scratch() as server: print(server.root, flush=True); input()"
    with embedded.scratch() as mine:
        with subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(ROOT / "ops")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            left = Path(process.stdout.readline().decode().strip())
            process.kill()
        theirs = embedded.Server("scratch", left, left / "socket")
        assert embedded.is_running(theirs), "a killed process leaves its server"
        with embedded.scratch():
            assert not embedded.is_running(theirs)
            assert not list(left.parent.glob(f"{left.name}*"))
            assert embedded.is_running(mine)
    assert not list(mine.root.parent.glob(f"{mine.root.name}*"))
