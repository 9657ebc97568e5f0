"""The other end of a line: a job comes in by standard input, is done here, and is told of in lines on standard output.

Owns how a job outlives the line it came by, and the folder `~/.pgratchet/runs`, 0700, of those that did: what each is
about, its journal, and the status it ended with. Refuses to know what the jobs do. It runs from the bundle that was
sent here, on this machine's Python; settings and secrets are in its memory and nowhere else.

What it rests on, measured (facts, section 3): when a line drops, what was started over it dies at its next write,
and what has a session of its own lives on. Where the system ends all that a user started when he logs out, and lets a
user manager linger for him, the run moves into a scope of that one first.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, cast

from pgratchet import __version__
from pgratchet.database.target import ReceivedTarget
from pgratchet.errors import BackupFailed, ConfigurationError, Interrupted, RatchetError, Terminated
from pgratchet.operations import operations as jobs
from pgratchet.operations import protocol

Tell = Callable[[Mapping[str, object]], object]

BASE = Path.home() / ".pgratchet"
RUNS = BASE / "runs"
_ID = re.compile(r"[0-9a-f]{12}")
_TICK = 0.02
_KEPT, _KEPT_SECONDS = 100, 30 * 86_400
"""Folders of runs that are over, and how old they may grow."""


def main(arguments: Sequence[str]) -> int:
    """One of: ask, run, follow ID SEQUENCE SILENCE, runs, cancel ID. Returns the status of the process."""
    name, *rest = arguments
    operations: dict[str, Callable[..., int]] = {
        "ask": _ask,
        "run": _run,
        "follow": _follow,
        "runs": _list,
        "cancel": _cancel,
    }
    signal.signal(signal.SIGTERM, _terminate)
    os.umask(0o077)
    return operations[name](*rest)


def _terminate(_signal: int, _frame: object) -> None:
    raise Terminated


class _Out:
    """Standard output: lines, each whole, from whichever thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, line: Mapping[str, object]) -> None:
        self.raw(json.dumps(line).encode() + b"\n")

    def raw(self, text: bytes) -> None:
        with self._lock:
            sys.stdout.buffer.write(text)
            sys.stdout.buffer.flush()


@contextmanager
def _beating(tell: Tell, silence: int) -> Iterator[None]:
    """Lets the other end know, while the block lasts, that this one is there."""
    over = threading.Event()

    def beat() -> None:
        with suppress(OSError):
            while not over.wait(silence / 4):
                tell({"beat": True})

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _listen(silence: int, heard: Callable[[bytes], object], gone: Callable[[], object]) -> None:
    """In a thread: what comes by standard input behind the job; `gone` when the other end is, or has gone silent."""

    def listen() -> None:
        kept = b""
        while select.select([0], [], [], silence)[0] and (chunk := os.read(0, 65_536)):
            *lines, kept = (kept + chunk).split(b"\n")
            for line in lines:
                if line != b"beat":
                    heard(line)
        gone()

    threading.Thread(target=listen, daemon=True).start()


class _Request:
    """A job with its settings, as it was sent."""

    def __init__(self, source: _Exactly) -> None:
        shape = json.loads(source.line())
        self.job = protocol.loads(
            cast("type[jobs.Operation[object]]", jobs.ALL[shape["job"]]), shape["of"], source.read
        )
        given = shape["access"]
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in given["variables"].items()}
        # The inventory's own type needs a library that does not travel; its values were judged before they did.
        self.access = ReceivedTarget(**{**given, "variables": cast(Any, SimpleNamespace(**values))})
        self.silence = int(shape["silence"])
        self.about: dict[str, Any] = shape["about"]
        self.hands_over = bool(shape["hands_over"])

    @property
    def run_id(self) -> str:
        return _checked(self.about["run_id"])


def _checked(run_id: str) -> str:
    if not _ID.fullmatch(run_id):
        raise ConfigurationError(f'"{run_id}" is no run', hint="`invoke runs` lists them.")
    return run_id


def _read_request() -> _Request:
    # Unbuffered, so that nothing of what comes behind the job is taken with it.
    with os.fdopen(os.dup(0), "rb", buffering=0) as raw:
        return _Request(_Exactly(raw))


