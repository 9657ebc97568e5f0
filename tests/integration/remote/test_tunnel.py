"""A tunnel through an sshd on this machine. What it leads to is that sshd's own port, which greets."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pgratchet.errors import Unreachable
from pgratchet.remote.tunnel import open_tunnel
from pgratchet.variables import SshVariables
from tests.hosts.local_sshd import LocalSshd
from tests.requirements import requires
from tests.support.processes import command_lines
from tests.support.waiting import until

pytestmark = requires("ssh")


def variables(sshd: LocalSshd, **more: object) -> SshVariables:
    values: dict[str, Any] = {**sshd.variables(), "reach": "tunnel", **more}
    return SshVariables(**values)


def greeting(port: int) -> bytes:
    """The first bytes of an SSH server behind the port; empty when there is none."""
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            return connection.recv(8)
    except OSError:
        return b""


def masters() -> list[str]:
    return [line for line in command_lines() if " -f -N -M " in line]


@pytest.mark.parametrize("name", ["plain", "with space", "50%", "%h%C", "l" * 120, 'quo"ted', "%" * 60])
def test_a_tunnel_needs_no_special_folder(
    local_sshd: LocalSshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    before = masters()
    with open_tunnel(variables(local_sshd), "127.0.0.1", local_sshd.port) as port:
        assert greeting(port) == b"SSH-2.0-"
    assert greeting(port) == b""
    until(lambda: masters() == before)
    assert list(folder.iterdir()) == []


def test_a_tunnel_that_was_cut_is_opened_again_on_its_port(local_sshd: LocalSshd) -> None:
    before = masters()
    with open_tunnel(variables(local_sshd), "127.0.0.1", local_sshd.port) as port:
        for _ in range(2):
            local_sshd.kill_sessions()
            until(lambda: greeting(port) == b"SSH-2.0-", 15)
    until(lambda: masters() == before)


def test_a_tunnel_is_not_opened_again_to_a_host_with_another_key(local_sshd: LocalSshd) -> None:
    with open_tunnel(variables(local_sshd, ssh_patience=3), "127.0.0.1", local_sshd.port) as port:
        local_sshd.change_key()
        local_sshd.kill_sessions()
        until(lambda: greeting(port) == b"")
        with pytest.raises(AssertionError):
            until(lambda: greeting(port), 6)


@pytest.mark.parametrize("which", ["gateway", "host"])
def test_the_host_whose_key_is_not_known_is_named(local_sshd: LocalSshd, tmp_path: Path, which: str) -> None:
    known = local_sshd.known_hosts.read_text()
    names = {"gateway": "gateway.test", "host": "host.test"}
    (tmp_path / "config").write_text(
        "".join(
            f"Host {name}\n HostName 127.0.0.1\n Port {local_sshd.port}\n HostKeyAlias {name}\n"
            for name in names.values()
        )
    )
    key = known.split(" ", 1)[1]
    local_sshd.known_hosts.write_text("".join(f"{name} {key}" for name in names.values() if name != names[which]))
    through = {"ssh_host": "host.test", "ssh_port": 0, "ssh_gateway": "gateway.test"}
    leads = variables(local_sshd, ssh_config=str(tmp_path / "config"), **through)
    with pytest.raises(Unreachable, match="a host key is not the known one") as caught:
        open_tunnel(leads, "127.0.0.1", local_sshd.port).__enter__()
    assert f"is known for {names[which]} " in caught.value.detail
    local_sshd.known_hosts.write_text("".join(f"{name} {key}" for name in names.values()))
    with open_tunnel(leads, "127.0.0.1", local_sshd.port) as port:
        assert greeting(port) == b"SSH-2.0-"
