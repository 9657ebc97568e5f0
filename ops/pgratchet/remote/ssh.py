"""Reaching a host by SSH: the one place that makes a connection, what is run over it, and what is carried.

Owns trust in hosts, gateways too: known_hosts is read, a key that is unknown or another one is refused before anything
is sent. Owns that the bundle is there, the deadline by which a silent line is a dead one, and the translation of
Paramiko's failures. Refuses to know jobs. Fabric lends its reading of ssh_config and its connections.

What it rests on, measured (facts, section 3): Fabric's connections take any host key, and so do those that it makes for
ProxyJump by itself; an environment would be put into the command unescaped, so nothing is said by it; keepalive alone
does not notice a dead line; output that is decoded is no longer what was sent, so channels are read as bytes.
"""

from __future__ import annotations

import json
import logging
import shlex
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgratchet.errors import ConfigurationError, RatchetError, Unreachable
from pgratchet.remote import bundle

if TYPE_CHECKING:
    import paramiko
    from fabric import Config, Connection

    from pgratchet.variables import SshVariables

_CHUNK = 1 << 18
_WINDOW, _PACKET = 1 << 26, 1 << 17
"""Bytes. Each packet costs Python the same, so large ones are taken: of the usual 32 kB a line reads half as much."""
_NO_PYTHON, _NO_BUNDLE = 96, 97
_SYSTEM_HOSTS = Path("/etc/ssh/ssh_known_hosts")


class ConnectionLost(Exception):
    """The line was cut, or has gone silent; what was under way at its other end may go on there."""


class UntrustedHostKey(Unreachable):
    """The host shows a key that is not the known one: no second try makes that better."""


@dataclass(frozen=True, slots=True)
class Route:
    """How to get to a host; what is empty or 0 is left to ssh_config. `timeout` is for connecting, and `silence`
    how long nothing may be heard before a line is given up, both in seconds."""

    host: str
    port: int
    user: str
    gateway: str
    key: str
    config: Path
    known_hosts: Path
    python: str
    timeout: int
    silence: int


def route_to(variables: SshVariables) -> Route:
    """The way to a target's host."""
    return Route(
        host=variables.ssh_host,
        port=variables.ssh_port,
        user=variables.ssh_user,
        gateway=variables.ssh_gateway,
        key=variables.ssh_key and str(Path(variables.ssh_key).expanduser()),
        config=Path(variables.ssh_config).expanduser(),
        known_hosts=Path(variables.ssh_known_hosts).expanduser(),
        python=variables.ssh_python,
        timeout=variables.ssh_timeout,
        silence=variables.ssh_silence,
    )


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
    """A connection to a host, made when it is first used, and made anew when it was cut."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self._connection: Connection | None = None

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            _close(connection)

    @contextmanager
    def start(self, *words: str) -> Iterator[AgentSession]:
        """An operation of the bundle, while it runs there; the bundle is brought there first where it is missing."""
        agent = self._start(words)
        if agent.status == _NO_BUNDLE:
            self._install()
            agent = self._start(words)
        agent.require_started(self.route)
        try:
            yield agent
        finally:
            agent.close()

    def _start(self, words: Iterable[str]) -> AgentSession:
        place = f'"$HOME"/.pgratchet/bundles/{_digest()}'
        python = shlex.quote(self.route.python)
        script = (
            f"test -r {place}/__main__.py || exit {_NO_BUNDLE}; command -v {python} >/dev/null || exit {_NO_PYTHON}; "
            f"exec {python} -I -X utf8 {place} {shlex.join(words)}"
        )
        return AgentSession(self._channel(script), self.route.silence)

    def _install(self) -> None:
        """Bring the bundle there: under another name first, checked there, and renamed."""
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
        for told in agent.messages():
            if "installed" in told:
                return
            raise Unreachable(
                f"the bundle did not come to {self.route.host} as it was sent", detail=str(told), hint="Run again."
            )

    def read(self, path: str) -> Iterator[bytes]:
        """A file's bytes as they come."""
        channel = self._channel(f"exec cat -- {shlex.quote(path)}")
        with _translated(self.route.host):
            while chunk := _received(channel, self.route.silence):
                yield chunk
            self._ended(channel, path)

    def write(self, path: str, content: Iterable[bytes]) -> None:
        """A file of mode 0600, and folders of mode 0700 where they are missing."""
        quoted, folder = shlex.quote(path), shlex.quote(str(Path(path).parent))
        channel = self._channel(f"umask 077 && mkdir -p -- {folder} && exec cat > {quoted}")
        with _translated(self.route.host):
            for chunk in content:
                channel.sendall(chunk)
            channel.shutdown_write()
            _received(channel, 600)
            self._ended(channel, path)

    def _ended(self, channel: paramiko.Channel, path: str) -> None:
        if (status := _status(channel)) != 0:
            said = channel.recv_stderr(_CHUNK).decode(errors="replace").strip() or f"status {status}"
            raise Unreachable(
                f"{path} could not be carried over the line to {self.route.host}", detail=f"{said}.", hint="Run again."
            )

    def home(self) -> str:
        """The folder of ours on the host, as a path."""
        channel = self._channel('printf %s "$HOME"')
        with _translated(self.route.host):
            found = b"".join(iter(lambda: _received(channel, self.route.silence), b""))
        return f"{found.decode(errors='replace')}/.pgratchet"

    def _channel(self, script: str) -> paramiko.Channel:
        """Run a script by the POSIX shell, whatever the user's own shell is."""
        with _translated(self.route.host):
            channel: paramiko.Channel = self._open().open_session(_WINDOW, _PACKET, self.route.timeout)
            channel.settimeout(self.route.silence)
            channel.exec_command(f"exec sh -c {shlex.quote(script)}")
        return channel

    def _open(self) -> paramiko.Transport:
        if self._connection is None or not self._connection.is_connected:
            self.close()
            connection = connect(self.route)
            self._connection = connection
        transport: paramiko.Transport = self._connection.transport
        return transport


