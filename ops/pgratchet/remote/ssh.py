"""Opens SSH connections, through gateways, to hosts whose keys are known. The only module that uses Fabric.

Fabric's own connections accept any host key, and so do the gateways that Fabric makes from ProxyJump by itself. So
every connection is made here, with known_hosts loaded and a policy that refuses other keys before anything is sent
(tests/unit/remote/test_ssh.py; https://docs.paramiko.org/en/stable/api/client.html).
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgratchet.errors import ConfigurationError, RatchetError, Unreachable

if TYPE_CHECKING:
    import paramiko
    from fabric import Config, Connection

    from pgratchet.variables import SshVariables

_SYSTEM_HOSTS = Path("/etc/ssh/ssh_known_hosts")


class UntrustedHostKey(Unreachable):
    """The host shows a key that is not the known one. Retrying does not help."""


@dataclass(frozen=True, slots=True)
class Route:
    """How to reach a host. Empty values and 0 are left to ssh_config.

    `timeout` limits connecting, and `silence` is how long a connection may be silent; both are seconds.
    """

    host: str
    port: int
    user: str
    gateway: str
    key: str
    config: Path
    known_hosts: Path
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
        known_hosts=Path(variables.ssh_known_hosts).expanduser(),
        python=variables.ssh_python,
        timeout=variables.ssh_timeout,
        silence=variables.ssh_silence,
    )


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
    config = _config(route)
    hops = route.gateway.split(",") if route.gateway else _jumps(config, route.host)
    gateway: Any = None
    for hop in hops:
        gateway = _trusting_connection(hop, route, config, gateway, None, None)
    if gateway is None:
        gateway = config.base_ssh_config.lookup(route.host).get("proxycommand")
    return _trusting_connection(route.host, route, config, gateway, route.user or None, route.port or None)


def _config(route: Route) -> Config:
    """Fabric's configuration from the route's ssh_config alone, without Fabric's own files and variables."""
    from fabric import Config

    config = Config(lazy=True, runtime_ssh_path=str(route.config) if route.config.is_file() else None)
    if route.config.is_file():
        try:
            config.load_ssh_config()
        except Exception as error:  # the parser raises errors of many types
            raise ConfigurationError(
                f"{route.config} cannot be read", detail=f"{error}.", hint="Fix it, or name another as ssh_config."
            ) from error
    return config


def _jumps(config: Config, host: str) -> list[str]:
    """The ProxyJump hops that ssh_config has for a host, in the order in which they are reached."""
    jumps: list[str] = []
    visited = {host}
    while True:
        jump = config.base_ssh_config.lookup(host).get("proxyjump", "none")
        hops = [] if jump == "none" else [hop.strip() for hop in jump.split(",")]
        jumps = hops + jumps
        host = hops[0].rpartition("@")[2].partition(":")[0] if hops else host
        if not hops or host in visited:
            return jumps
        visited.add(host)


def _trusting_connection(
    host: str, route: Route, config: Config, gateway: Any, user: str | None, port: int | None
) -> Connection:
    """A connection that is not open yet and trusts only known host keys.

    The gateway is always passed, even when there is none: otherwise Fabric makes one from ssh_config itself, which
    accepts any host key.
    """
    from fabric import Connection

    keys: dict[str, Any] = {"key_filename": route.key} if route.key else {}
    keys["transport_factory"] = _transport
    keys |= {"banner_timeout": route.timeout, "auth_timeout": route.timeout, "channel_timeout": route.timeout}
    settings = {"config": config.clone(), "connect_timeout": route.timeout, "connect_kwargs": keys}
    connection = Connection(host, user, port, gateway=gateway or False, **settings)
    connection.client.set_missing_host_key_policy(_policy())
    for known in (_SYSTEM_HOSTS, route.known_hosts):
        if known.is_file():
            with suppress(OSError):
                connection.client.load_system_host_keys(str(known))
    return connection


def _transport(*arguments: Any, **named: Any) -> paramiko.Transport:
    """A transport that prefers AES-GCM, which needs no separate MAC and is faster than Paramiko's first choice."""
    import paramiko

    transport = paramiko.Transport(*arguments, **named)
    options = transport.get_security_options()
    options.ciphers = sorted(options.ciphers, key=lambda name: "gcm" not in name)
    return transport


def _policy() -> paramiko.MissingHostKeyPolicy:
    import paramiko

    class Refuse(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
        """Refuses an unknown key and names it, for a person to compare."""

        def missing_host_key(self, _: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
            raise UntrustedHostKey(
                f"the host key of {hostname} is not known",
                detail=f"It shows {key.get_name()} {key.fingerprint}. Nothing was sent.",
                hint=f"Compare that with the host's own, then add it to known_hosts: `ssh {hostname}` asks once.",
            )

    return Refuse()


@contextmanager
def translate_errors(host: str) -> Iterator[None]:
    """Turn Paramiko's exceptions into UntrustedHostKey and Unreachable."""
    import paramiko

    try:
        yield
    except RatchetError:
        raise
    except paramiko.BadHostKeyException as error:
        raise UntrustedHostKey(
            f"the host key of {error.hostname} is not the one that is known",
            detail=f"It shows {error.key.get_name()} {error.key.fingerprint}; known is "
            f"{error.expected_key.fingerprint}. Nothing was sent.",
            hint="Someone may stand in between. Only when the host was really made anew, take its old key out of "
            f"known_hosts: ssh-keygen -R {shlex.quote(error.hostname)}",
        ) from error
    except (paramiko.AuthenticationException, paramiko.PasswordRequiredException) as error:
        raise Unreachable(
            f"{host} does not let us in",
            detail=f"{str(error).rstrip('.')}.",
            hint="See that the key is in the agent, or name it as ssh_key, and that the user is right.",
        ) from error
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise Unreachable(
            f"cannot reach {host} by SSH",
            detail=f"{str(error).rstrip('.') or type(error).__name__}.",
            hint="See that `ssh` gets there by what the inventory says: ssh_host, ssh_user, ssh_gateway, ssh_key.",
        ) from error
