"""The hosts behave as the tests of SSH assume. OpenSSH's own client shows this."""

from __future__ import annotations

import select
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import psycopg
import pytest
from docker.errors import NotFound

from tests.hosts.containers import Host, Hosts, running_hosts
from tests.hosts.local_sshd import LocalSshd, free_port
from tests.requirements import require
from tests.support.ssh_keys import write_key_pair
from tests.support.waiting import until

CHANGED = "REMOTE HOST IDENTIFICATION HAS CHANGED"
SOCKET = "psql -w -qAt -h /var/run/postgresql -U owner -d app -c 'select current_user'"
Ssh = Callable[..., list[str]]


@pytest.fixture
def ssh(hosts: Hosts) -> Ssh:
    """The command line of OpenSSH's client with the configuration of the hosts, followed by the arguments."""
    program = require("ssh")
    return lambda *arguments: [program, "-F", str(hosts.ssh_config), *arguments]


@pytest.fixture
def ssh_command(local_sshd: LocalSshd) -> list[str]:
    """The command line of OpenSSH's client for the sshd on this machine."""
    options = [f"UserKnownHostsFile={local_sshd.known_hosts}", "StrictHostKeyChecking=yes", "BatchMode=yes"]
    flags = [part for option in options for part in ("-o", option)]
    return [require("ssh"), "-F", "none", "-i", str(local_sshd.key), "-p", str(local_sshd.port), *flags, "127.0.0.1"]


