"""SIGTERM on a host: it never falls into the middle of a message, and always reaches the work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from pgratchet import events
from pgratchet.errors import Interrupted, Terminated
from pgratchet.operations import agent, termination
from pgratchet.operations.base import Machine
from pgratchet.operations.protocol import Request
from tests import ROOT


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    termination.raise_on_signal()
    yield
    signal.signal(signal.SIGTERM, before)


PROGRAM = """
import os, signal, sys, threading
from pathlib import Path
from pgratchet.errors import Terminated
from pgratchet.operations import termination
from pgratchet.operations.runs import Journal, RunFolder
ended = threading.Event()
def send():
    while not ended.wait(0.0001):
        os.kill(os.getpid(), signal.SIGTERM)
def receive(number, frame):
    global armed
    if armed:  # once for each message, so that none is raised in the handler of another one
        armed = False
        receive_in_product(number, frame)
folder = Path(sys.argv[1])
journal = Journal(os.open(folder / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND), RunFolder(folder))
armed = False
termination.raise_on_signal()
receive_in_product = signal.signal(signal.SIGTERM, receive)
threading.Thread(target=send, daemon=True).start()
terminated = 0
while terminated < 300:
    try:
        armed = True
        journal.send({"event": "x" * 50})
        armed = False
    except Terminated:
        terminated += 1
signal.signal(signal.SIGTERM, signal.SIG_IGN)
ended.set()
"""
"""Writes messages while signals arrive again and again. A process of its own: a late signal would end the tests."""


def test_every_message_has_a_number_of_its_own(tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "ops")}
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], env=environ, check=True, timeout=60)
    numbers = [json.loads(line)["seq"] for line in (tmp_path / "journal").read_bytes().splitlines()]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 100


@dataclass
class Work:
    """An operation that applies three migrations, and says at a signal how far it came."""

    received: list[BaseException]

    def run(self, _target: object, _machine: Machine) -> events.Stream:
        for number in range(3):
            try:
                yield events.MigrationApplied(f"00{number}", 1)
            except KeyboardInterrupt as stop:  # noqa: PERF203
                self.received.append(stop)
                raise Interrupted(stop, detail=f"00{number} was applied.") from None


def test_a_signal_while_an_event_is_written_reaches_the_work() -> None:
    sent: list[Mapping[str, Any]] = []
    work = Work([])

    def send(message: Mapping[str, object]) -> None:
        with termination.deferred():
            sent.append(message)
            if len(sent) == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    request = cast(Request, type("Request", (), {"operation": work, "target": None}))
    assert agent._perform(request, Machine(Path()), send) == Terminated.status
    assert [type(each) for each in work.received] == [Terminated]
    assert len(sent) == 3
    assert cast("dict[str, str]", sent[-1]["error"])["detail"] == "001 was applied."


def test_a_signal_behind_the_work_names_what_was_applied() -> None:
    sent: list[Mapping[str, Any]] = []

    class Ended(Work):
        def run(self, _target: object, _machine: Machine) -> events.Stream:
            yield events.MigrationApplied("001", 1)
            raise Terminated

    request = cast(Request, type("Request", (), {"operation": Ended([]), "target": None}))
    agent._perform(request, Machine(Path()), sent.append)
    assert cast("dict[str, str]", sent[-1]["error"])["detail"] == "001 was applied."


def test_the_last_message_is_written_after_a_signal() -> None:
    sent: list[Mapping[str, Any]] = []

    def send(message: Mapping[str, object]) -> None:
        sent.append(message)
        os.kill(os.getpid(), signal.SIGTERM)

    class Empty(Work):
        def run(self, _target: object, _machine: Machine) -> events.Stream:
            yield from ()

    request = cast(Request, type("Request", (), {"operation": Empty([]), "target": None}))
    assert agent._perform(request, Machine(Path()), send) == 0
    assert sent == [{"result": None}]
