"""A bastion and two database hosts in containers, on their own network, from the Dockerfile beside this file."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hosts.ssh_server import SshServer
from tests.support.ssh_keys import write_key_pair
from tests.support.waiting import until

PASSWORD = "it's: a c4n4ry \\ $(touch /tmp/executed)"


_KEY = "/etc/ssh/ssh_host_ed25519_key"


@dataclass
class Host:
    """A container that runs sshd. `address` is its address on the private network."""

    name: str
    address: str
    container: Any

    def run(self, command: str) -> str:
        """Run a command as root in the container, not over SSH. Returns its output; a failure is an error."""
        status, output = self.container.exec_run(["sh", "-c", command])
        text: str = output.decode()
        assert status == 0, text
        return text

    def key(self) -> str:
        """The host key, in the form of known_hosts without the name."""
        return " ".join(self.run(f"cat {_KEY}.pub").split()[:2])

    def change_key(self) -> None:
        """Replace the host key, as after a reinstallation or by an attacker. The known key is set aside."""
        aside = f"for end in '' .pub; do [ -e {_KEY}.known$end ] || mv {_KEY}$end {_KEY}.known$end; done"
        self._serve_key(f"{aside}; rm -f {_KEY} {_KEY}.pub; ssh-keygen -q -t ed25519 -N '' -f {_KEY}")

    def restore_key(self) -> None:
        """Put the known key back if it was replaced."""
        self._serve_key(f"for end in '' .pub; do [ ! -e {_KEY}.known$end ] || mv {_KEY}.known$end {_KEY}$end; done")

    def keep_key(self) -> str:
        """Make the present key the known one. Returns it."""
        self.run(f"rm -f {_KEY}.known {_KEY}.known.pub")
        return self.key()

    def _serve_key(self, put: str) -> None:
        self.run(f"{put}; kill -HUP $(cat /run/sshd.pid)")
        until(lambda: self.key() in self.run("ssh-keyscan -t ed25519 127.0.0.1 2>/dev/null || true"))

    def cut(self) -> None:
        """Drop all packets of SSH, also of open connections, as with an unplugged cable."""
        for chain, port in (("INPUT", "--dport"), ("OUTPUT", "--sport")):
            self.run(f"iptables -I {chain} -p tcp {port} 22 -j DROP")

    def mend(self) -> None:
        for chain, port in (("INPUT", "--dport"), ("OUTPUT", "--sport")):
            self.run(f"while iptables -D {chain} -p tcp {port} 22 -j DROP 2>/dev/null; do :; done")

    def kill_sessions(self) -> None:
        """Kill the processes that serve connections, except the listener."""
        self._signal_sessions("KILL")

    def freeze_sessions(self) -> None:
        self._signal_sessions("STOP")

    def thaw_sessions(self) -> None:
        self._signal_sessions("CONT")

    def _signal_sessions(self, signal: str) -> None:
        """By their ids. A process that has ended meanwhile is not an error."""
        others = "$(pgrep -x sshd | grep -vx $(cat /run/sshd.pid))"
        self.run(f"for id in {others}; do kill -{signal} $id 2>/dev/null || true; done")

    def processes(self) -> str:
        """Every process with its arguments and its environment."""
        return self.run("ps axewww -o pid,args")

    def psql(self, query: str, database: str = "app") -> str:
        """The rows of a query, as the superuser through the Unix socket of the host."""
        return self.run(f"su postgres -c {shlex.quote(f'psql -qAt -d {database} -c {shlex.quote(query)}')}").strip()


@dataclass
class Hosts(SshServer):
    """A bastion, and two database hosts behind it. `folder` holds keys and configurations."""

    bastion: Host
    db1: Host
    db2: Host
    folder: Path
    password: str = PASSWORD

    @property
    def ssh_config(self) -> Path:
        """A configuration for OpenSSH's client: `bastion`, and `db1` and `db2` through it."""
        return self.folder / "ssh_config"

    @property
    def authority(self) -> Path:
        return self.folder / "ca.crt"

    def know(self) -> None:
        """Write known_hosts with the present keys."""
        lines = [f"{self.bastion.address} {self.bastion.keep_key()}"]
        lines += [f"{host.name} {host.keep_key()}" for host in (self.db1, self.db2)]
        self.known_hosts.write_text("\n".join(lines) + "\n")

    def configure(self) -> None:
        """Write ssh_config, independent of the user's own configuration."""
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
        """The inventory variables of a database on one of the hosts. Its password is in SECRET."""
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
    """Start the three containers and wait until they accept logins."""
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
            container = DockerContainer(image.get_wrapped_image().id).with_network(network).with_network_aliases(name)
            container = container.with_env("AUTHORIZED_KEY", authorized).with_kwargs(
                cap_add=["NET_ADMIN"], hostname=name
            )
            if database:
                _certificate(folder, name)
                (folder / name / "password").write_text(PASSWORD.replace("'", "''"))
                container = container.with_volume_mapping(str(folder / name), "/etc/tls", "ro")
            started = stack.enter_context(container).get_wrapped_container()
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
    """A certificate for this name only."""
    (folder / name).mkdir(mode=0o755)
    (folder / name / "names").write_text(f"subjectAltName=DNS:{name}\n")
    _openssl(folder, f"req {_NEW_KEY} -subj /CN={name} -keyout {name}/server.key -out {name}/server.csr")
    signed = f"-CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile {name}/names -out {name}/server.crt"
    _openssl(folder, f"x509 -req -in {name}/server.csr {signed}")
    (folder / name / "server.key").chmod(0o644)


_NEW_KEY = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"


def _openssl(folder: Path, arguments: str) -> None:
    subprocess.run(["openssl", *arguments.split()], cwd=folder, check=True, capture_output=True)
