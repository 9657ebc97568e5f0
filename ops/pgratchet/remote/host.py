"""Runs the agent on a host, over one SSH connection per host, and installs it there when it is missing.

A keepalive does not notice every dead connection (a network that swallows packets acknowledges nothing), so both sides
send heartbeats and give up a silent connection. Channels are read as bytes: decoded output is no longer what was sent.
"""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgratchet.errors import ConfigurationError, Unreachable
from pgratchet.remote import bundle, ssh
from pgratchet.remote.ssh import Route

if TYPE_CHECKING:
    import paramiko

_CHUNK = 1 << 18
_WINDOW, _PACKET = 1 << 26, 1 << 17
"""Bytes. Every packet costs Python the same time, so large ones carry twice as much as the default of 32 kB."""
_NO_PYTHON, _NO_BUNDLE = 96, 97


class ConnectionLost(Exception):
    """The connection was cut or has been silent for too long. What it had started may go on there."""


_connections: dict[Route, HostConnection] = {}


def connection_to(route: Route) -> HostConnection:
    """The connection to a host, shared by all that this process does there until `close_connections`."""
    if route not in _connections:
        _connections[route] = HostConnection(route)
    return _connections[route]


def close_connections() -> None:
    """Close every connection of this process."""
    while _connections:
        _connections.popitem()[1].close()


class HostConnection:
    """A connection to a host. It is opened on first use, and opened again after it was cut."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self._connection: Any = None  # Fabric's, which only `ssh` knows

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            ssh.close(connection)

    @contextmanager
    def start(self, *command: str) -> Iterator[AgentSession]:
        """Run a command of the agent inside the block. The bundle is installed on the host first when it is missing."""
        agent = self._start(command)
        if agent.status == _NO_BUNDLE:
            self._install()
            agent = self._start(command)
        agent.require_started(self.route)
        try:
            yield agent
        finally:
            agent.close()

    def _start(self, command: Iterable[str]) -> AgentSession:
        folder = f'"$HOME"/.pgratchet/bundles/{_digest()}'
        python = shlex.quote(self.route.python)
        script = (
            f"test -r {folder}/__main__.py || exit {_NO_BUNDLE}; command -v {python} >/dev/null || exit {_NO_PYTHON}; "
            f"exec {python} -I -X utf8 {folder} {shlex.join(command)}"
        )
        return AgentSession(self._channel(script), self.route.silence)

    def _install(self) -> None:
        """Send the bundle. The installer checks it under a temporary name and renames it."""
        python = shlex.quote(self.route.python)
        script = f"command -v {python} >/dev/null || exit {_NO_PYTHON}; exec {python} -c {shlex.quote(_installer())} "
        content = bundle.build()
        agent = AgentSession(self._channel(f"{script}{_digest()} {len(content)}"), self.route.silence)
        agent.require_started(self.route)
        if reason := agent.greeting.get("unfit"):
            raise ConfigurationError(
                f"{self.route.host} cannot run migrations",
                detail=str(reason),
                hint="Install it there; nothing else is needed. Or reach the database by a tunnel: reach: tunnel.",
            )
        agent.send(content)
        for message in agent.messages():
            if "installed" in message:
                return
            raise Unreachable(
                f"the bundle did not come to {self.route.host} as it was sent", detail=str(message), hint="Run again."
            )

    def read(self, path: str) -> Iterator[bytes]:
        """The content of a file, in pieces."""
        channel = self._channel(f"exec cat -- {shlex.quote(path)}")
        with ssh.translate_errors(self.route.host):
            while chunk := _received(channel, self.route.silence):
                yield chunk
            self._require_success(channel, path)

    def write(self, path: str, content: Iterable[bytes]) -> None:
        """Write a file of mode 0600, and missing folders of mode 0700."""
        quoted, folder = shlex.quote(path), shlex.quote(str(Path(path).parent))
        channel = self._channel(f"umask 077 && mkdir -p -- {folder} && exec cat > {quoted}")
        with ssh.translate_errors(self.route.host):
            for chunk in content:
                channel.sendall(chunk)
            channel.shutdown_write()
            _received(channel, 600)
            self._require_success(channel, path)

    def _require_success(self, channel: paramiko.Channel, path: str) -> None:
        if (status := _status(channel)) != 0:
            reason = channel.recv_stderr(_CHUNK).decode(errors="replace").strip() or f"status {status}"
            raise Unreachable(
                f"{path} could not be carried over the line to {self.route.host}",
                detail=f"{reason}.",
                hint="Run again.",
            )

    def home(self) -> str:
        """The path of ~/.pgratchet on the host."""
        channel = self._channel('printf %s "$HOME"')
        with ssh.translate_errors(self.route.host):
            home = b"".join(iter(lambda: _received(channel, self.route.silence), b""))
        return f"{home.decode(errors='replace')}/.pgratchet"

    def _channel(self, script: str) -> paramiko.Channel:
        """Run a script with the POSIX shell, whatever the user's login shell is."""
        with ssh.translate_errors(self.route.host):
            channel: paramiko.Channel = self._open().open_session(_WINDOW, _PACKET, self.route.timeout)
            channel.settimeout(self.route.silence)
            channel.exec_command(f"exec sh -c {shlex.quote(script)}")
        return channel

    def _open(self) -> paramiko.Transport:
        if self._connection is None or not self._connection.is_connected:
            self.close()
            self._connection = ssh.connect(self.route)
        transport: paramiko.Transport = self._connection.transport
        return transport


