"""An sshd of this user on the loopback interface, for machines without Docker."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pgratchet import embedded
from tests.hosts.ssh_server import SshServer
from tests.requirements import require
from tests.support.processes import children
from tests.support.ssh_keys import write_key_pair
from tests.support.waiting import until


@dataclass
class LocalSshd(SshServer):
    """An sshd of this user on 127.0.0.1."""

    port: int
    folder: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    def variables(self, **more: object) -> dict[str, object]:
        """The inventory variables of a target that is reached through it."""
        return {"ssh_host": "127.0.0.1", "ssh_port": self.port, **self.ssh(), **more}

    def know(self) -> None:
        """Write known_hosts with the present key."""
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {self._host_key()}\n")

    def change_key(self) -> None:
        """Replace the host key, and leave known_hosts as it is."""
        assert self.process is not None
        for name in ("host", "host.pub"):
            (self.folder / name).unlink()
        write_key_pair(self.folder / "host")
        self.process.send_signal(signal.SIGHUP)
        until(lambda: self._host_key() in _keys_served(self.port))

    def kill_sessions(self) -> None:
        """Kill the processes that serve connections, except the listener."""
        assert self.process is not None
        for child in children(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def _host_key(self) -> str:
        return " ".join((self.folder / "host.pub").read_text().split()[:2])


def _keys_served(port: int) -> str:
    command = [require("ssh-keyscan"), "-t", "ed25519", "-p", str(port), "127.0.0.1"]
    return subprocess.run(command, capture_output=True, text=True).stdout


@contextmanager
def running_local_sshd(folder: Path) -> Iterator[LocalSshd]:
    """Run the sshd for the block. Its users have their home in the folder, so that everything they leave is removed."""
    sshd = require("sshd")
    sshd_server = LocalSshd(free_port(), folder)
    for name in ("host", "id"):
        write_key_pair(folder / name)
    settings = {
        "Port": sshd_server.port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "id.pub",
        "PidFile": folder / "pid",
        "UsePAM": "no",
        "StrictModes": "no",
        "PasswordAuthentication": "no",
        "PermitRootLogin": "yes",
        "SetEnv": f"HOME={folder} PATH={embedded.programs()}:/usr/local/bin:/usr/bin:/bin",
    }
    (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    sshd_server.process = subprocess.Popen([sshd, "-D", "-f", folder / "sshd_config", "-E", folder / "sshd.log"])
    try:
        until((folder / "pid").exists, 10)
        sshd_server.know()
        yield sshd_server
    finally:
        sshd_server.kill_sessions()
        sshd_server.process.terminate()
        sshd_server.process.wait(10)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
