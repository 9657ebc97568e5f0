"""A tunnel to a server that can only be reached through another host, by OpenSSH's own client.

Owns its process and its configuration. Refuses to know what goes through it. Fabric's forwarder takes a kilobyte at a
time and a port that someone may have taken meanwhile (facts, section 3); OpenSSH carries what the line can, and says
when it listens: a master connection is asked to forward a port, and answers whether it does, so that nothing is ever
sent to a port that is not ours. The master ends a while after its last connection has, should we be killed.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pgratchet.errors import ConfigurationError, Unreachable

if TYPE_CHECKING:
    from pgratchet.variables import SshVariables

_TRIES = 5
_LINGER = 600
"""Seconds that a master without connections waits for one."""


@contextmanager
def open_tunnel(variables: SshVariables, host: str, port: int) -> Iterator[int]:
    """The port on 127.0.0.1 that leads, while the block lasts, to `host` and `port` as seen from the SSH host."""
    if not shutil.which("ssh"):
        raise ConfigurationError(
            "there is no ssh",
            detail="A tunnel is OpenSSH's own, which carries as much as the line can.",
            hint="Install openssh-client.",
        )
    with tempfile.TemporaryDirectory(prefix="pgratchet-") as folder:
        config = Path(folder, "config")
        config.write_text(_configuration(variables, Path(folder)), "utf-8")
        ssh = ["ssh", "-F", str(config)]
        _run([*ssh, "-f", "-N", "-M", variables.ssh_host], variables)
        try:
            yield _forwarded(ssh, variables, host, port)
        finally:
            _run([*ssh, "-O", "exit", variables.ssh_host], variables, must=False)


def _forwarded(ssh: Sequence[str], variables: SshVariables, host: str, port: int) -> int:
    """A port that the master listens on now; one that was taken in between is given up for another."""
    there = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    for last in range(_TRIES - 1, -1, -1):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            chosen: int = free.getsockname()[1]
        if _run(
            [*ssh, "-O", "forward", "-L", f"127.0.0.1:{chosen}:{there}", variables.ssh_host], variables, must=not last
        ):
            break
    return chosen


def _run(command: Sequence[str], variables: SshVariables, *, must: bool = True) -> bool:
    """Whether it went well; Unreachable with OpenSSH's own words where it did not and must."""
    with tempfile.TemporaryFile() as said:  # a pipe would be kept open by the master
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                timeout=variables.ssh_timeout * 3,
                check=False,
            )
            status = done.returncode
        except subprocess.TimeoutExpired:
            status = 255
        said.seek(0)
        words = said.read().decode(errors="replace").strip()
    if status and must:
        raise _refused(variables, words)
    return not status


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
    """What OpenSSH is to do, strict where ours begins, and the user's own behind it: the first value wins.

    By a file, and not by arguments, so that it holds for the hosts in between too.
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
    """The inventory lets no quote, control character or percent sign into a path."""
    return f'"{path}"'
