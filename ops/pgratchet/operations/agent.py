"""Runs operations on a host: a request arrives on standard input, messages go to standard output as lines of JSON.

The agent runs from the bundle, on the host's own Python. Settings and secrets stay in its memory.

A run must outlive its connection: sshd ends what was started over a connection at its next write after the connection
is cut, but not a process in a session of its own (tests/acceptance: SSH). `runs.py` starts such a process and keeps its
journal.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pgratchet import events
from pgratchet.errors import ConfigurationError, Interrupted, RatchetError
from pgratchet.formatting import were_applied
from pgratchet.operations import backups, examine, lost_rows, migrate, protocol, rehearse, restore, salvage, schema
from pgratchet.operations.base import Machine
from pgratchet.operations.protocol import Request
from pgratchet.operations.runs import BASE, RUNS, RunFolder, detach, list_runs, move_into_scope, prune
from pgratchet.operations.termination import ignore_signal, raise_on_signal
from pgratchet.version import __version__

Send = Callable[[Mapping[str, object]], object]

QUERIES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        migrate.ReadHistory,
        migrate.ReadTexts,
        migrate.SettleRun,
        backups.ListBackups,
        backups.WriteNote,
        restore.PreviewRestore,
        restore.ListKeptDatabases,
        restore.DropKeptDatabases,
        lost_rows.CountLosses,
        lost_rows.FindLostRows,
        examine.Examine,
        examine.FindLeftovers,
        examine.ReadSizes,
        rehearse.ReadDatabaseState,
        schema.ReadSchema,
    )
}
TASKS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        migrate.Migrate,
        backups.TakeBackup,
        backups.VerifyBackup,
        restore.Restore,
        salvage.Salvage,
        rehearse.Rehearse,
    )
}
"""Every operation by its name in a request."""


def main(arguments: Sequence[str]) -> int:
    """One of: ask, run, follow ID POSITION SILENCE, runs, cancel ID. Returns the exit status of the process."""
    name, *rest = arguments
    commands: dict[str, Callable[..., int]] = {
        "ask": _ask,
        "run": _run,
        "follow": _follow,
        "runs": _runs,
        "cancel": _cancel,
    }
    raise_on_signal()
    os.umask(0o077)
    return commands[name](*rest)


class _Output:
    """Standard output, one whole line at a time from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, message: Mapping[str, object]) -> None:
        self.write(json.dumps(message).encode() + b"\n")

    def write(self, line: bytes) -> None:
        with self._lock:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()


def _greet() -> _Output:
    send = _Output()
    send({"hello": __version__})
    return send


@contextmanager
def _heartbeat(send: Send, silence: int) -> Iterator[None]:
    """Send a sign of life four times per `silence` seconds while the block runs."""
    stopped = threading.Event()

    def beat() -> None:
        with suppress(OSError):
            while not stopped.wait(silence / 4):
                send({"beat": True})

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        stopped.set()


def _listen(silence: int, receive: Callable[[bytes], object], on_end: Callable[[], object]) -> None:
    """Read lines from standard input in a thread; call `on_end` when it closes or is silent for `silence` seconds."""

    def listen() -> None:
        rest = b""
        while select.select([0], [], [], silence)[0] and (chunk := os.read(0, 65_536)):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line != b"beat":
                    receive(line)
        on_end()

    threading.Thread(target=listen, daemon=True).start()


def _read_request() -> Request:
    # Unbuffered, so that nothing behind the request is read with it.
    with os.fdopen(os.dup(0), "rb", buffering=0) as raw:
        reader = _Reader(raw)
        return protocol.decode_request(reader.line(), reader.read, QUERIES | TASKS)


