"""Opens a tunnel to a server that is reached through another host, with OpenSSH's own client.

Fabric's forwarder copies a kilobyte at a time, and its local port may be taken by another process before it listens.
OpenSSH is faster, and its master connection answers whether it forwards a port (`ssh -O forward`, ssh(1)), so nothing
is sent to a port of another process. The master ends by itself a while after its last connection, should we be killed.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pgratchet.database.target import program_environment
from pgratchet.errors import ConfigurationError, Unreachable

if TYPE_CHECKING:
    from pgratchet.variables import SshVariables

_TRIES = 5
_LINGER = 600
"""Seconds that a master without connections waits for one."""


@contextmanager
def open_tunnel(variables: SshVariables, host: str, port: int, hidden: frozenset[str] = frozenset()) -> Iterator[int]:
    """A port on 127.0.0.1 that leads, inside the block, to `host` and `port` as the SSH host sees them.

    `hidden` are environment variables with secrets, which the ssh client does not get.
    """
    if not shutil.which("ssh"):
        raise ConfigurationError(
            "there is no ssh",
            detail="A tunnel is OpenSSH's own, which carries as much as the line can.",
            hint="Install openssh-client.",
        )
    with tempfile.TemporaryDirectory(prefix="pgratchet-") as folder:
        config = Path(folder, "config")
        config.write_text(_configuration(variables, Path(folder)), "utf-8")
        master = _Master(config, variables, program_environment(hidden))
        master.run("-f", "-N", "-M")
        try:
            yield master.forward(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        finally:
            master.run("-O", "exit", must=False)


@dataclass(frozen=True, slots=True)
class _Master:
    """OpenSSH's master connection to the SSH host."""

    config: Path
    variables: SshVariables
    environ: Mapping[str, str]

    def forward(self, destination: str) -> int:
        """A port that the master listens on. When another process has taken it meanwhile, another port is tried."""
        for last in range(_TRIES - 1, -1, -1):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port: int = free.getsockname()[1]
            if self.run("-O", "forward", "-L", f"127.0.0.1:{port}:{destination}", must=not last):
                break
        return port

    def run(self, *options: str, must: bool = True) -> bool:
        """Return whether ssh succeeded. With `must`, a failure raises Unreachable with OpenSSH's own words."""
        command = ["ssh", "-F", str(self.config), *options, self.variables.ssh_host]
        with tempfile.TemporaryFile() as output:  # the master would keep a pipe open
            status = self._status(command, output)
            output.seek(0)
            words = output.read().decode(errors="replace").strip()
        if status and must:
            raise _refused(self.variables, words)
        return not status

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
    key = "host key" in words.lower()
    return Unreachable(
        f"no tunnel through {variables.ssh_host}: {'its host key is not one that is known' if key else 'ssh failed'}",
        detail=words or "It gave no answer in time.",
        hint="Compare the key with the host's own, then add it to known_hosts."
        if key
        else "See that `ssh` gets there by what the inventory says: ssh_host, ssh_user, ssh_gateway, ssh_key.",
    )


def _configuration(variables: SshVariables, folder: Path) -> str:
    """The client's configuration: our strict values, then the user's own file. The first value of a keyword wins.

    In a file, not in arguments, so that it applies to the hosts in between as well.
    """
    always = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": _quoted(Path(variables.ssh_known_hosts).expanduser()),
        "UpdateHostKeys": "no",
        "ConnectTimeout": variables.ssh_timeout,
        "ServerAliveInterval": max(1, variables.ssh_silence // 4),
        "ServerAliveCountMax": 4,
        "ForwardAgent": "no",
        "LogLevel": "ERROR",
    }
    if variables.ssh_key:
        always["IdentityFile"] = _quoted(Path(variables.ssh_key).expanduser())
    alone = {"ControlPath": _quoted(folder / "s"), "ControlPersist": _LINGER}
    named: dict[str, object] = {"User": variables.ssh_user, "Port": variables.ssh_port}
    named["ProxyJump"] = variables.ssh_gateway
    own = Path(variables.ssh_config).expanduser().absolute()
    return "\n".join(
        [
            f"Host {variables.ssh_host}",
            *(f"  {name} {value}" for name, value in {**alone, **named}.items() if value),
            "Match all",
            *(f"  {name} {value}" for name, value in always.items()),
            f"Include {_quoted(own)}" if own.is_file() else "",
            "",
        ]
    )


def _quoted(path: Path) -> str:
    """Quote a path. The inventory accepts no quotes, control characters and percent signs in one."""
    return f'"{path}"'
