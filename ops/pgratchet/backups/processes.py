"""Runs PostgreSQL's client programs as child processes, each for the length of a block.

Output and errors are read while a program runs, so a program never waits for a full pipe. No shell pipe is involved,
because a shell pipe hides the program's exit status.
"""

from __future__ import annotations

import fcntl
import re
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pgratchet.errors import BackupFailed

_CHUNK = 1 << 20
_POLL_INTERVAL = 0.1
_TABLE = re.compile(r': (?:dumping contents of|processing data for) table "(.+)"$')
_COMPLAINT = re.compile(r"(error|warning|detail|hint|fatal|query was):|^\s+Command was:", re.IGNORECASE)


class ProgramFailed(BackupFailed):
    """A client program could not be started or ended with an error status."""

    def __init__(self, program: str, detail: str, hint: str) -> None:
        super().__init__(f"{program} failed", detail=detail, hint=hint)
        self.program = program


class RunningProgram:
    """A running client program. `tables` are the tables begun so far, taken from the verbose messages."""

    def __init__(self, process: subprocess.Popen[bytes], name: str) -> None:
        self._process, self._name = process, name
        self._messages: list[str] = []
        self._accepts_input = True
        self.tables: list[str] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def read(self) -> bytes:
        """Read the next chunk of output, empty at the end."""
        assert self._process.stdout is not None
        return self._process.stdout.read1(_CHUNK)  # type: ignore[attr-defined, no-any-return]

    def write(self, chunk: bytes) -> None:
        """Write input. After the program has ended, input is discarded and `require_success` raises the error."""
        assert self._process.stdin is not None
        if self._accepts_input:
            try:
                self._process.stdin.write(chunk)
            except BrokenPipeError:
                self._accepts_input = False

    def wait(self) -> Iterator[Sequence[str]]:
        """Wait until the program ends, yielding the begun tables. Raises ProgramFailed for an error status."""
        if self._process.stdin:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        while self._process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_POLL_INTERVAL)
            yield self.tables
        self.require_success()

    def require_success(self) -> None:
        """Wait until the program ends. Raises ProgramFailed for an error status."""
        status = self._process.wait()
        self._listener.join()
        if status != 0:
            messages = [line for line in self._messages if _COMPLAINT.search(line)] or self._messages[-5:]
            detail = "\n".join([*messages[:20], f"{self._name} ended with status {status}."])
            raise ProgramFailed(self._name, detail, "Fix the cause and run again; no migration runs without a backup.")

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
                    self.tables.append(match[1])
                self._messages.append(text)
                del self._messages[:-200]


@contextmanager
def running(command: Sequence[str], environ: Mapping[str, str], *, has_input: bool = False) -> Iterator[RunningProgram]:
    """Run a program, at most until the end of the block. Raises ProgramFailed if the program cannot start."""
    name = Path(command[0]).name
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
    try:
        yield program
    finally:
        program.close()
