"""Opens SSH connections, through gateways, to hosts whose keys are known. The only module that uses Fabric.

Fabric's own connections accept any host key, and so do the gateways that Fabric makes from ProxyJump by itself. So
every connection is made here, with a policy that refuses a host key before anything is sent unless known_hosts has it
(tests/unit/remote/test_ssh.py; https://docs.paramiko.org/en/stable/api/client.html).
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgratchet.errors import RatchetError, Unreachable
from pgratchet.remote import ssh_config
from pgratchet.remote.known_hosts import KnownKey, fingerprint, known_keys
from pgratchet.remote.ssh_config import HostSettings
from pgratchet.variables import SshVariables

if TYPE_CHECKING:
    import paramiko
    from fabric import Connection


class UntrustedHostKey(Unreachable):
    """The host shows a key that is not the known one. Retrying does not help."""


@dataclass(frozen=True, slots=True)
class Route:
    """How to reach a host. Empty values, 0 and None are left to ssh_config.

    `timeout` limits connecting, and `silence` is how long a connection may be silent; both are seconds.
    """

    host: str
    port: int
    user: str
    gateway: str
    key: str
    config: Path
    known_hosts: Path | None
    python: str
    timeout: int
    silence: int


def route_to(variables: SshVariables) -> Route:
    """The route to a target's host."""
    return Route(
        host=variables.ssh_host,
        port=variables.ssh_port,
        user=variables.ssh_user,
        gateway=variables.ssh_gateway,
        key=variables.ssh_key and str(Path(variables.ssh_key).expanduser()),
        config=Path(variables.ssh_config).expanduser(),
        known_hosts=_named_file(variables.ssh_known_hosts),
        python=variables.ssh_python,
        timeout=variables.ssh_timeout,
        silence=variables.ssh_silence,
    )


def _named_file(known_hosts: str) -> Path | None:
    """The file, unless it is the default, which ssh_config's UserKnownHostsFile replaces."""
    return None if known_hosts == SshVariables.ssh_known_hosts else Path(known_hosts).expanduser()