class _Exactly:
    """Reads so many bytes as are asked for, and never more: what comes behind a job is for someone else."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def line(self) -> bytes:
        """A line, which comes behind its length and a space."""
        return self.read(int(self._until(b" ")))

    def _until(self, end: bytes) -> bytes:
        found = b""
        while (one := self._raw.read(1)) not in (end, b""):
            found += one
        return found

    def read(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size and (part := self._raw.read(min(size, 1 << 20))):
            parts.append(part)
            size -= len(part)
        if size:
            raise EOFError("the job was cut short")
        return b"".join(parts)


def _perform(request: _Request, place: jobs.Machine, tell: Tell) -> int:
    """Do the job; every end of it is told, as its result or as an error. Returns the status."""
    try:
        stream = request.job.run(request.access, place)
        while True:
            try:
                happened = next(stream)
            except StopIteration as end:
                tell(protocol.result(end.value))
                return 0
            tell(protocol.event(happened))
    except RatchetError as error:
        failed = error
    except KeyboardInterrupt as stop:
        failed = Interrupted(stop, detail="Nothing was under way.", hint="Run it again to go on.")
    except Exception as error:  # noqa: BLE001  what it is, the other end has to be told
        failed = _unforeseen(error)
    tell(protocol.error(failed))
    return failed.status


def _unforeseen(error: Exception) -> RatchetError:
    if isinstance(error, ImportError) and "libpq" in str(error):
        return ConfigurationError(
            "the host has no libpq",
            detail="It is what reaches the server there.",
            hint="Install it there: libpq5 on Debian and Ubuntu, postgresql-libs or libpq elsewhere.",
        )
    traceback.print_exc()
    last = traceback.extract_tb(error.__traceback__)[-1]
    return RatchetError(
        "something failed on the host that should not",
        detail=f"{type(error).__name__}: {error}, in {Path(last.filename).name}, line {last.lineno}.",
        hint="Report it, with this.",
    )


def _ask() -> int:
    """A job that ends with the line it came by."""
    tell = _Out()
    tell({"hello": __version__})
    request = _read_request()
    _listen(request.silence, lambda _: None, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with _beating(tell, request.silence):
        return _perform(request, jobs.Machine(BASE), tell)


def _run() -> int:
    """A job that outlives it."""
    _move_into_scope()
    tell = _Out()
    tell({"hello": __version__})
    request = _read_request()
    folder = RUNS / request.run_id
    _prune()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = {**request.about, "started": datetime.now(timezone.utc).isoformat(timespec="milliseconds")}
    (folder / "about.json").write_text(json.dumps(about))
    feed = _start(request, folder)
    tell({"started": request.run_id})
    _listen(request.silence, lambda line: os.write(feed, line + b"\n"), lambda: os._exit(1))
    return _show(folder, 0, tell, request.silence)


def _start(request: _Request, folder: Path) -> int:
    """Start the job in a session of its own; what it may still be told goes into the descriptor that is returned.

    The journal is locked by it for as long as it lives, which is how it is known to live.
    """
    descriptor = os.open(folder / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    reads, writes = os.pipe()
    if child := os.fork():
        os.waitpid(child, 0)
        os.close(descriptor)
        os.close(reads)
        return writes
    os.setsid()
    if os.fork():
        os._exit(0)
    os.close(writes)
    status = 1
    try:
        status = _detached(request, folder, descriptor, reads)
    finally:
        os._exit(status)


def _detached(request: _Request, folder: Path, journal: int, reads: int) -> int:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number, descriptor in enumerate((reads, log, log)):
        os.dup2(descriptor, number)
    (folder / "pid").write_text(str(os.getpid()))
    told = 0

    def tell(line: Mapping[str, object]) -> None:
        nonlocal told
        os.write(journal, json.dumps({"seq": told, **line}).encode() + b"\n")
        told += 1

    root = folder if request.hands_over else BASE
    place = jobs.Machine(root, _handing_over(folder, request, tell) if request.hands_over else None)
    try:
        status = _perform(request, place, tell)
    finally:
        shutil.rmtree(folder / "backups", ignore_errors=True)
    (folder / "exit.partial").write_text(str(status))
    (folder / "exit.partial").rename(folder / "exit")
    return status


def _handing_over(folder: Path, request: _Request, tell: Tell) -> Callable[[str], None]:
    def hand_over(backup_id: str) -> None:
        where = folder / "backups" / request.access.environment / request.access.target
        tell({"hand_over": backup_id, "where": str(where)})
        answer = b""
        while not answer.endswith(b"\n") and (chunk := os.read(0, 4096)):
            answer += chunk
        if answer.strip() != b"have " + backup_id.encode():
            raise BackupFailed(
                f"backup {backup_id} did not come to the machine that asked for it",
                detail="The line was cut, or that machine could not keep it. No migration was run.",
                hint="Run again; with backup_at: host it stays on the host.",
            )

    return hand_over


def _follow(run_id: str, sequence: str, silence: str) -> int:
    """Tell what a run has told from that number on, and go on until it ends."""
    tell = _Out()
    tell({"hello": __version__})
    folder = RUNS / _checked(run_id)
    if not (folder / "journal").exists():
        tell({"unknown": run_id})
        return 0
    _listen(int(silence), lambda _: None, lambda: os._exit(1))
    return _show(folder, int(sequence), tell, int(silence))


def _show(folder: Path, sequence: int, tell: _Out, silence: int) -> int:
    with _beating(tell, silence), (folder / "journal").open("rb") as journal:
        for _ in range(sequence):
            journal.readline()
        for line in _lines(folder, journal):
            tell.raw(line)
            if line.startswith(b'{"seq"') and (b'"result":' in line or b'"error":' in line) and _is_last(line):
                return 0
        tell({"lost": True})
    return 0


def _is_last(line: bytes) -> bool:
    return bool({"result", "error"} & json.loads(line).keys())


def _lines(folder: Path, journal: IO[bytes]) -> Iterator[bytes]:
    """The lines of a journal as they are written, until whoever writes it has ended."""
    kept, over = b"", False
    while True:
        kept += journal.readline()
        if kept.endswith(b"\n"):
            yield kept
            kept = b""
        elif over:
            return
        else:
            over = not _lives(folder)
            time.sleep(0 if over else _TICK)


def _lives(folder: Path) -> bool:
    """Whether the process of a run is there: it holds the lock on its journal."""
    try:
        descriptor = os.open(folder / "journal", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _list() -> int:
    found = [each for folder in _folders() if (each := _described(folder))]
    _Out()({"result": sorted(found, key=lambda each: str(each["started"]), reverse=True)})
    return 0


def _folders() -> list[Path]:
    """Newest first."""
    there = RUNS.iterdir() if RUNS.is_dir() else iter(())
    folders = [folder for folder in there if _ID.fullmatch(folder.name)]
    return sorted(folders, key=lambda folder: folder.stat().st_mtime, reverse=True)


def _described(folder: Path) -> dict[str, Any] | None:
    try:
        about: dict[str, Any] = json.loads((folder / "about.json").read_text())
    except (OSError, ValueError):
        return None
    status = (folder / "exit").read_text() if (folder / "exit").exists() else None
    state = "running" if _lives(folder) else "lost" if status is None else "ended"
    return {**about, "state": state, "status": status}


def _cancel(run_id: str) -> int:
    """Ask a run to end: its statement is cancelled, its lock released."""
    folder = RUNS / _checked(run_id)
    lives = _lives(folder)
    if lives:
        os.kill(int((folder / "pid").read_text()), signal.SIGTERM)
    _Out()({"result": lives})
    return 0


def _prune() -> None:
    """Delete the folders of runs that are over and long past."""
    for number, folder in enumerate(_folders()):
        old = time.time() - folder.stat().st_mtime > _KEPT_SECONDS
        if (old or number >= _KEPT) and not _lives(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _move_into_scope() -> None:
    """Where this user's manager lingers, become a scope of it, which no logout ends."""
    manager = Path(f"/run/user/{os.getuid()}/systemd/private")
    lingers = any(Path("/var/lib/systemd/linger").glob(_user_name())) and manager.exists()
    if "PGRATCHET_SCOPE" in os.environ or not lingers or not shutil.which("systemd-run"):
        return
    environ = {**os.environ, "PGRATCHET_SCOPE": "1", "XDG_RUNTIME_DIR": str(manager.parents[1])}
    scope = ["systemd-run", "--user", "--scope", "--quiet", "--collect"]
    with suppress(OSError, subprocess.SubprocessError):  # where that fails, the run goes on without
        subprocess.run([*scope, "true"], env=environ, capture_output=True, check=True, timeout=10)
        os.execvpe(scope[0], [*scope, sys.executable, "-I", "-X", "utf8", *sys.argv], environ)  # noqa: S606


def _user_name() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name