class AgentSession:
    """A command of the agent that runs on a host: the JSON lines that it prints, and what is sent to it."""

    def __init__(self, channel: paramiko.Channel, silence: int) -> None:
        self._channel, self._silence = channel, silence
        self._ended, self._sending = threading.Event(), threading.Lock()
        self.status: int | None = None
        self.greeting: dict[str, Any] = {}
        self._incoming = self._read()
        try:
            self.greeting = next(self._incoming)
        except StopIteration:
            self.status = _status(channel)
        else:
            threading.Thread(target=self._beat, daemon=True).start()

    def require_started(self, route: Route) -> None:
        """Raise ConfigurationError or Unreachable when the agent did not start."""
        if self.status is None:
            return
        if self.status == _NO_PYTHON:
            raise ConfigurationError(
                f"{route.host} has no {route.python}",
                detail="The applier runs there on Python 3.10 or newer.",
                hint="Install python3 there, or give its path as ssh_python in the inventory.",
            )
        if self.status == bundle.NO_LIBPQ:
            raise ConfigurationError(
                f"{route.host} has no libpq",
                detail="The applier reaches the server through it.",
                hint="Install it there: libpq5 on Debian and Ubuntu, postgresql-libs or libpq elsewhere.",
            )
        output = self._channel.recv_stderr(_CHUNK) if self._channel.recv_stderr_ready() else b""
        raise Unreachable(
            f"nothing could be run on {route.host}",
            detail=output.decode(errors="replace").strip() or f"It ended with status {self.status}.",
            hint="Log in there by hand, and see that the user may run a shell and write to his home.",
        )

    def send(self, content: bytes) -> None:
        """Send the content without a heartbeat in the middle."""
        with _losing_connection(), self._sending:
            self._channel.sendall(content)

    def messages(self) -> Iterator[dict[str, Any]]:
        """The agent's messages until it ends; ConnectionLost when the connection is cut or silent for too long."""
        yield from self._incoming
        if _status(self._channel) < 0:
            raise ConnectionLost

    def _read(self) -> Iterator[dict[str, Any]]:
        """The agent's lines; other output, of the user's shell start-up files, is skipped."""
        rest = b""
        while chunk := self._chunk():
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (json.loads(line) for line in lines if line.startswith(b"{"))

    def _chunk(self) -> bytes:
        with _losing_connection():
            return _received(self._channel, self._silence)

    def _beat(self) -> None:
        """Send a heartbeat; the agent ends without one."""
        with suppress(Exception):
            while not self._ended.wait(self._silence / 4):
                self.send(b"beat\n")

    def close(self) -> None:
        self._ended.set()
        self._channel.close()


def _received(channel: paramiko.Channel, silence: float) -> bytes:
    channel.settimeout(silence)
    received: bytes = channel.recv(_CHUNK)
    return received


def _status(channel: paramiko.Channel) -> int:
    """The exit status of the program on the host, or -1 when none was received."""
    channel.status_event.wait(5)
    status: int = channel.exit_status
    return status


@contextmanager
def _losing_connection() -> Iterator[None]:
    import paramiko

    try:
        yield
    except (OSError, EOFError, paramiko.SSHException) as error:  # a timeout is an OSError
        raise ConnectionLost from error


def _installer() -> str:
    return Path(__file__).with_name("installer.py").read_text("utf-8")


@lru_cache
def _digest() -> str:
    return bundle.digest()
