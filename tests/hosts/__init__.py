"""Real hosts: a bastion and two database hosts on a network of their own, from the Dockerfile beside this; or an sshd
on the loopback, where there is no Docker. What is started ends with the tests."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgratchet import embedded
from tests.requirements import require
from tests.support.processes import children
from tests.support.ssh_keys import write_key_pair
from tests.support.waiting import until

PASSWORD = "it's: a c4n4ry \\ $(touch /tmp/executed)"
_KEY = "/etc/ssh/ssh_host_ed25519_key"


@dataclass
class Host:
    """A container that runs sshd; `address` is its own on the private network."""

    name: str
    address: str
    container: Any

    def run(self, command: str) -> str:
        """What a command prints, run as root in the container and not over SSH; it has to go well."""
        status, said = self.container.exec_run(["sh", "-c", command])
        text: str = said.decode()
        assert status == 0, text
        return text

    def key(self) -> str:
        """Its host key, as known_hosts has it behind the name."""
        return " ".join(self.run(f"cat {_KEY}.pub").split()[:2])

    def change_key(self) -> None:
        """Another host key, as after a reinstallation or under an attacker; the one that is known is kept aside."""
        aside = f"for end in '' .pub; do [ -e {_KEY}.known$end ] || mv {_KEY}$end {_KEY}.known$end; done"
        self._serve_key(f"{aside}; rm -f {_KEY} {_KEY}.pub; ssh-keygen -q -t ed25519 -N '' -f {_KEY}")

    def restore_key(self) -> None:
        """The key that known_hosts has; nothing, where it was not changed."""
        self._serve_key(f"for end in '' .pub; do [ ! -e {_KEY}.known$end ] || mv {_KEY}.known$end {_KEY}$end; done")

    def keep_key(self) -> str:
        """The key as it now is, to be known: none is put back for it any more."""
        self.run(f"rm -f {_KEY}.known {_KEY}.known.pub")
        return self.key()

    def _serve_key(self, put: str) -> None:
        self.run(f"{put}; kill -HUP $(cat /run/sshd.pid)")
        until(lambda: self.key() in self.run("ssh-keyscan -t ed25519 127.0.0.1 2>/dev/null || true"))

    def cut(self) -> None:
        """Let no packet of SSH through, also none of a connection that stands: as a cable that was pulled."""
        for chain, port in (("INPUT", "--dport"), ("OUTPUT", "--sport")):
            self.run(f"iptables -I {chain} -p tcp {port} 22 -j DROP")

    def mend(self) -> None:
        for chain, port in (("INPUT", "--dport"), ("OUTPUT", "--sport")):
            self.run(f"while iptables -D {chain} -p tcp {port} 22 -j DROP 2>/dev/null; do :; done")

    def kill_sessions(self) -> None:
        """End the processes that serve connections, and not the one that listens."""
        self._signal_sessions("KILL")

    def freeze_sessions(self) -> None:
        self._signal_sessions("STOP")

    def thaw_sessions(self) -> None:
        self._signal_sessions("CONT")

    def _signal_sessions(self, signal: str) -> None:
        """By their ids; one that ended meanwhile is no failure."""
        others = "$(pgrep -x sshd | grep -vx $(cat /run/sshd.pid))"
        self.run(f"for id in {others}; do kill -{signal} $id 2>/dev/null || true; done")

    def processes(self) -> str:
        """Every process with its arguments and its environment."""
        return self.run("ps axewww -o pid,args")

    def psql(self, query: str, database: str = "app") -> str:
        """The rows of a query, as the superuser by the host's own socket."""
        return self.run(f"su postgres -c {shlex.quote(f'psql -qAt -d {database} -c {shlex.quote(query)}')}").strip()


class _SshServer:
    """By which keys hosts are reached; the folder holds them."""

    folder: Path

    @property
    def key(self) -> Path:
        return self.folder / "id"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def ssh(self) -> dict[str, object]:
        """What every inventory that leads there says."""
        return {
            "reach": "ssh",
            "ssh_key": str(self.key),
            "ssh_known_hosts": str(self.known_hosts),
            "ssh_config": "/nonexistent",
            "ssh_silence": 4,
        }


@dataclass
class Hosts(_SshServer):
    """A bastion that the tests reach, and two database hosts behind it. `folder` holds keys and configurations."""

    bastion: Host
    db1: Host
    db2: Host
    folder: Path
    password: str = PASSWORD

    @property
    def ssh_config(self) -> Path:
        """For OpenSSH's client: `bastion`, and `db1` and `db2` through it."""
        return self.folder / "ssh_config"

    @property
    def authority(self) -> Path:
        return self.folder / "ca.crt"

    def know(self) -> None:
        """Write known_hosts as the hosts now are."""
        lines = [f"{self.bastion.address} {self.bastion.keep_key()}"]
        lines += [f"{host.name} {host.keep_key()}" for host in (self.db1, self.db2)]
        self.known_hosts.write_text("\n".join(lines) + "\n")

    def configure(self) -> None:
        """Write that ssh_config; nothing of this machine's own has a part in it."""
        settings = {
            "User": "deploy",
            "IdentityFile": self.key,
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self.known_hosts,
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
        }
        common = "".join(f"  {name} {value}\n" for name, value in settings.items())
        ways = f"Host bastion\n  HostName {self.bastion.address}\nHost db1 db2\n  ProxyJump bastion\n"
        self.ssh_config.write_text(f"{ways}Host *\n{common}")

    def variables(self, host: Host, **more: object) -> dict[str, object]:
        """What an inventory says of a database on one of them; its password is in SECRET."""
        return {
            "pg_host": "/var/run/postgresql",
            "pg_dbname": "app",
            "pg_user": "owner",
            "pg_password": "{{ env('SECRET') }}",
            "ssh_host": host.name,
            "ssh_user": "deploy",
            "ssh_gateway": f"deploy@{self.bastion.address}",
            **self.ssh(),
            **more,
        }


