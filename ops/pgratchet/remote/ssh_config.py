"""Resolves a host by ssh_config, with OpenSSH's own `ssh -G`, which knows every keyword: Include, Match, patterns."""

from __future__ import annotations

import getpass
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pgratchet.database.target import plain_environment
from pgratchet.errors import ConfigurationError
from pgratchet.variables import SshVariables

_SYSTEM_FILE = Path("/etc/ssh/ssh_config")
_USER_FILES = (Path("~/.ssh/known_hosts"), Path("~/.ssh/known_hosts2"))
_GLOBAL_FILES = (Path("/etc/ssh/ssh_known_hosts"), Path("/etc/ssh/ssh_known_hosts2"))
_TIMEOUT = 30
"""Seconds. `Match exec` may run a program."""


@dataclass(frozen=True, slots=True)
class HostSettings:
    """The settings of one host. `jumps` are hops in the order in which they are reached."""

    hostname: str
    user: str
    port: int
    keys: tuple[str, ...] = ()
    jumps: tuple[str, ...] = ()
    proxy_command: str = ""
    alias: str = ""
    known_hosts: tuple[Path, ...] = _USER_FILES
    global_known_hosts: tuple[Path, ...] = _GLOBAL_FILES


@lru_cache
def resolve(config: Path, host: str, user: str, port: int) -> HostSettings:
    """The settings of a host. `user` and `port` override ssh_config, unless they are empty or 0."""
    files = config_files(config)
    if not files:
        return HostSettings(host, user or getpass.getuser(), port or 22)
    if not (program := shutil.which("ssh")):
        raise ConfigurationError(
            f"{config} cannot be read without ssh",
            detail="OpenSSH's own client says what applies to a host.",
            hint="Install openssh-client, or set ssh_config to a file that does not exist.",
        )
    options = [*(("-l", user) if user else ()), *(("-p", str(port)) if port else ())]
    command = [program, "-G", "-F", "/dev/stdin", *options, "--", host]
    included = "".join(f'Include "{file.absolute()}"\n' for file in files).encode()
    done = subprocess.run(
        command, input=included, capture_output=True, timeout=_TIMEOUT, check=False, env=plain_environment()
    )
    if done.returncode:
        raise ConfigurationError(
            f"{config} cannot be used",
            detail=done.stderr.decode(errors="replace").strip(),
            hint="Correct the line, or name another file as ssh_config.",
        )
    return _settings(config, host, done.stdout.decode(errors="replace"))


def config_files(config: Path) -> list[Path]:
    """The files to read. As with ssh, the system's file follows the user's own, and no other."""
    is_default = config == Path(SshVariables.ssh_config).expanduser()
    return [file for file in (config, *((_SYSTEM_FILE,) if is_default else ())) if file.is_file()]


def split_hop(hop: str) -> tuple[str, str, int]:
    """The user, host and port of a hop. A user or port that is left out is empty or 0."""
    user, _, address = hop.strip().removeprefix("ssh://").rpartition("@")
    parts = re.fullmatch(r"(?:\[(.+)\]|([^:]+|.*:.*:.*))(?::([0-9]+))?", address)
    if not parts:
        return user, address, 0
    return user, parts[1] or parts[2], int(parts[3] or 0)


def _settings(config: Path, host: str, output: str) -> HostSettings:
    values: dict[str, list[str]] = {}
    for line in output.splitlines():
        keyword, _, value = line.partition(" ")
        if value and value != "none":
            values.setdefault(keyword, []).append(value)
    _refuse_unsupported(config, host, values)
    first = {keyword: each[0] for keyword, each in values.items()}
    tokens = _tokens(host, first)
    files = {name: _files(first.get(name, ""), tokens) for name in ("userknownhostsfile", "globalknownhostsfile")}
    keys = (_expanded(value, tokens) for value in values.get("identityfile", ()))
    return HostSettings(
        hostname=first["hostname"],
        user=first["user"],
        port=int(first["port"]),
        keys=tuple(str(path) for key in keys if (path := Path(key).expanduser()).is_file()),
        jumps=tuple(hop.strip() for hop in first["proxyjump"].split(",")) if "proxyjump" in first else (),
        proxy_command=_expanded(first.get("proxycommand", ""), tokens),
        alias=first.get("hostkeyalias", ""),
        known_hosts=files["userknownhostsfile"],
        global_known_hosts=files["globalknownhostsfile"],
    )


def _refuse_unsupported(config: Path, host: str, values: Mapping[str, Sequence[str]]) -> None:
    """Refuse settings by which OpenSSH would trust fewer host keys."""
    for keyword in ("revokedhostkeys", "knownhostscommand"):
        if keyword in values:
            raise ConfigurationError(
                f"{config} sets {keyword} for {host}, which reach: ssh does not support",
                detail=f"The value is {values[keyword][0]}.",
                hint="Use reach: tunnel, which connects with OpenSSH, or name another file as ssh_config.",
            )


def _tokens(host: str, first: Mapping[str, str]) -> dict[str, str]:
    return {
        "%": "%",
        "d": str(Path.home()),
        "h": first["hostname"],
        "k": first.get("hostkeyalias", host),
        "n": host,
        "p": first["port"],
        "r": first["user"],
        "u": getpass.getuser(),
    }


def _expanded(value: str, tokens: Mapping[str, str]) -> str:
    """Replace the tokens of ssh_config(5), "TOKENS". Others stay as they are."""
    return re.sub("%(.)", lambda token: tokens.get(token[1], token[0]), value)


def _files(value: str, tokens: Mapping[str, str]) -> tuple[Path, ...]:
    """The files of a list. OpenSSH does not quote them, so that a single name with spaces is tried first."""
    if value == " ".join(f"{pwd.getpwuid(os.getuid()).pw_dir}/{name.relative_to('~')}" for name in _USER_FILES):
        return _USER_FILES  # the default, which is in $HOME here
    whole = Path(_expanded(value, tokens)).expanduser()
    return (whole,) if whole.is_file() else tuple(Path(_expanded(name, tokens)) for name in value.split())
