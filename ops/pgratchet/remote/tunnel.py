"""Opens a tunnel to a server that is reached through another host, with OpenSSH's own client.

Fabric's forwarder copies a kilobyte at a time, and its local port may be taken by another process before it listens.
OpenSSH is faster, and its master connection answers whether it forwards a port (`ssh -O forward`, ssh(1)), so nothing
is sent to a port of another process. The master ends by itself a while after its last connection, should we be killed.

A master whose connection was cut ends. It is started again with the same port, for `ssh_patience` seconds, so that a
session that connects again finds its server.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import IO

from pgratchet.database.target import program_environment
from pgratchet.errors import ConfigurationError, Unreachable
from pgratchet.remote.ssh_config import config_files
from pgratchet.variables import SshVariables

_TRIES = 5
_LINGER = 600
"""Seconds that a master without connections waits for one."""
_PAUSE = 1.0
"""Seconds between two attempts to start the master again."""
_LONGEST_FOLDER = 70
"""Characters. The path of a socket may have about 100, and OpenSSH appends some of its own."""


@contextmanager
def open_tunnel(variables: SshVariables, host: str, port: int, hidden: frozenset[str] = frozenset()) -> Iterator[int]:
    """A port on 127.0.0.1 that leads, inside the block, to `host` and `port` as the SSH host sees them.

    `hidden` are environment variables with secrets, which the ssh client does not get.
    """
    if not shutil.which("ssh"):
        raise ConfigurationError(
            "ssh is not installed",
            detail="A tunnel is opened with OpenSSH's client.",
            hint="Install openssh-client.",
        )
    with tempfile.TemporaryDirectory(prefix="pgratchet-", dir=_folder_for_sockets()) as folder:
        config = Path(folder, "config")
        config.write_text(_configuration(variables, Path(folder)), "utf-8")
        master = _Master(config, variables, program_environment(hidden))
        master.start()
        destination = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        with _kept_open(master, master.forward(destination), destination) as local_port:
            yield local_port


def _folder_for_sockets() -> str | None:
    """The folder for temporary files; /tmp when the path of a socket in it would be too long or cannot be quoted."""
    usual = tempfile.gettempdir()
    return None if len(usual) <= _LONGEST_FOLDER and '"' not in usual else "/tmp"  # noqa: S108  a private folder in it


@contextmanager
def _kept_open(master: _Master, port: int, destination: str) -> Iterator[int]:
    """Start the master again inside the block when it ends, and stop it at the end of the block."""
    keeper = _Keeper(master, port, destination)
    thread = Thread(target=keeper.run, daemon=True)
    thread.start()
    try:
        yield port
    finally:
        keeper.is_over.set()
        master.stop()
        thread.join()
        master.stop()


@dataclass(frozen=True, slots=True)
class _Keeper:
    """Watches a master, and starts it again with the same port when it has ended."""

    master: _Master
    port: int
    destination: str
    is_over: Event = field(default_factory=Event)

    def run(self) -> None:
        while not self.is_over.is_set():
            self.master.wait_for_end()
            if not self._restart():
                return

    def _restart(self) -> bool:
        deadline = time.monotonic() + self.master.variables.ssh_patience
        while not self.is_over.is_set():
            if self.master.start(must=False):
                if self.master.listen(self.port, self.destination, must=False):
                    return True
                self.master.stop()
            if time.monotonic() >= deadline:
                return False
            self.is_over.wait(_PAUSE)
        return False


@dataclass(frozen=True, slots=True)
class _Master:
    """OpenSSH's master connection to the SSH host."""

    config: Path
    variables: SshVariables
    environ: Mapping[str, str]

    @property
    def socket(self) -> Path:
        return self.config.with_name("s")

    def start(self, *, must: bool = True) -> bool:
        self.socket.unlink(missing_ok=True)
        return self.run("-f", "-N", "-M", must=must)

    def stop(self) -> None:
        if self.socket.exists():
            self.run("-O", "exit", must=False)

    def wait_for_end(self) -> None:
        """Wait until the master ends: it closes the connections to its socket."""
        with suppress(OSError), socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self.socket))
            while control.recv(4096):
                pass

    def listen(self, port: int, destination: str, *, must: bool) -> bool:
        """Return whether the master listens on the port of 127.0.0.1."""
        return self.run("-O", "forward", "-L", f"127.0.0.1:{port}:{destination}", must=must)

    def forward(self, destination: str) -> int:
        """A port that the master listens on. When another process has taken it meanwhile, another port is tried."""
        for last in range(_TRIES - 1, -1, -1):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port: int = free.getsockname()[1]
            if self.listen(port, destination, must=not last):
                break
        return port

    def run(self, *options: str, must: bool = True) -> bool:
        """Return whether ssh succeeded. With `must`, a failure raises Unreachable with OpenSSH's own words."""
        status, words = self._ssh(*options, self.variables.ssh_host)
        if status and must:
            raise _refused(self.variables, self._explanation() or words)
        return not status

    def _explanation(self) -> str:
        """OpenSSH's words about a connection of its own. A master hides those of the hosts in between."""
        status, words = self._ssh("-S", "none", self.variables.ssh_host, "true")
        return words if status else ""

    def _ssh(self, *arguments: str) -> tuple[int, str]:
        with tempfile.TemporaryFile() as output:  # the master would keep a pipe open
            status = self._status(["ssh", "-F", str(self.config), *arguments], output)
            output.seek(0)
            return status, output.read().decode(errors="replace").strip()

    def _status(self, command: Sequence[str], output: IO[bytes]) -> int:
        try:
            return subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=self.variables.ssh_timeout * 3,
                check=False,
                env=dict(self.environ),
            ).returncode
        except subprocess.TimeoutExpired:
            return 255