def connect(route: Route) -> Connection:
    """Open a connection through its gateways, to hosts whose keys are known. Raises Unreachable."""
    logging.getLogger("paramiko").addHandler(logging.NullHandler())  # errors are raised, and reported once
    connection = prepare_connection(route)
    try:
        with translate_errors(route.host):
            connection.open()
            connection.transport.set_keepalive(max(1, route.silence // 4))
    except BaseException:
        close(connection)  # a gateway may be open already, and its thread must end
        raise
    return connection


def close(connection: Any) -> None:
    """Close a connection and its gateways. A gateway may be None, or a proxy command."""
    while hasattr(connection, "close"):
        with suppress(Exception):
            connection.close()
        connection = connection.gateway


def prepare_connection(route: Route) -> Connection:
    """A connection that is not open yet. Every hop trusts only known host keys."""
    host = ssh_config.resolve(route.config, route.host, route.user, route.port)
    gateway: Any = None
    for hop in _hops(route, host):
        gateway = _trusting_connection(
            hop, route, gateway or hop.proxy_command, ssh_command(hop.hostname, hop.user, hop.port)
        )
    command = ssh_command(route.host, route.user, route.port, route.gateway)
    return _trusting_connection(host, route, gateway or host.proxy_command, command)


def _hops(route: Route, host: HostSettings) -> list[HostSettings]:
    """The hops on the way to a host, in the order in which they are reached. The first may have jumps of its own."""
    jumps = route.gateway.split(",") if route.gateway else list(host.jumps)
    hops: list[HostSettings] = []
    visited = {route.host}
    while jumps:
        reached = []
        for hop in jumps:
            user, name, port = ssh_config.split_hop(hop)
            reached.append((name, ssh_config.resolve(route.config, name, user, port)))
        hops = [settings for _, settings in reached] + hops
        first, settings = reached[0]
        jumps = [] if route.gateway or first in visited else list(settings.jumps)
        visited.add(first)
    return hops


def _trusting_connection(host: HostSettings, route: Route, gateway: Any, command: str) -> Connection:
    """A connection that is not open yet and trusts only known host keys.

    The gateway is always passed, even when there is none: otherwise Fabric makes one from ssh_config itself, which
    accepts any host key.
    """
    from fabric import Config, Connection

    files = (route.known_hosts,) if route.known_hosts else tuple(file.expanduser() for file in host.known_hosts)
    known = known_keys((*host.global_known_hosts, *files), host.hostname, host.port, host.alias)
    names = [*([route.key] if route.key else []), *host.keys]
    keys: dict[str, Any] = {"key_filename": names} if names else {}
    keys["transport_factory"] = partial(_transport, [each.kind for each in known])
    keys |= {"banner_timeout": route.timeout, "auth_timeout": route.timeout, "channel_timeout": route.timeout}
    settings = {"config": Config(lazy=True), "connect_timeout": route.timeout, "connect_kwargs": keys}
    connection = Connection(host.hostname, host.user, host.port, gateway=gateway or False, **settings)
    connection.client.set_missing_host_key_policy(_policy(host.hostname, known, command))
    return connection


def _transport(known_kinds: Sequence[str], *arguments: Any, **named: Any) -> paramiko.Transport:
    """A transport that prefers known kinds of host keys, and AES-GCM, which needs no MAC and is faster."""
    import paramiko

    class SilentTransport(paramiko.Transport):  # type: ignore[misc]
        """A transport whose thread prints nothing. Its channels raise what went wrong.

        The thread closes its socket last. That is a channel of the gateway when there is one, and fails when the
        gateway's connection has ended a moment before.
        """

        def run(self) -> None:
            with suppress(Exception):
                super().run()

    transport = SilentTransport(*arguments, **named)
    options = transport.get_security_options()
    options.ciphers = sorted(options.ciphers, key=lambda name: "gcm" not in name)
    kinds = {*known_kinds, *(("rsa-sha2-512", "rsa-sha2-256") if "ssh-rsa" in known_kinds else ())}
    options.key_types = sorted(options.key_types, key=lambda name: name not in kinds)
    return transport


def _policy(host: str, known: Sequence[KnownKey], command: str) -> paramiko.MissingHostKeyPolicy:
    import paramiko

    class RequireKnownKey(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
        """Judges every host key, as Paramiko itself is given none."""

        def missing_host_key(self, _client: paramiko.SSHClient, _name: str, key: paramiko.PKey) -> None:
            require_known(host, known, key.get_name(), key.asbytes(), command)

    return RequireKnownKey()


def require_known(host: str, known: Sequence[KnownKey], kind: str, key: bytes, command: str) -> None:
    """Raise UntrustedHostKey for a key that is unknown, revoked or not the one that known_hosts has for the host.

    `command` is the command by which a person connects to the host.
    """
    by_marker = {
        marker: [each for each in known if each.marker == marker] for marker in ("", "@revoked", "@cert-authority")
    }
    shown = f"The host shows {kind} {fingerprint(key)}."
    if revoked := [each for each in by_marker["@revoked"] if each.key == key]:
        raise UntrustedHostKey(
            f"the host key of {host} is revoked",
            detail=f"{shown} {revoked[0].place} revokes it. Nothing was sent.",
            hint="Do not connect. Ask the operator of the host for its new key.",
        )
    plain = by_marker[""]
    if any(each.key == key for each in plain):
        return
    if plain:
        raise UntrustedHostKey(
            f"the host key of {host} is not the one that is known",
            detail=f"{shown} Known is {plain[0].kind} {plain[0].fingerprint}: {plain[0].place}. Nothing was sent.",
            hint="The connection may be intercepted. If the host was reinstalled, compare the key with the host's own "
            "and replace that line.",
        )
    if authorities := by_marker["@cert-authority"]:
        raise UntrustedHostKey(
            f"the host key of {host} is known only by its certificate authority",
            detail=f"{authorities[0].place}: reach: ssh does not support host certificates. Nothing was sent.",
            hint="Use reach: tunnel, which connects with OpenSSH, or add the host's own key to known_hosts.",
        )
    raise UntrustedHostKey(
        f"the host key of {host} is not known",
        detail=f"{shown} Nothing was sent.",
        hint=f"Compare the key with the host's own, then add it to known_hosts: `{command}` asks once.",
    )


def ssh_command(host: str, user: str = "", port: int = 0, gateway: str = "") -> str:
    """The command by which a person connects to a host."""
    options = [
        *(("-J", gateway) if gateway else ()),
        *(("-p", str(port)) if port not in (0, 22) else ()),
        f"{user}@{host}" if user else host,
    ]
    return shlex.join(["ssh", *options])


@contextmanager
def translate_errors(host: str) -> Iterator[None]:
    """Turn Paramiko's exceptions into UntrustedHostKey and Unreachable."""
    import paramiko

    try:
        yield
    except RatchetError:
        raise
    except (paramiko.AuthenticationException, paramiko.PasswordRequiredException) as error:
        raise Unreachable(
            f"{host} refused the login",
            detail=f"{str(error).rstrip('.')}.",
            hint="Check that the key is in the agent, or name it as ssh_key. Check ssh_user.",
        ) from error
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise Unreachable(
            f"cannot reach {host} by SSH",
            detail=f"{str(error).rstrip('.') or type(error).__name__}.",
            hint="Check that `ssh` connects with the inventory's ssh_host, ssh_user, ssh_gateway and ssh_key.",
        ) from error
