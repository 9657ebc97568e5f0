"""Refuses a server on another machine in environments for development and tests.

Such an environment has `embedded: true`, and connects to another server when an environment variable names one. The
variable may be that of production, left in the shell or read from a .env file.
"""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from pgratchet.errors import ConfigurationError

if TYPE_CHECKING:
    from pgratchet.config.settings import RenderedTarget

_THIS_MACHINE = ("localhost", "host.docker.internal", "gateway.docker.internal", "host.containers.internal")
"""Names of this machine, also as seen from a container of Docker or Podman."""
_DOCKER_BRIDGE = ipaddress.ip_network("172.17.0.0/16")
"""The addresses of Docker's default network (https://docs.docker.com/engine/network/drivers/bridge/)."""


def require_local(target: RenderedTarget) -> None:
    """Raise ConfigurationError when a target with `embedded: true` leads to another machine, unless `remote: true`."""
    variables = target.variables
    if target.embedded or not variables.embedded or variables.remote:
        return
    hosts = target.connection.get("hostaddr") or target.connection.get("host", "")
    remote = [host for host in hosts.split(",") if not is_local(host)]
    if remote:
        origin = target.origins.get("pg_host", "")
        raise ConfigurationError(
            f"{target.environment} leads to a server on another machine, {', '.join(remote)}",
            detail=f"{target.title} has embedded: true, so it is for development or tests, and "
            f"{origin or 'an environment variable'} names this server. Nothing was changed.",
            hint=f"Unset {origin or 'that environment variable'}, or give --env=NAME for the environment that you mean."
            " If this server is for development or tests, set remote: true for the target in the inventory.",
        )


def is_local(host: str) -> bool:
    """Return whether a host is this machine, a socket, or a container in a private network of this machine.

    Services of Docker Compose, of a CI job and of Kubernetes have names without a dot and private addresses.
    """
    if not host or host.startswith(("/", "@")):
        return True
    name = host.lower().rstrip(".")
    if name in _THIS_MACHINE or name.endswith(".localhost"):
        return True
    with suppress(ValueError):
        address = ipaddress.ip_address(name.partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        return address.is_loopback or address in _DOCKER_BRIDGE
    return "." not in name and _has_private_addresses(name)


def _has_private_addresses(name: str) -> bool:
    """Return whether a name resolves, and only to private addresses. An unknown name cannot be connected to anyway."""
    try:
        addresses = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return True
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_private for *_, address in addresses)