def ran(command: list[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=20)


def said(command: list[str], stdin: str = "") -> str:
    done = ran(command, stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def session(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A command that returns its input, once it does."""
    with subprocess.Popen([*command, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        try:
            send(process)
            assert answer(process, 10) == b"x\n"
            yield process
        finally:
            process.kill()


def send(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"x\n")


def answer(process: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    """The bytes that arrive in time; None if none do, and empty bytes at the end."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    return process.stdout.read(100) if ready else None


@pytest.fixture(params=["bastion", "db1"])
def host(request: pytest.FixtureRequest, hosts: Hosts) -> Iterator[Host]:
    """The host db1. Bastion and host are repaired afterwards."""
    each: Host = getattr(hosts, request.param)
    yield each
    each.mend()
    each.restore_key()


@pytest.mark.parametrize("name", ["bastion", "db1", "db2"])
def test_each_host_accepts_its_user_and_has_python(ssh: Ssh, hosts: Hosts, name: str) -> None:
    command = "hostname; whoami; python3 -c 'import sys; print(sys.version_info >= (3, 10))'"
    assert said(ssh(name, command)).split() == [name, "deploy", "True"]


def test_other_keys_and_passwords_are_refused(ssh: Ssh, hosts: Hosts, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_key_pair(other)
    done = ran(["ssh", "-F", str(_with_key(hosts, other, tmp_path)), "bastion", "true"])
    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr


def _with_key(hosts: Hosts, key: Path, folder: Path) -> Path:
    written = folder / "ssh_config"
    written.write_text(hosts.ssh_config.read_text().replace(str(hosts.key), str(key)))
    return written


@pytest.mark.parametrize("name", ["db1", "db2"])
def test_the_unix_socket_requires_the_password(ssh: Ssh, hosts: Hosts, name: str) -> None:
    command = f"{SOCKET}; while IFS= read -r PGPASSWORD; do export PGPASSWORD; {SOCKET}; done; true"
    done = ran(ssh(name, command), f"{hosts.password}\nanother\n")
    assert done.stdout == "owner\n"
    assert "no password supplied" in done.stderr
    assert "password authentication failed" in done.stderr


@pytest.mark.parametrize("name", ["db1", "db2"])
def test_a_certificate_is_valid_for_its_own_host_only(ssh: Ssh, hosts: Hosts, name: str) -> None:
    port = free_port()
    forward = ("-o", "ExitOnForwardFailure=yes", "-N", "-L", f"127.0.0.1:{port}:{name}:5432", "bastion")
    with subprocess.Popen(ssh(*forward)) as tunnel:
        try:
            until(lambda: _listens(port))
            _verified(hosts, name, port)
            with pytest.raises(psycopg.OperationalError, match="does not match host name"):
                _verified(hosts, {"db1": "db2", "db2": "db1"}[name], port)
        finally:
            tunnel.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as line:
        return line.connect_ex(("127.0.0.1", port)) == 0


def _verified(hosts: Hosts, name: str, port: int) -> None:
    with psycopg.connect(
        host=name,
        hostaddr="127.0.0.1",
        port=port,
        user="owner",
        password=hosts.password,
        dbname="app",
        sslmode="verify-full",
        sslrootcert=str(hosts.authority),
    ) as connection:
        assert connection.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchone() == (True,)


def test_a_cut_stops_open_and_new_connections_until_it_is_repaired(ssh: Ssh, host: Host) -> None:
    with session(ssh(host.name)) as standing:
        host.cut()
        send(standing)
        done = ran(ssh("-o", "ConnectTimeout=1", host.name, "true"))
        assert (done.returncode, "timed out" in done.stderr) == (255, True), done.stderr
        assert answer(standing, 0) is None
        assert standing.poll() is None
        host.mend()
        assert answer(standing, 15) == b"x\n"


def test_kill_sessions_spares_the_listener(ssh: Ssh, host: Host) -> None:
    with session(ssh(host.name)) as standing:
        host.kill_sessions()
        assert standing.wait(10) == 255
    assert said(ssh(host.name, "hostname")) == host.name


def test_frozen_sessions_are_silent_until_they_are_thawed(ssh: Ssh, hosts: Hosts) -> None:
    with session(ssh("db1")) as standing:
        hosts.db1.freeze_sessions()
        send(standing)
        assert answer(standing, 1) is None
        hosts.db1.thaw_sessions()
        assert answer(standing, 10) == b"x\n"


def test_a_changed_host_key_is_refused_and_the_restored_key_accepted(ssh: Ssh, host: Host) -> None:
    host.change_key()
    done = ran(ssh(host.name, "true"))
    assert done.returncode == 255
    assert CHANGED in done.stderr
    host.change_key()
    host.restore_key()
    assert said(ssh(host.name, "hostname")) == host.name


def test_a_key_that_was_added_to_known_hosts_is_kept(ssh: Ssh, hosts: Hosts) -> None:
    hosts.db1.change_key()
    hosts.know()
    hosts.db1.change_key()
    hosts.db1.restore_key()
    assert said(ssh("db1", "hostname")) == "db1"


def test_processes_show_arguments_and_environments(hosts: Hosts) -> None:
    listing = hosts.db1.run("CANARY=in-environment sleep 5 & ps axewww -o pid,args; kill $!")
    assert "CANARY=in-environment" in listing
    assert "AUTHORIZED_KEY=ssh-ed25519" in hosts.db1.processes()


def test_a_command_that_fails_on_a_host_is_an_error(hosts: Hosts) -> None:
    with pytest.raises(AssertionError, match="no such thing"):
        hosts.db1.run("echo no such thing; exit 3")


def test_hosts_are_stopped_after_a_failure(hosts: Hosts, tmp_path: Path) -> None:
    ids: list[str] = []
    with pytest.raises(ZeroDivisionError), running_hosts(tmp_path) as started:  # noqa: PT012
        ids += [each.container.id for each in (started.bastion, started.db1, started.db2)]
        raise ZeroDivisionError
    client = docker.from_env()
    try:
        for each in ids:
            with pytest.raises(NotFound):
                client.containers.get(each)
        assert client.containers.get(hosts.db1.container.id).status == "running"
    finally:
        client.close()


def test_the_local_sshd_accepts_its_key(ssh_command: list[str], local_sshd: LocalSshd) -> None:
    assert said([*ssh_command, "echo $HOME"]) == str(local_sshd.folder)


def test_kill_sessions_spares_the_listener_of_the_local_sshd(ssh_command: list[str], local_sshd: LocalSshd) -> None:
    with session(ssh_command) as standing:
        local_sshd.kill_sessions()
        assert standing.wait(10) == 255
    assert said([*ssh_command, "echo here"]) == "here"


def test_a_changed_key_of_the_local_sshd_is_refused_until_it_is_known(
    ssh_command: list[str], local_sshd: LocalSshd
) -> None:
    local_sshd.change_key()
    done = ran([*ssh_command, "true"])
    assert done.returncode == 255
    assert CHANGED in done.stderr
    local_sshd.know()
    assert said([*ssh_command, "echo here"]) == "here"
