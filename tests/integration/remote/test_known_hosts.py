"""Host keys are accepted and refused as OpenSSH's own client does, whatever the lines of known_hosts."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pgratchet.errors import Unreachable
from pgratchet.remote import ssh
from pgratchet.remote.ssh import Route
from tests.hosts.local_sshd import LocalSshd
from tests.requirements import require
from tests.support.ssh_keys import write_key_pair

BY_NAME = "Host db.example.com\n HostName 127.0.0.1\n"
ALIAS = f"{BY_NAME} HostKeyAlias db.alias\n"
PLAIN, CHANGED, UNKNOWN = "", "is not the one that is known", "is not known"
REVOKED, AUTHORITY = "is revoked", "is known only by its certificate authority"
LINES: list[tuple[str, str, str]] = [
    ("[127.0.0.1]:PORT KEY", BY_NAME, PLAIN),
    ("127.0.0.1 KEY", BY_NAME, PLAIN),
    ("[127.0.0.1]:1 KEY", BY_NAME, UNKNOWN),
    ("db.example.com KEY", BY_NAME, UNKNOWN),
    ("db.alias KEY", ALIAS, PLAIN),
    ("DB.Alias,other KEY comment with words", ALIAS, PLAIN),
    ("[127.0.0.1]:PORT KEY", ALIAS, UNKNOWN),
    ("*.alias KEY", ALIAS, PLAIN),
    ("d?.alias KEY", ALIAS, PLAIN),
    ("*.alias,!db.alias KEY", ALIAS, UNKNOWN),
    ("!other.alias,*.alias KEY", ALIAS, PLAIN),
    ("[127.0.0.*]:PORT KEY", BY_NAME, PLAIN),
    ("* KEY", BY_NAME, PLAIN),
    ("HASHED KEY", ALIAS, PLAIN),
    ("db.alias OTHER", ALIAS, CHANGED),
    ("db.alias OTHER\ndb.alias KEY", ALIAS, PLAIN),
    ("db.alias ssh-ed25519 not/base64!\ndb.alias KEY", ALIAS, PLAIN),
    ("db.alias KEY\n@revoked db.alias KEY", ALIAS, REVOKED),
    ("@revoked * KEY\ndb.alias KEY", ALIAS, REVOKED),
    ("@revoked other KEY\ndb.alias KEY", ALIAS, PLAIN),
    ("@revoked * OTHER\ndb.alias KEY", ALIAS, PLAIN),
    ("@cert-authority *.example.org OTHER\ndb.alias KEY", ALIAS, PLAIN),
    ("@cert-authority *.alias OTHER\ndb.alias KEY", ALIAS, PLAIN),
    ("@cert-authority *.alias OTHER", ALIAS, AUTHORITY),
    ("@cert-authority *.example.org OTHER", ALIAS, UNKNOWN),
    ("@unknown-marker db.alias KEY", ALIAS, UNKNOWN),
    ("# db.alias KEY\n\n   \ndb.alias", ALIAS, UNKNOWN),
]


@pytest.fixture
def openssh_accepts(local_sshd: LocalSshd) -> Callable[[Route], bool]:
    """Whether OpenSSH's client connects."""

    def accepts(route: Route) -> bool:
        options = ["-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "GlobalKnownHostsFile=/dev/null"]
        known = [] if route.known_hosts is None else ["-o", f"UserKnownHostsFile={route.known_hosts}"]
        names = ["-i", str(local_sshd.key), "-p", str(route.port), route.host, "true"]
        command = [require("ssh"), "-F", str(route.config), *options, *known, *names]
        return subprocess.run(command, capture_output=True, timeout=20).returncode == 0

    return accepts


@pytest.fixture
def route(local_sshd: LocalSshd, tmp_path: Path) -> Route:
    return Route(
        host="db.example.com",
        port=local_sshd.port,
        user="",
        gateway="",
        key=str(local_sshd.key),
        config=tmp_path / "ssh_config",
        known_hosts=tmp_path / "known_hosts",
        python="python3",
        timeout=5,
        silence=5,
    )


def refusal(route: Route) -> str:
    """The reason why a host is not connected to, empty when it is."""
    try:
        connection = ssh.connect(route)
    except Unreachable as error:
        return str(error)
    ssh.close(connection)
    return ""


def written(text: str, local_sshd: LocalSshd, folder: Path) -> str:
    """The lines with the keys and the port of the test."""
    other = folder / "other"
    write_key_pair(other)
    keys = {"KEY": local_sshd.folder / "host.pub", "OTHER": other.with_name("other.pub")}
    for name, file in keys.items():
        text = text.replace(name, " ".join(file.read_text().split()[:2]))
    if "HASHED" in text:
        (folder / "plain").write_text(text.replace("HASHED", "db.alias") + "\n")
        subprocess.run([require("ssh-keygen"), "-H", "-f", str(folder / "plain")], check=True, capture_output=True)
        text = (folder / "plain").read_text()
        assert text.startswith("|1|")
    return text.replace("PORT", str(local_sshd.port)) + "\n"


@pytest.mark.parametrize(("lines", "config", "expected"), LINES, ids=[line for line, _, _ in LINES])
def test_a_line_means_what_it_means_to_openssh(
    local_sshd: LocalSshd,
    route: Route,
    openssh_accepts: Callable[[Route], bool],
    tmp_path: Path,
    lines: str,
    config: str,
    expected: str,
) -> None:
    route.config.write_text(config)
    assert route.known_hosts is not None
    route.known_hosts.write_text(written(lines, local_sshd, tmp_path))
    refused = refusal(route)
    assert openssh_accepts(route) == (not expected)
    assert expected in refused if expected else not refused
    if expected in (CHANGED, REVOKED, AUTHORITY):
        assert f"{route.known_hosts}, line " in refused


def test_the_files_of_ssh_config_replace_the_default(
    local_sshd: LocalSshd, route: Route, openssh_accepts: Callable[[Route], bool], tmp_path: Path
) -> None:
    route = replace(route, known_hosts=None)
    (tmp_path / "known db").write_text(written("db.alias KEY", local_sshd, tmp_path))
    route.config.write_text(f'{ALIAS} UserKnownHostsFile "{tmp_path}/known %n"\n'.replace("%n", "db"))
    assert openssh_accepts(route)
    assert refusal(route) == ""
