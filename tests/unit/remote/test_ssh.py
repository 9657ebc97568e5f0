"""SSH connections: each hop accepts only known host keys. No host is contacted here."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest

from pgratchet.errors import ConfigurationError, Unreachable
from pgratchet.remote import ssh, ssh_config
from pgratchet.remote.ssh import Route
from tests.requirements import requires

PACKAGE = Path(ssh.__file__).parents[1]


@pytest.fixture
def route(tmp_path: Path) -> Route:
    return Route(
        host="db",
        port=0,
        user="",
        gateway="",
        key="",
        config=tmp_path / "config",
        known_hosts=tmp_path / "known_hosts",
        python="python3",
        timeout=5,
        silence=20,
    )


def hops(way: Route) -> list[str]:
    """The hosts of a route, the last first. Checks that each verifies host keys."""
    hosts, connection = [], ssh.prepare_connection(way)
    while connection:
        assert type(connection.client._policy).__name__ == "RequireKnownKey"
        assert connection.connect_kwargs.get("key_filename", [])[:1] == ([way.key] if way.key else [])
        hosts.append(f"{connection.user}@{connection.host}:{connection.port}")
        connection = connection.gateway
    return hosts


def test_every_hop_of_the_inventory_checks_host_keys(route: Route) -> None:
    assert hops(replace(route, user="u", port=2200, key="/k", gateway="a@one:22,b@two:2222")) == [
        "u@db:2200",
        "b@two:2222",
        "a@one:22",
    ]


@requires("ssh")
def test_every_hop_of_ssh_config_checks_host_keys(route: Route) -> None:
    """Fabric itself would open these connections and accept any host key."""
    route.config.write_text(
        "Host db\n HostName db.internal\n User deploy\n Port 2022\n ProxyJump inner\n"
        "Host inner\n HostName inner.internal\n User jump\n ProxyJump outer:2222\n"
        "Host outer\n User first\n"
    )
    assert hops(route) == ["deploy@db.internal:2022", "jump@inner.internal:22", "first@outer:2222"]
    assert hops(replace(route, gateway="me@mine"))[1:] == ["me@mine:22"], "the inventory's own wins"


@requires("ssh")
def test_a_host_that_is_its_own_jump_host_is_refused(route: Route) -> None:
    """As OpenSSH refuses it."""
    route.config.write_text("Host *\n User u\n ProxyJump outer\n")
    with pytest.raises(ConfigurationError, match="cannot be used") as caught:
        ssh.prepare_connection(route)
    assert "loop via outer" in caught.value.detail
    route.config.write_text("Host outer\n ProxyJump none\nHost *\n User u\n ProxyJump outer\n")
    assert hops(route)[0] == "u@db:22"


@requires("ssh")
def test_an_unreadable_ssh_configuration_is_named(route: Route) -> None:
    route.config.write_text("Host db\n Match nonsense\n")
    with pytest.raises(ConfigurationError, match="cannot be used") as caught:
        ssh.prepare_connection(route)
    assert "line 2" in caught.value.detail


@requires("ssh")
def test_included_files_matches_and_patterns_are_read_as_openssh_reads_them(route: Route, tmp_path: Path) -> None:
    (tmp_path / "more").write_text("Host *.internal !db2.internal\n User included\n ProxyJump u@[::1]:2200\n")
    route.config.write_text(
        f"Include {tmp_path}/mor?\nMatch host db2.internal\n Port 2022\n User matched\nHost *\n User last\n"
    )
    assert hops(replace(route, host="db1.internal")) == ["included@db1.internal:22", "u@::1:2200"]
    assert hops(replace(route, host="db2.internal")) == ["matched@db2.internal:2022"]
    assert hops(route) == ["last@db:22"]


@requires("ssh")
def test_a_proxy_command_belongs_to_the_first_hop(route: Route) -> None:
    route.config.write_text("Host db\n ProxyJump inner\nHost inner\n User u\n ProxyCommand nc -x proxy %h %p %r\n")
    inner = ssh.prepare_connection(route).gateway
    assert inner.host == "inner"
    assert inner.gateway == "nc -x proxy inner 22 u"


@requires("ssh")
@pytest.mark.parametrize("line", ["RevokedHostKeys /etc/ssh/revoked", "KnownHostsCommand /bin/true %H"])
def test_a_setting_that_trusts_fewer_keys_is_refused(route: Route, line: str) -> None:
    route.config.write_text(f"Host d*\n {line}\n")
    with pytest.raises(ConfigurationError, match="does not support") as caught:
        ssh.prepare_connection(route)
    assert line.split()[1] in caught.value.detail
    ssh.prepare_connection(replace(route, host="another"))


def test_connections_are_opened_in_one_place_with_an_explicit_gateway() -> None:
    """Fabric's Connection without settings accepts any host key, so no other module may create one."""
    calls = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef):
                calls += [(path.name, node.name, call) for call in ast.walk(node) if _makes_connection(call)]
    assert [(file, function) for file, function, _ in calls] == [("ssh.py", "_trusting_connection")]
    assert "gateway" in {keyword.arg for keyword in calls[0][2].keywords}  # type: ignore[attr-defined]
    users = {
        path.name
        for path in PACKAGE.rglob("*.py")
        if re.search("^ *(import|from) fabric", path.read_text(), re.MULTILINE)
    }
    assert users == {"ssh.py"}


def test_the_thread_of_a_connection_prints_nothing_when_its_gateway_has_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The thread closes its socket last: a channel of the gateway, which sends a message for that."""

    class ChannelOfEndedGateway:
        def settimeout(self, seconds: float) -> None:
            pass

        def send(self, content: bytes) -> int:
            raise EOFError

        recv = close = send

    transport = ssh._transport([], ChannelOfEndedGateway())
    transport.start()
    transport.join(10)
    assert not transport.is_alive()
    assert transport.saved_exception is not None
    assert capsys.readouterr() == ("", "")


def _makes_connection(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Connection"


def test_an_unknown_host_key_is_named_by_its_fingerprint() -> None:
    key = paramiko.ECDSAKey.generate()
    command = ssh.ssh_command("127.0.0.1", "deploy", 57022, "u@gateway:2200")
    policy = ssh._policy("127.0.0.1", [], command)
    with pytest.raises(Unreachable, match="is not known") as caught:
        policy.missing_host_key(None, "db", key)
    assert key.fingerprint in caught.value.detail
    assert "`ssh -J u@gateway:2200 -p 57022 deploy@127.0.0.1`" in caught.value.hint, "a command that can be run"
    assert caught.value.status == 10


@requires("ssh")
def test_the_systems_file_follows_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An inventory that names another file gets that one alone."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(ssh_config, "_SYSTEM_FILE", tmp_path / "system")
    (tmp_path / "system").write_text("Host db\n Port 2200\n User system\n")
    (tmp_path / ".ssh").mkdir()
    user_file = tmp_path / ".ssh" / "config"
    for text, expected in [("", ("system", 2200)), ("Host db\n User own\n", ("own", 2200))]:
        user_file.write_text(text)
        ssh_config.resolve.cache_clear()
        settings = ssh_config.resolve(user_file, "db", "", 0)
        assert (settings.user, settings.port) == expected
    (tmp_path / "named").write_text("Host db\n User named\n")
    assert ssh_config.resolve(tmp_path / "named", "db", "", 0).port == 22
