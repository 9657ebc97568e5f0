"""The agent's reader, and the folder of runs on a host."""

from __future__ import annotations

import fcntl
import io
import json
import os
import threading
import time
from pathlib import Path

import pytest

from pgratchet.errors import ConfigurationError
from pgratchet.operations import agent
from pgratchet.operations import runs as host_runs
from pgratchet.operations.runs import RunFolder


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(host_runs, "RUNS", tmp_path / "runs")
    return tmp_path / "runs"


def run_folder(runs: Path, number: int, *, age: float = 0, status: str | None = "0") -> Path:
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
    with pytest.raises(ConfigurationError, match="is no run"):
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
