"""The host keys that known_hosts files have for a host, by OpenSSH's rules.

Patterns, negation, hashed names, ports and markers are those of sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT". Paramiko's own
reader takes markers for names and knows no patterns.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_DEFAULT_PORT = 22
_MARKERS = ("@cert-authority", "@revoked")


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key of a host: its kind, such as ssh-ed25519, its bytes, and the line that has it. The marker may be empty."""

    kind: str
    key: bytes
    marker: str
    place: str

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.key)


def fingerprint(key: bytes) -> str:
    """The fingerprint of a key, as ssh-keygen shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def known_keys(files: Iterable[Path], host: str, port: int, alias: str = "") -> list[KnownKey]:
    """The keys for a host. A key for another port than 22 may stand without the port, as OpenSSH accepts it.

    `alias` is ssh_config's HostKeyAlias. Lines that OpenSSH ignores are ignored.
    """
    lines = [line for file in files for line in _read(file)]
    name = alias or (host if port == _DEFAULT_PORT else f"[{host}]:{port}")
    keys = [key for names, key in lines if _matches(names, name.lower())]
    if name != host and not alias and not any(key.marker == "" for key in keys):
        keys += [key for names, key in lines if _matches(names, host.lower())]
    return keys


def _read(file: Path) -> Iterator[tuple[str, KnownKey]]:
    try:
        text = file.read_text("utf-8", errors="replace")
    except OSError:
        return
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        marker = words.pop(0) if words and words[0] in _MARKERS else ""
        if len(words) < 3 or words[0].startswith(("#", "@")):
            continue
        try:
            key = base64.b64decode(words[2], validate=True)
        except binascii.Error:
            continue
        yield words[0], KnownKey(words[1], key, marker, f"{file}, line {number}")


def _matches(names: str, host: str) -> bool:
    """Return whether a comma-separated list of patterns matches. A negated pattern that matches excludes the host."""
    patterns = names.split(",")
    if any(pattern.startswith("!") and _matches_one(pattern[1:], host) for pattern in patterns):
        return False
    return any(_matches_one(pattern, host) for pattern in patterns)


def _matches_one(pattern: str, host: str) -> bool:
    if pattern.startswith("|1|"):
        return _is_hash_of(pattern, host)
    parts = (".*" if part == "*" else "." if part == "?" else re.escape(part) for part in re.split("([*?])", pattern))
    return bool(re.fullmatch("".join(parts), host, re.IGNORECASE))


def _is_hash_of(hashed: str, host: str) -> bool:
    try:
        _, _, salt, expected = hashed.split("|")
        digest = hmac.digest(base64.b64decode(salt), host.encode(), "sha1")
        return hmac.compare_digest(digest, base64.b64decode(expected))
    except ValueError:  # also of base64
        return False
