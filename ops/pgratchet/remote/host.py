"""Runs the agent on a host, over one SSH connection per host, and installs it there when it is missing.

A keepalive does not notice every dead connection (a network that swallows packets acknowledges nothing), so both sides
send heartbeats and give up a silent connection.
"""

from __future__ import annotations

import json
import shlex
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from pgratchet.errors import ConfigurationError, Unreachable
from pgratchet.remote import bundle, ssh
from pgratchet.remote.channel import ConnectionLost, HostChannel
from pgratchet.remote.ssh import Route

_WINDOW, _PACKET = 1 << 26, 1 << 17
"""Bytes. Every packet costs Python the same time, so large ones carry twice as much as the default of 32 kB."""
_NO_PYTHON, _NO_BUNDLE = 96, 97
_WRITING = 600
"""Seconds that a host may take to write the end of a file."""

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
        """Send the installer and the bundle. The bundle is checked under a temporary name and renamed."""
        python, installer, content = shlex.quote(self.route.python), _installer(), bundle.build()
        program = f'import sys; exec(getattr(sys.stdin, "buffer", sys.stdin).read({len(installer)}))'
        arguments = f"-c {shlex.quote(program)} {_digest()} {len(content)}"
        channel = self._channel(f"command -v {python} >/dev/null || exit {_NO_PYTHON}; exec {python} {arguments}")
        with suppress(ConnectionLost):  # it has ended already: its exit status says why
            channel.send(installer)
        agent = AgentSession(channel, self.route.silence)
        agent.require_started(self.route)
        if reason := agent.greeting.get("unfit"):
            raise ConfigurationError(
                f"{self.route.host} cannot run migrations",
                detail=str(reason),
                hint="Install it on the host. Nothing else is needed. Or set reach: tunnel in the inventory.",
            )
        with suppress(ConnectionLost):
            agent.send(content)
        self._require_installed(agent)

    def _require_installed(self, agent: AgentSession) -> None:
        answer = next(iter(agent.messages()), {})
        if "installed" in answer:
            return
        if reason := answer.get("unwritable"):
            raise ConfigurationError(
                f"pgratchet cannot be installed on {self.route.host}",
                detail=f"{reason}. Nothing was changed.",
                hint="Free some space in the user's home there, or make it writable, and run again.",
            )
        raise Unreachable(
            f"the bundle was not installed on {self.route.host}",
            detail=str(answer.get("error") or agent.error_output() or "The installer ended without an answer."),
            hint="Run again.",
        )

    def read(self, path: str) -> Iterator[bytes]:
        """The content of a file, in pieces."""
        with self._transferring(f"exec cat -- {shlex.quote(path)}", path) as channel:
            while chunk := channel.receive():
                yield chunk
            if channel.status() != 0:
                raise self._not_transferred(channel, path)

    def write(self, path: str, content: Iterable[bytes]) -> None:
        """Write a file of mode 0600, and missing folders of mode 0700."""
        name, folder = shlex.quote(path), shlex.quote(str(PurePosixPath(path).parent))
        with self._transferring(f"umask 077 && mkdir -p -- {folder} && exec cat > {name}", path) as channel:
            with suppress(ConnectionLost):  # it has ended already: its exit status says why
                for chunk in content:
                    channel.send(chunk)
                channel.end_input(_WRITING)
            if channel.status() != 0:
                raise self._not_transferred(channel, path)

    @contextmanager
    def _transferring(self, script: str, path: str) -> Iterator[HostChannel]:
        channel = self._channel(script)
        try:
            yield channel
        except ConnectionLost as error:
            raise self._not_transferred(channel, path) from error
        finally:
            channel.close()

    def _not_transferred(self, channel: HostChannel, path: str) -> Unreachable:
        status = channel.status()
        reason = channel.error_output() or ("the connection was lost" if status < 0 else f"exit status {status}")
        return Unreachable(
            f"the file {path} could not be transferred",
            detail=f"{self.route.host}: {reason}.",
            hint=f"Check that the connection holds, and that {self.route.host} has free space. Then run again.",
        )

    def home(self) -> str:
        """The path of ~/.pgratchet on the host."""
        channel = self._channel('echo "$HOME"')
        return f"{next(iter(channel.lines()), b'').decode(errors='replace')}/.pgratchet"

    def _channel(self, script: str) -> HostChannel:
        """Run a script with the POSIX shell, whatever the user's login shell is."""
        with ssh.translate_errors(self.route.host):
            channel = self._open().open_session(_WINDOW, _PACKET, self.route.timeout)
        route = self.route
        command = ssh.ssh_command(route.host, route.user, route.port, route.gateway)
        return HostChannel(channel, script, route.host, command, route.silence)

    def _open(self) -> Any:
        if self._connection is None or not self._connection.is_connected:
            self.close()
            self._connection = ssh.connect(self.route)
        return self._connection.transport