def _refused(variables: SshVariables, words: str) -> Unreachable:
    if "host key" in words.lower():
        return Unreachable(
            f"no tunnel through {variables.ssh_host}: a host key is not the known one",
            detail=words,
            hint="Compare the key with the host's own, then correct known_hosts.",
        )
    return Unreachable(
        f"no tunnel through {variables.ssh_host}: ssh failed",
        detail=words or f"ssh did not answer within {variables.ssh_timeout * 3} seconds.",
        hint="Check that `ssh` connects with the inventory's ssh_host, ssh_user, ssh_gateway and ssh_key.",
    )


def _configuration(variables: SshVariables, folder: Path) -> str:
    """The client's configuration: our strict values, then the user's own file. The first value of a keyword wins.

    In a file, not in arguments, so that it applies to gateways as well.
    """
    always = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "ConnectTimeout": variables.ssh_timeout,
        "ServerAliveInterval": max(1, variables.ssh_silence // 4),
        "ServerAliveCountMax": 4,
        "ForwardAgent": "no",
        "LogLevel": "ERROR",
    }
    known_hosts = f"UserKnownHostsFile {_quoted(Path(variables.ssh_known_hosts).expanduser())}"
    is_default = variables.ssh_known_hosts == SshVariables.ssh_known_hosts  # then ssh_config's own wins
    if variables.ssh_key:
        always["IdentityFile"] = _quoted(Path(variables.ssh_key).expanduser())
    alone = {"ControlPath": _quoted(folder / "s"), "ControlPersist": _LINGER}
    named: dict[str, object] = {"User": variables.ssh_user, "Port": variables.ssh_port}
    named["ProxyJump"] = variables.ssh_gateway
    files = config_files(Path(variables.ssh_config).expanduser())
    return "\n".join(
        [
            f"Host {variables.ssh_host}",
            *(f"  {name} {value}" for name, value in {**alone, **named}.items() if value),
            "Match all",
            *(f"  {name} {value}" for name, value in always.items()),
            "" if is_default else known_hosts,
            *(f'Include "{file.absolute()}"' for file in files),
            "Match all",
            known_hosts,
            "",
        ]
    )


def _quoted(path: Path) -> str:
    """Quote a path. It has no quotes: the inventory accepts none. A percent sign would begin a token."""
    return '"{}"'.format(str(path).replace("%", "%%"))
