"""Ends the programs of this process when this process is killed.

A shell in a session of its own reads the process ids of our programs from a pipe. When the pipe closes, however this
process ended, the shell ends the programs that are left; their sessions on the server end with them. This works on
every system with a shell. Linux's PR_SET_PDEATHSIG would end a program when the *thread* that started it ends
(https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html), and would need code between fork and exec.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pgratchet.database.target import plain_environment

_SCRIPT = r"""
exec 3<&0
{
  pids=
  while read -r word pid; do
    others=
    for each in $pids; do [ "$each" = "$pid" ] || others="$others $each"; done
    pids=$others
    [ "$word" = ended ] || pids="$pids $pid"
  done
  [ -n "$pids" ] && kill -s TERM -- $pids
  for attempt in 1 2 3 4 5 6 7 8 9 10; do
    left=
    for each in $pids; do kill -s 0 -- "$each" && left="$left $each"; done
    pids=$left
    [ -n "$pids" ] || exit
    sleep 1
  done
  kill -s KILL -- $pids
} <&3 3<&- >/dev/null 2>&1 &
"""
"""The shell starts a background process and ends, so that no child is left to wait for. The redirection by descriptor 3
is needed because a shell gives /dev/null to a background process."""


@dataclass(slots=True)
class _Watcher:
    """The pipe to the shell, and the process that opened it: after a fork, a process needs a shell of its own."""

    pipe: int = -1
    owner: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def prepare(self) -> None:
        """Start the shell. After this, only a write lies between the start of a program and its being watched."""
        with self.lock, suppress(OSError, subprocess.SubprocessError):
            if self.owner != os.getpid():
                self._start()

    def tell(self, line: bytes) -> None:
        """Write a line to the shell. A shell that was killed is replaced; without a shell, nothing is watched."""
        with self.lock, suppress(OSError, subprocess.SubprocessError):
            if self.owner != os.getpid():
                self._start()
            try:
                os.write(self.pipe, line)
            except BrokenPipeError:
                os.close(self.pipe)
                self._start()
                os.write(self.pipe, line)

    def _start(self) -> None:
        reads, self.pipe = os.pipe()
        self.owner = os.getpid()
        try:
            command, environ = ["/bin/sh", "-c", _SCRIPT], plain_environment()
            subprocess.run(command, stdin=reads, env=environ, start_new_session=True, check=True, timeout=10)
        finally:
            os.close(reads)


_watcher = _Watcher()


def prepare() -> None:
    """Get ready to watch a program that is about to be started."""
    _watcher.prepare()


@contextmanager
def watched(process: subprocess.Popen[bytes], *, is_group: bool = False) -> Iterator[None]:
    """End a program if this process is killed inside the block; with `is_group`, the program's whole process group."""
    pid = -process.pid if is_group else process.pid
    _watcher.tell(b"started %d\n" % pid)
    try:
        yield
    finally:
        _watcher.tell(b"ended %d\n" % pid)
