"""Runs PostgreSQL's client programs as child processes, each for the length of a block.

Output and errors are read while a program runs, so a program never waits for a full pipe. No shell pipe is involved,
because a shell pipe hides the program's exit status. A program ends with this process, also when this is killed.
"""

from __future__ import annotations

import fcntl
import re
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pgratchet.backups import watcher
from pgratchet.backups.watcher import watched
from pgratchet.errors import BackupFailed

_CHUNK = 1 << 20
_POLL_INTERVAL = 0.1
_TABLE = re.compile(r': (?:dumping contents of|processing data for) table "(.+)"$')
_FINISHING = re.compile(r': (?:creating|launching item \d+) ((?:FK |CHECK )?CONSTRAINT|INDEX|TRIGGER) "?(.+?)"?$')
"""Items that pg_restore creates after all rows."""
_FAILED_ITEM = "from TOC entry "
_COMPLAINT = re.compile(r"(error|warning|detail|hint|fatal|query was):|^\s+Command was:", re.IGNORECASE)


class ProgramFailed(BackupFailed):
    """A client program could not be started or ended with an error status.

    `program_status` is negative when a signal ended the program, and None when the program did not start. `messages`
    are the lines that name failed items, and the last lines that the program printed.
    """

    def __init__(
        self, program: str, detail: str, hint: str, *, status: int | None = None, messages: Sequence[str] = ()
    ) -> None:
        super().__init__(f"{program} failed", detail=detail, hint=hint)
        self.program = program
        self.program_status = status
        self.messages = tuple(messages)


@dataclass(slots=True)
class Progress:
    """The progress of a program by its verbose messages: begun tables, in order, and the last index or constraint."""

    tables: list[str] = field(default_factory=list)
    finishing: str = ""


class RunningProgram:
    """A running client program. `accepts_input` is False once the program has closed its input."""

    def __init__(self, process: subprocess.Popen[bytes], name: str) -> None:
        self._process, self._name = process, name
        self._messages: list[str] = []
        self._failed_items: list[str] = []
        self.accepts_input = True
        self.progress = Progress()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def read(self) -> bytes:
        """Read the next chunk of output, empty at the end."""
        assert self._process.stdout is not None
        return self._process.stdout.read1(_CHUNK)  # type: ignore[attr-defined, no-any-return]

    def write(self, chunk: bytes) -> None:
        """Write input. After the program has ended, input is discarded and `require_success` raises the error."""
        assert self._process.stdin is not None
        if self.accepts_input:
            try:
                self._process.stdin.write(chunk)
            except BrokenPipeError:
                self.accepts_input = False

    def end_input(self) -> None:
        """Close the program's input."""
        if self._process.stdin:
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def wait(self) -> Iterator[Progress]:
        """Wait until the program ends, yielding what it has begun. Raises ProgramFailed for an error status."""
        self.end_input()
        while self._process.poll() is None:
            self._listener.join(_POLL_INTERVAL)  # until standard error is closed; Popen.wait with a timeout polls
            if not self._listener.is_alive():
                self._process.wait()
            yield self.progress
        self.require_success()

    def require_success(self) -> None:
        """Wait until the program ends. Raises ProgramFailed for an error status."""
        status = self._process.wait()
        self._listener.join()
        if status != 0:
            messages = [line for line in self._messages if _COMPLAINT.search(line)] or self._messages[-5:]
            detail = "\n".join([*messages[:20], f"{self._name} ended with status {status}."])
            hint = "Fix the cause and run again; no migration runs without a backup."
            if self._failed_items:
                hint = "Fix the cause and run again, or restore the rest: `invoke restore --into=NAME --salvage`."
            raise ProgramFailed(
                self._name, detail, hint, status=status, messages=[*self._failed_items, *self._messages]
            )

    def close(self) -> None:
        """End the program if still running."""
        pipes: list[IO[bytes] | None] = [self._process.stdin, self._process.stdout]
        for pipe in pipes:
            with suppress(OSError):
                if pipe:
                    pipe.close()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._listener.join(5)

    def _listen(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                text = line.decode(errors="replace").rstrip()
                if match := _TABLE.search(text):
                    self.progress.tables.append(match[1])
                elif match := _FINISHING.search(text):
                    self.progress.finishing = f"{match[1]} {match[2]}"
                if _FAILED_ITEM in text:
                    self._failed_items.append(text)
                self._messages.append(text)
                del self._messages[:-200]


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Split chunks of output into lines, each with its line feed; the last may have none."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line + b"\n" for line in lines)
    yield from [rest] if rest else []


@contextmanager
def running(command: Sequence[str], environ: Mapping[str, str], *, has_input: bool = False) -> Iterator[RunningProgram]:
    """Run a program, at most until the end of the block. Raises ProgramFailed if the program cannot start."""
    name = Path(command[0]).name
    watcher.prepare()
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if has_input else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**environ, "LC_ALL": "C"},
        )
    except OSError as error:
        reason = f"{command[0]} could not be started: {error.strerror}."
        raise ProgramFailed(name, reason, "Install PostgreSQL's client programs.") from error
    if process.stdout and (set_pipe_size := getattr(fcntl, "F_SETPIPE_SZ", None)):  # on Linux
        with suppress(OSError):
            fcntl.fcntl(process.stdout, set_pipe_size, _CHUNK)  # a larger pipe keeps a dump waiting less often
    program = RunningProgram(process, name)
    with watched(process):
        try:
            yield program
        finally:
            program.close()
