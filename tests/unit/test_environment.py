"""Hiding environment variables for a block."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from pgratchet.environment import without_variables


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIDE_ONE", "1")
    monkeypatch.setenv("HIDE_TWO", "")
    monkeypatch.setenv("NOT_HIDE_ONE", "3")


def names() -> set[str]:
    return {name for name in os.environ if "HIDE" in name}


ALL = {"HIDE_ONE", "HIDE_TWO", "NOT_HIDE_ONE"}


def test_variables_are_hidden_for_the_block_only() -> None:
    with without_variables("HIDE_"):
        assert names() == {"NOT_HIDE_ONE"}
        command = [sys.executable, "-c", "import os; print('HIDE_ONE' in os.environ)"]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
    assert names() == ALL
    assert (os.environ["HIDE_ONE"], os.environ["HIDE_TWO"]) == ("1", "")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_variables_are_put_back_when_the_block_fails(error: type[BaseException]) -> None:
    with pytest.raises(error), without_variables("HIDE_"):
        raise error
    assert names() == ALL


def test_blocks_may_be_nested() -> None:
    with without_variables("HIDE_O"):
        with without_variables(".*HIDE"):
            assert names() == set()
        assert names() == {"HIDE_TWO", "NOT_HIDE_ONE"}
    assert names() == ALL


def test_blocks_of_several_threads_do_not_overlap() -> None:
    inside, overlaps = list[int](), list[int]()
    start = threading.Barrier(8)

    def hide() -> None:
        start.wait()
        for _ in range(50):
            with without_variables("HIDE_"):
                inside.append(1)
                if len(inside) > 1 or "HIDE_ONE" in os.environ:
                    overlaps.append(1)
                inside.pop()

    threads = [threading.Thread(target=hide) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == []
    assert names() == ALL