class _Reader:
    """Reads exactly as many bytes as requested; what follows belongs to another reader."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def line(self) -> bytes:
        """A text that follows its own length and a space."""
        return self.read(int(self._until(b" ")))

    def _until(self, end: bytes) -> bytes:
        text = b""
        while (byte := self._raw.read(1)) not in (end, b""):
            text += byte
        return text

    def read(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size and (part := self._raw.read(min(size, 1 << 20))):
            parts.append(part)
            size -= len(part)
        if size:
            raise EOFError("the request was cut short")
        return b"".join(parts)


def _perform(request: Request, machine: Machine, send: Send) -> int:
    """Run the operation and send its events and its result or error. Returns the exit status."""
    applied: list[str] = []

    def report(event: events.Event) -> None:
        applied.extend([event.name] if isinstance(event, events.MigrationApplied) else [])
        send(protocol.event(event))

    try:
        result = request.operation.run(request.target, machine)  # type: ignore[attr-defined]
        if type(request.operation).__name__ not in QUERIES:
            result = events.follow(result, report)
        ignore_signal()
        send(protocol.result(result))
        return 0
    except RatchetError as error:
        failure = error
    except KeyboardInterrupt as stop:  # outside the work: before the first step or behind the last one
        failure = Interrupted(stop, detail=_effects(applied), hint="Run the same command again to continue.")
    except OSError as error:
        failure = _unusable_file(error)
    except Exception as error:  # noqa: BLE001  the other machine has to be told, whatever it is
        failure = _unexpected(error)
    ignore_signal()
    send(protocol.error(failure))
    return failure.status


def _effects(applied: Sequence[str]) -> str:
    return f"{were_applied(applied)}." if applied else "Nothing had been applied."


def _unexpected(error: Exception) -> RatchetError:
    traceback.print_exc()
    last = traceback.extract_tb(error.__traceback__)[-1]
    return RatchetError(
        "internal error on the host",
        detail=f"{type(error).__name__}: {error}, in {Path(last.filename).name}, line {last.lineno}.",
        hint="Report it with this message.",
    )


def _ask() -> int:
    """Run an operation that ends with its connection."""
    send = _greet()
    request = _read_request()
    _listen(request.silence, lambda _: None, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with _heartbeat(send, request.silence):
        return _perform(request, Machine(BASE), send)


def _run() -> int:
    """Start an operation that outlives its connection, and follow it."""
    move_into_scope()
    send = _greet()
    request = _read_request()
    assert request.run is not None
    try:
        prune()
        folder = RunFolder.create(request.run)
        feed = detach(folder, lambda journal: _perform_detached(request, folder, journal))
    except OSError as error:
        if not isinstance(error, FileExistsError):  # it was not cancelled before it began
            RunFolder.of(request.run.run_id).remove()
        failure = _not_begun(error)
        send(protocol.error(failure))
        return failure.status
    send({"started": request.run.run_id})
    _listen(request.silence, _follower(folder, send, lambda line: os.write(feed, line + b"\n")), lambda: os._exit(1))
    return _show(folder, 0, send, request.silence)


def _not_begun(error: OSError) -> RatchetError:
    return ConfigurationError(
        "the host cannot keep the records of a run",
        detail=f"{_reason(error)}. The run was not begun, and nothing was changed.",
        hint=f"Free some space for {RUNS} on the host, or make it writable, and run again.",
    )


def _unusable_file(error: OSError) -> RatchetError:
    return ConfigurationError(
        "the host cannot read or write a file",
        detail=f"{_reason(error)}.",
        hint="Check on the host that the file is there, that the user may use it, and that the disk has space.",
    )


def _reason(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{reason}: {error.filename}" if error.filename else reason


def _follower(folder: RunFolder, send: Send, otherwise: Callable[[bytes], object]) -> Callable[[bytes], object]:
    """Receive the lines of the machine that follows a run: `cancel`, and others."""

    def receive(line: bytes) -> None:
        if line == b"cancel":
            send({"cancelled": folder.terminate()})
        else:
            otherwise(line)

    return receive


def _perform_detached(request: Request, folder: RunFolder, send: Send) -> int:
    """Run the operation in the detached process; `send` writes to the journal."""
    if not request.hands_over:
        return _perform(request, Machine(BASE), send)
    target = request.target
    where = folder.path / "backups" / target.environment / target.target
    try:
        return _perform(request, Machine(folder.path, folder.hand_over(where, send)), send)
    finally:
        folder.remove_backups()


def _follow(run_id: str, position: str, silence: str) -> int:
    """Send the messages of a run from that position on, until it ends."""
    send = _greet()
    folder = RunFolder.of(run_id)
    if not folder.journal.exists():
        send({"unknown": run_id})
        return 0
    _listen(int(silence), _follower(folder, send, lambda _: None), lambda: os._exit(1))
    return _show(folder, int(position), send, int(silence))


def _show(folder: RunFolder, position: int, send: _Output, silence: int) -> int:
    with _heartbeat(send, silence):
        for line in folder.messages(position):
            send.write(line)
            if _is_last(line):
                return 0
        send({"lost": True})
    return 0


def _is_last(line: bytes) -> bool:
    if not (line.startswith(b'{"seq"') and (b'"result":' in line or b'"error":' in line)):
        return False  # most lines are events, and need no parsing
    return bool({"result", "error"} & json.loads(line).keys())


def _runs() -> int:
    _Output()({"result": list_runs()})
    return 0


def _cancel(run_id: str) -> int:
    """Ask a run to end: its statement is cancelled and its lock released."""
    _Output()({"result": RunFolder.of(run_id).terminate()})
    return 0