class AgentSession:
    """One operation of the bundle: lines of JSON that it prints, and what is sent to it."""

    def __init__(self, channel: paramiko.Channel, silence: int) -> None:
        self._channel, self._silence = channel, silence
        self._over, self._sending = threading.Event(), threading.Lock()
        self.status: int | None = None
        self.greeting: dict[str, Any] = {}
        self._heard = self._read()
        try:
            self.greeting = next(self._heard)
        except StopIteration:
            self.status = _status(channel)
        else:
            threading.Thread(target=self._beat, daemon=True).start()

    def require_started(self, to: Route) -> None:
        """Raise unless it has begun."""
        if self.status is None:
            return
        if self.status == _NO_PYTHON:
            raise ConfigurationError(
                f"{to.host} has no {to.python}",
                detail="The applier runs there on Python 3.10 or newer.",
                hint="Install python3 there, or give its path as ssh_python in the inventory.",
            )
        said = self._channel.recv_stderr(_CHUNK) if self._channel.recv_stderr_ready() else b""
        raise Unreachable(
            f"nothing could be run on {to.host}",
            detail=said.decode(errors="replace").strip() or f"It ended with status {self.status}.",
            hint="Log in there by hand, and see that the user may run a shell and write to his home.",
        )

    def send(self, content: bytes) -> None:
        """Send it whole, with no sign of life in its midst."""
        with _dropping(), self._sending:
            self._channel.sendall(content)

    def messages(self) -> Iterator[dict[str, Any]]:
        """What it prints, until it ends. Dropped where the line is cut, or nothing is heard for too long."""
        yield from self._heard
        if _status(self._channel) < 0:
            raise ConnectionLost

    def _read(self) -> Iterator[dict[str, Any]]:
        """The lines that are ours: what a user's shell says when it starts is not."""
        kept = b""
        while chunk := self._chunk():
            *lines, kept = (kept + chunk).split(b"\n")
            yield from (json.loads(each) for each in lines if each.startswith(b"{"))

    def _chunk(self) -> bytes:
        with _dropping():
            return _received(self._channel, self._silence)

    def _beat(self) -> None:
        """Let the other end know that this one is there."""
        with suppress(Exception):
            while not self._over.wait(self._silence / 4):
                self.send(b"beat\n")

    def close(self) -> None:
        self._over.set()
        self._channel.close()


def _received(channel: paramiko.Channel, silence: float) -> bytes:
    channel.settimeout(silence)
    received: bytes = channel.recv(_CHUNK)
    return received


def _status(channel: paramiko.Channel) -> int:
    """What a program there ended with; -1 where that was not heard."""
    channel.status_event.wait(5)
    status: int = channel.exit_status
    return status


@contextmanager
def _dropping() -> Iterator[None]:
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


