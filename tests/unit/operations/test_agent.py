"""The agent's reader, and the folder of runs on a host."""

from __future__ import annotations

import fcntl
import io
import json
import os
import resource
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from pgratchet.errors import ConfigurationError
from pgratchet.operations import agent
from pgratchet.operations import runs as host_runs
from pgratchet.operations.protocol import RunInfo
from pgratchet.operations.runs import RunFolder


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(host_runs, "RUNS", tmp_path / "runs")
    return tmp_path / "runs"


def run_folder(runs: Path, number: int, *, age: float = 0, status: str | None = "0") -> Path:
    """The folder of a run that began so many seconds ago."""
    folder = runs / f"{number:012x}"
    folder.mkdir(parents=True)
    (folder / "journal").touch()
    (folder / "about.json").write_text(json.dumps({"run_id": folder.name, "started": f"{number:04}"}))
    if status is not None:
        (folder / "exit").write_text(status)
    os.utime(folder, (time.time() - age,) * 2)
    return folder


def held(folder: Path) -> int:
    """Open the journal and lock it, as a running run does."""
    descriptor = os.open(folder / "journal", os.O_WRONLY | os.O_APPEND)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def test_old_runs_are_deleted_except_a_running_one(runs: Path) -> None:
    old = [run_folder(runs, number, age=40 * 86_400 + number) for number in range(3)]
    recent = [run_folder(runs, number, age=number) for number in range(10, 10 + host_runs._FOLDERS + 5)]
    descriptor = held(old[0])
    host_runs.prune()
    assert old[0].exists()
    assert not old[1].exists()
    assert not old[2].exists()
    assert [folder.exists() for folder in recent] == [True] * host_runs._FOLDERS + [False] * 5
    os.close(descriptor)


def test_a_run_is_running_ended_or_lost(runs: Path) -> None:
    run_folder(runs, 1, status="5")
    run_folder(runs, 2, status=None)
    descriptor = held(run_folder(runs, 3, status=None))
    (runs / "no run").mkdir()
    runs_listed = host_runs.list_runs()
    assert [(run["state"], run["status"]) for run in runs_listed] == [("running", None), ("lost", None), ("ended", "5")]
    os.close(descriptor)


def test_a_journal_is_followed_until_its_writer_ends(runs: Path) -> None:
    folder = run_folder(runs, 1, status=None)
    descriptor = held(folder)

    def write() -> None:
        for piece in (b'{"seq": 0}\n{"se', b'q": 1}', b"\n"):
            os.write(descriptor, piece)
            time.sleep(0.06)
        os.close(descriptor)

    writer = threading.Thread(target=write)
    writer.start()
    assert list(RunFolder(folder).messages(0)) == [b'{"seq": 0}\n', b'{"seq": 1}\n']
    writer.join()


@pytest.mark.parametrize("run_id", ["../../etc", "", "0123456789ab/", "$(touch x)", "0123456789AB"])
def test_a_text_that_cannot_be_a_run_id_is_refused(run_id: str) -> None:
    with pytest.raises(ConfigurationError, match="is not the id of a run"):
        RunFolder.of(run_id)


def test_no_more_is_read_than_the_request() -> None:
    """What follows belongs to another reader."""
    raw = io.BytesIO(b'9 {"a": 1}\nBYTESbeat\n')
    reader = agent._Reader(raw)
    assert reader.line() == b'{"a": 1}\n'
    assert reader.read(5) == b"BYTES"
    assert raw.read() == b"beat\n"
    with pytest.raises(EOFError):
        reader.read(1)


def test_runs_are_in_their_order_whatever_the_clock_said(runs: Path) -> None:
    """A clock that was ahead for a while leaves dates in the future."""
    for number in range(1, 4):
        folder = RunFolder.create(RunInfo(f"{number:012x}", "migrate"))
        (folder.path / "exit").write_text("0")
    ahead = runs / f"{1:012x}"
    about = json.loads((ahead / "about.json").read_text())
    (ahead / "about.json").write_text(json.dumps({**about, "started": "2999-01-01T00:00:00"}))
    os.utime(ahead, (time.time() + 86_400 * 3,) * 2)
    assert [run["run_id"][-1] for run in host_runs.list_runs()] == ["3", "2", "1"]
    assert set(host_runs.list_runs()[0]) == set(asdict(RunInfo("", "")))


def test_a_running_run_comes_before_a_later_one_that_has_ended(runs: Path) -> None:
    for number in range(1, 3):
        RunFolder.create(RunInfo(f"{number:012x}", "migrate"))
    (runs / f"{1:012x}" / "journal").touch()
    descriptor = held(runs / f"{1:012x}")
    assert [run["state"] for run in host_runs.list_runs()] == ["running", "lost"]
    os.close(descriptor)


def test_a_run_that_was_cancelled_before_it_began_does_not_begin(runs: Path) -> None:
    run = RunInfo(f"{1:012x}", "migrate")
    assert not RunFolder.of(run.run_id).terminate()
    with pytest.raises(FileExistsError):
        RunFolder.create(run)
    assert host_runs.list_runs() == []


def test_a_run_whose_files_cannot_be_kept_is_not_detached(runs: Path) -> None:
    folder = RunFolder.create(RunInfo(f"{1:012x}", "migrate"))
    (folder.path / "log").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        host_runs.detach(folder, lambda _: 0)


def test_an_event_that_does_not_fit_is_left_out_of_the_journal(runs: Path) -> None:
    folder = RunFolder.create(RunInfo(f"{1:012x}", "migrate"))
    with folder.journal.open("ab") as file:
        journal = host_runs.Journal(file.fileno(), folder)
        journal.reserve()
        journal.send({"event": "a"})
        resource.setrlimit(resource.RLIMIT_FSIZE, (60, resource.RLIM_INFINITY))
        try:
            for letter in "bcd":
                journal.send({"event": letter * 100})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert (folder.path / "reserve").exists()
        journal.send({"result": None})
    messages = [json.loads(line) for line in folder.journal.read_bytes().splitlines()]
    assert messages == [{"seq": 0, "event": "a"}, {"seq": 1, "event": "b" * 100}, {"seq": 2, "result": None}]
    assert not (folder.path / "reserve").exists()
