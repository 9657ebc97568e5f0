"""Keeps the runs of a host: their processes, which outlive connections, and their folders below ~/.pgratchet/runs.

A folder, mode 0700, has `about.json`, the `journal` of messages, a `log`, the `pid`, and `exit` with the exit status. A
run holds a lock on its journal as long as it lives, which shows that it lives. Runs are numbered in their order, since
the host's clock may be set back.

Where systemd ends a user's processes at logout and a user manager lingers, a run moves into a scope of that manager
first (https://www.freedesktop.org/software/systemd/man/latest/logind.conf.html, KillUserProcesses).
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pgratchet.errors import BackupFailed, ConfigurationError
from pgratchet.operations import termination
from pgratchet.operations.protocol import RunInfo

Send = Callable[[Mapping[str, object]], object]

BASE = Path.home() / ".pgratchet"
RUNS = BASE / "runs"
_ID = re.compile(r"[0-9a-f]{12}")
_TICK = 0.02
_FOLDERS, _SECONDS = 100, 30 * 86_400
"""How many folders of finished runs stay, and for how long."""
_RESERVE = 65_536
"""Bytes that a run keeps free for its last messages."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    @classmethod
    def of(cls, run_id: str) -> RunFolder:
        """The folder of a run; ConfigurationError for a text that cannot be a run's id."""
        if not _ID.fullmatch(run_id):
            raise ConfigurationError(
                f'"{run_id}" is not the id of a run',
                detail="An id has twelve hexadecimal digits.",
                hint="`invoke runs` lists the runs.",
            )
        return cls(RUNS / run_id)

    @classmethod
    def create(cls, run: RunInfo) -> RunFolder:
        """Make the folder and describe the run in it. Raises OSError, also when the run was cancelled before."""
        folder, number = cls.of(run.run_id), 1 + max((each.number() for each in _folders()), default=0)
        folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        started = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        with (folder.path / "about.json").open("x") as about:
            about.write(json.dumps({**asdict(run), "started": started, "number": number}))
        return folder

    @property
    def journal(self) -> Path:
        return self.path / "journal"

    def is_alive(self) -> bool:
        """Return whether the run's process lives: it holds the lock on its journal."""
        try:
            descriptor = os.open(self.journal, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def terminate(self) -> bool:
        """Send SIGTERM to the run; False when it has already finished. A run that has not begun will not begin."""
        with suppress(OSError):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.path / "about.json").open("x").close()
        alive = self.is_alive()
        if alive:
            os.kill(int((self.path / "pid").read_text()), signal.SIGTERM)
        return alive

    def messages(self, position: int) -> Iterator[bytes]:
        """The journal's lines from that position on, as they are written, until the run ends."""
        rest, ended = b"", False
        with self.journal.open("rb") as journal:
            for _ in range(position):
                journal.readline()
            while True:
                rest += journal.readline()
                if rest.endswith(b"\n"):
                    yield rest
                    rest = b""
                elif ended:
                    return
                else:
                    ended = not self.is_alive()
                    time.sleep(0 if ended else _TICK)

    def hand_over(self, where: Path, send: Send) -> Callable[[str], None]:
        """A function that waits until the machine which started the run has copied a backup from below `where`."""

        def hand_over(backup_id: str) -> None:
            send({"hand_over": backup_id, "where": str(where)})
            answer = b""
            while not answer.endswith(b"\n") and (chunk := os.read(0, 4096)):
                answer += chunk
            if answer.strip() != b"have " + backup_id.encode():
                raise BackupFailed(
                    f"backup {backup_id} was not copied to the machine that asked for it",
                    detail="The connection was lost, or that machine could not store it. No migration was run.",
                    hint="Run again. With backup_at: host, backups stay on the host.",
                )

        return hand_over

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def remove_backups(self) -> None:
        """Remove the copies of backups that were handed over, or were to be."""
        shutil.rmtree(self.path / "backups", ignore_errors=True)

    def description(self) -> dict[str, Any] | None:
        """The run with its state and exit status, in the shape of RunInfo; None for one that has not begun."""
        about = self._about()
        if not about:
            return None
        about.pop("number", None)
        status = (self.path / "exit").read_text() if (self.path / "exit").exists() else None
        state = "running" if self.is_alive() else "lost" if status is None else "ended"
        return {**about, "state": state, "status": status}

    def _about(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.path / "about.json").read_text()))
        except (OSError, ValueError):
            return {}

    def number(self) -> int:
        """The place of the run in the order of the host's runs, whatever its clock said."""
        return int(self._about().get("number", 0))