@contextmanager
def running_hosts(folder: Path) -> Iterator[Hosts]:
    """The three containers, ready to be logged in to."""
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.image import DockerImage
    from testcontainers.core.network import Network

    write_key_pair(folder / "id")
    authorized = (folder / "id.pub").read_text().strip()
    _authority(folder)
    with ExitStack() as stack:
        image = stack.enter_context(DockerImage(Path(__file__).parent, tag="pgratchet-host:tests", clean_up=False))
        network = stack.enter_context(Network())

        def host(name: str, database: bool) -> Host:
            # By its id: another checkout's run may move the tag meanwhile.
            made = DockerContainer(image.get_wrapped_image().id).with_network(network).with_network_aliases(name)
            made = made.with_env("AUTHORIZED_KEY", authorized).with_kwargs(cap_add=["NET_ADMIN"], hostname=name)
            if database:
                _certificate(folder, name)
                (folder / name / "password").write_text(PASSWORD.replace("'", "''"))
                made = made.with_volume_mapping(str(folder / name), "/etc/tls", "ro")
            started = stack.enter_context(made).get_wrapped_container()
            started.reload()
            (attached,) = started.attrs["NetworkSettings"]["Networks"].values()
            return Host(name, attached["IPAddress"], started)

        # Databases first: they become ready while the others are started.
        db1, db2 = host("db1", True), host("db2", True)
        hosts = Hosts(host("bastion", False), db1, db2, folder)
        for each in (hosts.bastion, hosts.db1, hosts.db2):
            until(lambda each=each: each.container.exec_run(["test", "-e", "/run/sshd.pid"])[0] == 0, 60)  # type: ignore[misc]
        hosts.know()
        hosts.configure()
        yield hosts


def _authority(folder: Path) -> None:
    _openssl(folder, f"req -x509 {_NEW_KEY} -days 2 -subj /CN=tests -keyout ca.key -out ca.crt")


def _certificate(folder: Path, name: str) -> None:
    """A certificate for that name alone."""
    (folder / name).mkdir(mode=0o755)
    (folder / name / "names").write_text(f"subjectAltName=DNS:{name}\n")
    _openssl(folder, f"req {_NEW_KEY} -subj /CN={name} -keyout {name}/server.key -out {name}/server.csr")
    signed = f"-CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile {name}/names -out {name}/server.crt"
    _openssl(folder, f"x509 -req -in {name}/server.csr {signed}")
    (folder / name / "server.key").chmod(0o644)


_NEW_KEY = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"


def _openssl(folder: Path, arguments: str) -> None:
    subprocess.run(["openssl", *arguments.split()], cwd=folder, check=True, capture_output=True)


@dataclass
class LocalSshd(_SshServer):
    """An sshd of this user on 127.0.0.1, for where there is no Docker."""

    port: int
    folder: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    def variables(self, **more: object) -> dict[str, object]:
        """What an inventory says of a target that is reached by it."""
        return {"ssh_host": "127.0.0.1", "ssh_port": self.port, **self.ssh(), **more}

    def know(self) -> None:
        """Write known_hosts as the host now is."""
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {self._host_key()}\n")

    def change_key(self) -> None:
        """Another host key than known_hosts has."""
        assert self.process is not None
        for name in ("host", "host.pub"):
            (self.folder / name).unlink()
        write_key_pair(self.folder / "host")
        self.process.send_signal(signal.SIGHUP)
        until(lambda: self._host_key() in _keys_served(self.port))

    def kill_sessions(self) -> None:
        """End the processes that serve connections, and not the one that listens."""
        assert self.process is not None
        for child in children(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def _host_key(self) -> str:
        return " ".join((self.folder / "host.pub").read_text().split()[:2])


def _keys_served(port: int) -> str:
    asked = ["ssh-keyscan", "-t", "ed25519", "-p", str(port), "127.0.0.1"]
    return subprocess.run(asked, capture_output=True, text=True).stdout


@contextmanager
def running_local_sshd(folder: Path) -> Iterator[LocalSshd]:
    """That sshd, while the block lasts. Its users have their home in the folder: what is left there is gone with it."""
    sshd = require("sshd")
    made = LocalSshd(free_port(), folder)
    for name in ("host", "id"):
        write_key_pair(folder / name)
    settings = {
        "Port": made.port,
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
    made.process = subprocess.Popen([sshd, "-D", "-f", folder / "sshd_config", "-E", folder / "sshd.log"])
    try:
        until((folder / "pid").exists, 10)
        made.know()
        yield made
    finally:
        made.kill_sessions()
        made.process.terminate()
        made.process.wait(10)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
