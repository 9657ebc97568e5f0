"""Runs a script on a host over SSH, and exchanges bytes with it.

The login shell may be any, and its start-up files may print. So the command line is the same for every script and means
the same to every shell. The script is sent as the first line of standard input. Its output lies between two random
markers, the second with its exit status: the rest was printed by something else (tests/acceptance/test_ssh_shells.py).

Channels are read as bytes: decoded output is no longer what was sent.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from pgratchet.errors import Unreachable

if TYPE_CHECKING:
    import paramiko

CHUNK = 1 << 18
_COMMAND = """sh -c 'IFS= read -r script && eval "$script"'"""
_NOISE = 1 << 16
"""How many bytes may precede the first marker."""
_SHOWN = 500
"""How many characters of other output an error shows."""


class ConnectionLost(Exception):
    """The connection was cut or has been silent for too long. What it had started may go on there."""


class HostChannel:
    """A script that runs on a host. It must be one line. `command` is how a person connects to the host."""

    def __init__(self, channel: paramiko.Channel, script: str, host: str, command: str, silence: int) -> None:
        self._channel, self._host, self._command, self._silence = channel, host, command, silence
        self._marker = secrets.token_hex(16).encode()
        self._status: int | None = None
        channel.settimeout(silence)
        with _losing_connection():
            channel.exec_command(_COMMAND)
        with suppress(OSError):  # it has ended already: its output says why
            marker = self._marker.decode()
            channel.sendall(f'echo {marker}; ({script}); echo "{marker} $?"\n'.encode())
        self._unread = self._find_start()

    def _find_start(self) -> bytes:
        """Read up to the first marker. Returns what was read behind it."""
        printed, start = b"", self._marker + b"\n"
        while start not in printed:
            try:
                chunk = self._chunk()
            except ConnectionLost as error:
                if not isinstance(error.__cause__, TimeoutError):
                    raise
                raise self._not_started(printed, f"It was silent for {self._silence} seconds.") from None
            if len(printed) > _NOISE:
                raise self._not_started(printed, "It printed something else without an end.")
            if not chunk:
                status = self._exit_status()
                if status < 0 and not printed:
                    raise ConnectionLost
                raise self._not_started(printed, f"It ended with status {status}.")
            printed += chunk
        return printed.partition(start)[2]

    def _not_started(self, printed: bytes, end: str) -> Unreachable:
        output = "\n".join(text for text in (_shortened(printed), self.error_output()) if text)
        return Unreachable(
            f"no command could be run on {self._host}",
            detail=f"{end} It printed:\n{output}" if output else f"{end} It printed nothing.",
            hint=f"Check that `{self._command} true` works without a prompt. The login needs a shell, and a forced "
            "command in authorized_keys has to run $SSH_ORIGINAL_COMMAND.",
        )

    def receive(self) -> bytes:
        """The next bytes of the output, empty at its end; ConnectionLost when it is cut or silent for too long."""
        while self._status is None:
            output, marker, rest = self._unread.partition(self._marker)
            if marker and b"\n" in rest:
                self._status, self._unread = int(rest.split()[0]), b""
                return output
            withheld = b"" if marker else self._partial_marker(output)
            if not marker and len(output) > len(withheld):
                self._unread = withheld
                return output[: len(output) - len(withheld)]
            if not (chunk := self._chunk()):
                self._status, output, self._unread = -1, self._unread, b""
                return output
            self._unread += chunk
        return b""

    def _partial_marker(self, output: bytes) -> bytes:
        """The end of the output as far as it may be the beginning of the marker."""
        beginnings = (self._marker[:size] for size in range(len(self._marker) - 1, 0, -1))
        return next((beginning for beginning in beginnings if output.endswith(beginning)), b"")

    def _chunk(self) -> bytes:
        with _losing_connection():
            received: bytes = self._channel.recv(CHUNK)
        return received

    def lines(self) -> Iterator[bytes]:
        """The lines of the output, as they arrive."""
        rest = b""
        while chunk := self.receive():
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines

    def send(self, content: bytes) -> None:
        with _losing_connection():
            self._channel.sendall(content)

    def end_input(self, timeout: float) -> None:
        """End the script's input, and allow it so many seconds to end."""
        with _losing_connection():
            self._channel.shutdown_write()
        self._channel.settimeout(timeout)

    def status(self) -> int:
        """The exit status of the script, or -1 when none was received."""
        while self._status is None and self.receive():
            pass
        return -1 if self._status is None else self._status

    def _exit_status(self) -> int:
        """The exit status of what ran in the place of the script."""
        self._channel.status_event.wait(5)
        status: int = self._channel.exit_status
        return status

    def error_output(self) -> str:
        """The beginning of what was written to standard error."""
        return _shortened(self._channel.recv_stderr(CHUNK)) if self._channel.recv_stderr_ready() else ""

    def close(self) -> None:
        self._channel.close()


def _shortened(output: bytes) -> str:
    text = output.decode(errors="replace").strip()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


@contextmanager
def _losing_connection() -> Iterator[None]:
    import paramiko

    try:
        yield
    except (OSError, EOFError, paramiko.SSHException) as error:  # a timeout is an OSError
        raise ConnectionLost from error
