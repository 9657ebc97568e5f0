"""SSH connections: each hop accepts only known host keys. No host is contacted here."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest

from pgratchet.errors import ConfigurationError, Unreachable
from pgratchet.remote import ssh
from pgratchet.remote.ssh import Route

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
        assert type(connection.client._policy).__name__ == "Refuse"
        hosts.append(f"{connection.user}@{connection.host}:{connection.port}")
        connection = connection.gateway
    return hosts


def test_every_hop_of_the_inventory_checks_host_keys(route: Route) -> None:
    assert hops(replace(route, user="u", port=2200, gateway="a@one:22,b@two:2222")) == [
        "u@db:2200",
        "b@two:2222",
        "a@one:22",
    ]


def test_every_hop_of_ssh_config_checks_host_keys(route: Route) -> None:
    """Fabric itself would open these connections and accept any host key."""
    route.config.write_text(
        "Host db\n HostName db.internal\n User deploy\n Port 2022\n ProxyJump inner\n"
        "Host inner\n HostName inner.internal\n User jump\n ProxyJump outer:2222\n"
        "Host outer\n User first\n"
    )
    assert hops(route) == ["deploy@db.internal:2022", "jump@inner.internal:22", "first@outer:2222"]
    assert hops(replace(route, gateway="me@mine"))[1:] == ["me@mine:22"], "the inventory's own wins"


def test_a_host_that_is_its_own_jump_host_is_refused(route: Route) -> None:
    route.config.write_text("Host *\n User u\n ProxyJump outer\n")
    assert hops(route)[0] == "u@db:22"


def test_an_unreadable_ssh_configuration_is_named(route: Route) -> None:
    route.config.write_text("Host db\n Match nonsense\n")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        ssh.prepare_connection(route)


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


def _makes_connection(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Connection"


def test_an_unknown_host_key_is_named_by_its_fingerprint() -> None:
    key = paramiko.ECDSAKey.generate()
    with pytest.raises(Unreachable, match="is not known") as caught:
        ssh._policy().missing_host_key(None, "db", key)
    assert key.fingerprint in caught.value.detail
    assert caught.value.status == 10