def connect(to: Route) -> Connection:
    """A connection that is open, through its gateways, to hosts that are known; Unreachable where it cannot be had."""
    logging.getLogger("paramiko").addHandler(logging.NullHandler())  # what goes wrong is raised, and told once
    connection = prepared(to)
    try:
        with _translated(to.host):
            connection.open()
            connection.transport.set_keepalive(max(1, to.silence // 4))
    except BaseException:
        _close(connection)  # a gateway may be open, and its thread would be cut off at the end of the process
        raise
    return connection


def _close(connection: Any) -> None:
    """Close a connection and the gateways behind it; a gateway may be none, or a command."""
    while hasattr(connection, "close"):
        with suppress(Exception):
            connection.close()
        connection = connection.gateway


def prepared(to: Route) -> Connection:
    """The same, not yet open: each hop of the way trusts only keys that are known."""
    config = _config(to)
    hops = to.gateway.split(",") if to.gateway else _jumps(config, to.host)
    gateway: Any = None
    for hop in hops:
        gateway = _hardened(hop, to, config, gateway, None, None)
    if gateway is None:
        gateway = config.base_ssh_config.lookup(to.host).get("proxycommand")
    return _hardened(to.host, to, config, gateway, to.user or None, to.port or None)


def _config(to: Route) -> Config:
    """Fabric's configuration, of nothing but the ssh_config that is named: no file of Fabric's own, no environment."""
    from fabric import Config

    config = Config(lazy=True, runtime_ssh_path=str(to.config) if to.config.is_file() else None)
    if to.config.is_file():
        try:
            config.load_ssh_config()
        except Exception as error:  # the parser raises what it likes
            raise ConfigurationError(
                f"{to.config} cannot be read", detail=f"{error}.", hint="Mend it, or name another as ssh_config."
            ) from error
    return config


def _jumps(config: Config, host: str) -> list[str]:
    """The hops that ssh_config has before a host, the first to be reached first."""
    found: list[str] = []
    seen = {host}
    while True:
        jump = config.base_ssh_config.lookup(host).get("proxyjump", "none")
        hops = [] if jump == "none" else [hop.strip() for hop in jump.split(",")]
        found = hops + found
        host = hops[0].rpartition("@")[2].partition(":")[0] if hops else host
        if not hops or host in seen:
            return found
        seen.add(host)


def _hardened(host: str, to: Route, config: Config, gateway: Any, user: str | None, port: int | None) -> Connection:
    """A connection, not yet open, that trusts only the keys that are known.

    A gateway is always said, be it none: left out, Fabric would make one of its own from ssh_config.
    """
    from fabric import Connection

    keys: dict[str, Any] = {"key_filename": to.key} if to.key else {}
    keys["transport_factory"] = _transport
    keys |= {"banner_timeout": to.timeout, "auth_timeout": to.timeout, "channel_timeout": to.timeout}
    settings = {"config": config.clone(), "connect_timeout": to.timeout, "connect_kwargs": keys}
    made = Connection(host, user, port, gateway=gateway or False, **settings)
    made.client.set_missing_host_key_policy(_policy())
    for known in (_SYSTEM_HOSTS, to.known_hosts):
        if known.is_file():
            with suppress(OSError):
                made.client.load_system_host_keys(str(known))
    return made


def _transport(*arguments: Any, **named: Any) -> paramiko.Transport:
    """One that prefers a cipher which is its own checksum; Paramiko's usual choice needs another beside it."""
    import paramiko

    made = paramiko.Transport(*arguments, **named)
    options = made.get_security_options()
    options.ciphers = sorted(options.ciphers, key=lambda name: "gcm" not in name)
    return made


def _policy() -> paramiko.MissingHostKeyPolicy:
    import paramiko

    class Refuse(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
        """Raises what names the key, for a person to compare."""

        def missing_host_key(self, _: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
            raise UntrustedHostKey(
                f"the host key of {hostname} is not known",
                detail=f"It shows {key.get_name()} {key.fingerprint}. Nothing was sent.",
                hint=f"Compare that with the host's own, then add it to known_hosts: `ssh {hostname}` asks once.",
            )

    return Refuse()


@contextmanager
def _translated(host: str) -> Iterator[None]:
    """Turn what Paramiko says into our errors."""
    import paramiko

    try:
        yield
    except RatchetError:
        raise
    except paramiko.BadHostKeyException as error:
        raise UntrustedHostKey(
            f"the host key of {error.hostname} is not the one that is known",
            detail=f"It shows {error.key.get_name()} {error.key.fingerprint}; known is "
            f"{error.expected_key.fingerprint}. Nothing was sent.",
            hint="Someone may stand in between. Only when the host was really made anew, take its old key out of "
            f"known_hosts: ssh-keygen -R {shlex.quote(error.hostname)}",
        ) from error
    except (paramiko.AuthenticationException, paramiko.PasswordRequiredException) as error:
        raise Unreachable(
            f"{host} does not let us in",
            detail=f"{str(error).rstrip('.')}.",
            hint="See that the key is in the agent, or name it as ssh_key, and that the user is right.",
        ) from error
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise Unreachable(
            f"cannot reach {host} by SSH",
            detail=f"{str(error).rstrip('.') or type(error).__name__}.",
            hint="See that `ssh` gets there by what the inventory says: ssh_host, ssh_user, ssh_gateway, ssh_key.",
        ) from error
