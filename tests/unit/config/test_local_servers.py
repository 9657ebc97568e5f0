"""Which hosts count as this machine or a container in its private network."""

from __future__ import annotations

import socket

import pytest

from pgratchet.config.inventory import InventoryTarget
from pgratchet.config.local_servers import is_local, require_local
from pgratchet.config.settings import RenderedTarget, render_target
from pgratchet.errors import ConfigurationError
from tests import ROOT

LOCAL = (
    *("", "/var/run/postgresql", "@abstract", "localhost", "LOCALHOST.", "shop.localhost", "127.0.0.1", "127.8.9.1"),
    *("::1", "::ffff:127.0.0.1", "172.17.0.2", "host.docker.internal", "no-such-service-here"),
)
REMOTE = (
    *("db.prod.example.com", "192.0.2.1", "10.0.0.5", "192.168.1.20", "172.31.4.4", "2001:db8::1", "0.0.0.0"),
    *("localhost.example.com", "127.0.0.1.example.com", "::ffff:192.0.2.1"),
)


@pytest.mark.parametrize(("hosts", "expected"), [(LOCAL, True), (REMOTE, False)])
def test_hosts_of_this_machine_are_local(hosts: tuple[str, ...], expected: bool) -> None:
    assert [host for host in hosts if is_local(host) is not expected] == []


@pytest.mark.parametrize(("addresses", "expected"), [(("172.18.0.3",), True), (("172.18.0.3", "8.8.8.8"), False)])
def test_a_service_has_a_name_without_a_dot_and_private_addresses(
    monkeypatch: pytest.MonkeyPatch, addresses: tuple[str, ...], expected: bool
) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert is_local("postgres") is expected


def rendered(environ: dict[str, str], **variables: object) -> RenderedTarget:
    values = {"embedded": True, "pg_dbname": "shop", "pg_user": "me", "pg_url": "{{ env('DATABASE_URL', '') }}"}
    target = InventoryTarget("dev", "shop_dev", (), values | variables)
    return render_target(target, ROOT / "templates", environ, lambda: {"host": "/sockets", "user": "me"})


@pytest.mark.parametrize("address", ["db.example.com", "localhost,db.example.com", "10.0.0.5:6432"])
def test_a_remote_server_needs_a_variable(address: str) -> None:
    environ = {"DATABASE_URL": f"postgresql://owner:secret@{address}/shop"}
    with pytest.raises(ConfigurationError, match="dev leads to a server on another machine") as caught:
        require_local(rendered(environ))
    assert "dev: shop_dev (shop on " in caught.value.detail
    assert "--env=NAME" in caught.value.hint
    assert "secret" not in str(caught.value)
    require_local(rendered(environ, remote=True))
    require_local(rendered(environ, embedded=False))


def test_the_bundled_server_and_this_machine_are_allowed() -> None:
    require_local(rendered({}))
    require_local(rendered({"DATABASE_URL": "postgresql://me@localhost/shop"}))
    assert rendered({}).title == "dev: shop_dev (shop on the bundled server)"


LOCATIONS = [
    ({"pg_host": "db.example.com"}, "shop on db.example.com:5432"),
    ({"pg_host": "a,::1", "pg_port": "1,2"}, "shop on a:1,[::1]:2"),
    ({"pg_host": "/sockets"}, "shop on /sockets:5432"),
    ({"pg_host": "pooler", "pg_port": "6432", "pg_direct_host": "db"}, "shop on db:5432"),
    ({"pg_host": "localhost", "reach": "ssh", "ssh_host": "db1"}, "shop on localhost:5432, on the host db1"),
    ({"pg_host": "db", "reach": "tunnel", "ssh_host": "hop"}, "shop on db:5432, through hop"),
]


@pytest.mark.parametrize(("variables", "expected"), LOCATIONS)
def test_the_title_names_the_real_server(variables: dict[str, object], expected: str) -> None:
    target = InventoryTarget("prod", "main", (), {"pg_dbname": "shop", "pg_user": "me", **variables})
    tunnelled = render_target(target, ROOT / "templates", {}, dict, lambda *_: 49_152)
    assert tunnelled.title == f"prod: main ({expected})"