class AgentSession:
    """A command of the agent that runs on a host: the JSON lines that it prints, and what is sent to it."""

    def __init__(self, channel: HostChannel, silence: int) -> None:
        self._channel, self._silence = channel, silence
        self._ended, self._sending = threading.Event(), threading.Lock()
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self.status: int | None = None
        self.greeting: dict[str, Any] = {}
        greeting = self._next()
        if greeting is None:
            self.status = channel.status()
        else:
            self.greeting = greeting
            threading.Thread(target=self._beat, daemon=True).start()

    def require_started(self, route: Route) -> None:
        """Raise ConfigurationError or Unreachable when the agent did not start."""
        if self.status is None:
            return
        if self.status in (_NO_PYTHON, bundle.OLD_PYTHON):
            verb = "has no" if self.status == _NO_PYTHON else "has an old"
            raise ConfigurationError(
                f"{route.host} {verb} {route.python}",
                detail="Migrations run there on Python 3.10 or newer.",
                hint="Install python3 there, or set ssh_python in the inventory to the path of a newer one.",
            )
        if self.status == bundle.NO_LIBPQ:
            raise ConfigurationError(
                f"{route.host} has no libpq",
                detail="Migrations run on the host and connect to the server through libpq.",
                hint="Install libpq on the host: the package libpq5 on Debian and Ubuntu, else libpq.",
            )
        raise Unreachable(
            f"the agent did not start on {route.host}",
            detail=self.error_output() or f"It ended with status {self.status}.",
            hint="Log in to the host and check that the user may run a shell and write to the home folder.",
        )

    def send(self, content: bytes) -> None:
        """Send the content without a heartbeat in the middle."""
        with self._sending:
            self._channel.send(content)

    def messages(self) -> Iterator[dict[str, Any]]:
        """The agent's messages until it ends; ConnectionLost when the connection is cut or silent for too long.

        After an interrupt, another call continues where the first one was interrupted.
        """
        while (message := self._next()) is not None:
            yield message
        if self._channel.status() < 0:
            raise ConnectionLost

    def _next(self) -> dict[str, Any] | None:
        """The next message, None at the end. Lines that are no JSON objects were printed by something else."""
        while True:
            while self._lines:
                line = self._lines.popleft()
                with suppress(ValueError):
                    if isinstance(message := json.loads(line), dict):
                        return message
            chunk = self._channel.receive()
            if not chunk:
                return None
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            self._lines.extend(lines)

    def error_output(self) -> str:
        """The beginning of the agent's standard error."""
        return self._channel.error_output()

    def exit_status(self) -> int:
        """The exit status of the agent, after its last message."""
        return self._channel.status()

    def _beat(self) -> None:
        """Send a heartbeat; the agent ends without one."""
        with suppress(Exception):
            while not self._ended.wait(self._silence / 4):
                self.send(b"beat\n")

    def close(self) -> None:
        self._ended.set()
        self._channel.close()


def _installer() -> bytes:
    return Path(__file__).with_name("installer.py").read_bytes()


@lru_cache
def _digest() -> str:
    return bundle.digest()