def detach(folder: RunFolder, work: Callable[[Send], int]) -> int:
    """Do the work in a process of its own session. Returns a descriptor whose content it reads as standard input.

    `work` receives a function that writes to the journal, and returns the exit status. Raises OSError when the process
    cannot keep its files, before any work.
    """
    journal = os.open(folder.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    fcntl.flock(journal, fcntl.LOCK_EX)
    (reads, writes), (ready, announce) = os.pipe(), os.pipe()
    if child := os.fork():
        os.waitpid(child, 0)
        for descriptor in (journal, reads, announce):
            os.close(descriptor)
        with os.fdopen(ready) as answer:
            if reason := answer.read():
                raise OSError(reason)
        return writes
    os.setsid()
    if os.fork():
        os._exit(0)
    os.close(writes)
    status = 1
    try:
        status = _work(folder, Journal(journal, folder), reads, announce, work)
    finally:
        os._exit(status)


def _work(folder: RunFolder, journal: Journal, reads: int, announce: int, work: Callable[[Send], int]) -> int:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        log = os.open(folder.path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for number, descriptor in enumerate((reads, log, log)):
            os.dup2(descriptor, number)
        (folder.path / "pid").write_text(str(os.getpid()))
        journal.reserve()
    except OSError as error:
        os.write(announce, str(error).encode())
        return 1
    os.close(announce)
    status = work(journal.send)
    (folder.path / "exit.partial").write_text(str(status))
    (folder.path / "exit.partial").rename(folder.path / "exit")
    return status


class Journal:
    """Writes the messages of a run. A disk that becomes full does not stop the run: a reserve is kept for the end."""

    def __init__(self, descriptor: int, folder: RunFolder) -> None:
        self._descriptor, self._reserve = descriptor, folder.path / "reserve"
        self._position, self._unwritten = 0, b""

    def reserve(self) -> None:
        self._reserve.write_bytes(bytes(_RESERVE))

    def send(self, message: Mapping[str, object]) -> None:
        """Write a message. An event that does not fit is left out: the history shows what was applied.

        SIGTERM waits for the end of the message: a follower would wait for ever for a number that is there twice.
        """
        with termination.deferred():
            self._send(message)

    def _send(self, message: Mapping[str, object]) -> None:
        if message.keys() & {"result", "error"}:
            self._reserve.unlink(missing_ok=True)
        self._unwritten = self._unwritten[self._write(self._unwritten) :]
        if self._unwritten:
            return
        line = json.dumps({"seq": self._position, **message}).encode() + b"\n"
        if written := self._write(line):
            self._position, self._unwritten = self._position + 1, line[written:]

    def _write(self, line: bytes) -> int:
        """The number of bytes that were written. A follower may have read them already."""
        try:
            return os.write(self._descriptor, line)
        except OSError:
            return 0


def list_runs() -> list[dict[str, Any]]:
    """The runs of this host, those that are running first, then the newest."""
    runs = [description for folder in _folders() if (description := folder.description())]
    return sorted(runs, key=lambda run: str(run["state"]) != "running")


def prune() -> None:
    """Delete the folders of finished runs that are too many or too old."""
    for number, folder in enumerate(_folders()):
        old = time.time() - folder.path.stat().st_mtime > _SECONDS
        if (old or number >= _FOLDERS) and not folder.is_alive():
            shutil.rmtree(folder.path, ignore_errors=True)


def _folders() -> list[RunFolder]:
    """The folders of all runs, newest first."""
    entries = RUNS.iterdir() if RUNS.is_dir() else iter(())
    folders = [RunFolder(path) for path in entries if _ID.fullmatch(path.name)]
    return sorted(folders, key=lambda folder: (folder.number(), folder.path.stat().st_mtime), reverse=True)


def move_into_scope() -> None:
    """Continue this process in a scope of the user's lingering manager, where there is one. It is executed anew."""
    manager = Path(f"/run/user/{os.getuid()}/systemd/private")
    lingers = any(Path("/var/lib/systemd/linger").glob(_user_name())) and manager.exists()
    if "PGRATCHET_SCOPE" in os.environ or not lingers or not shutil.which("systemd-run"):
        return
    environ = {**os.environ, "PGRATCHET_SCOPE": "1", "XDG_RUNTIME_DIR": str(manager.parents[1])}
    scope = ["systemd-run", "--user", "--scope", "--quiet", "--collect"]
    with suppress(OSError, subprocess.SubprocessError):  # without a scope the run continues as it is
        subprocess.run([*scope, "true"], env=environ, capture_output=True, check=True, timeout=10)
        os.execvpe(scope[0], [*scope, sys.executable, "-I", "-X", "utf8", *sys.argv], environ)  # noqa: S606


def _user_name() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name
