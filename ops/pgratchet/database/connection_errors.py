"""Says why a connection could not be made, and what to change, by the text of libpq or the server.

libpq reports no SQLSTATE for a connection that fails, so the texts are compared. A server with messages in another
language gets the general hint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgratchet.errors import RatchetError, Unreachable

if TYPE_CHECKING:
    from pgratchet.database.target import Origins

_PREFIX = re.compile(
    r"(?:connection failed: |connection is bad: )?connection to server "
    r'(?:at "(?P<host>[^"]*)"|on socket "(?P<socket>[^"]*)")(?: \([^)]*\))?(?:, port \d+)? failed: '
)
_GUESSES = re.compile(r"\n\t(?:Is the server running|This probably means|before or while)[^\n]*")
_SEVERAL = "Multiple connection attempts failed. All failures were:"
_ATTEMPT = re.compile(r"- host: '(?P<host>[^']*)', port: '(?P<port>[^']*)', hostaddr: '(?P<address>[^']*)': ")


@dataclass(frozen=True)
class Failure:
    """A connection that failed, with the text of libpq. `similar` is a question with a similar database's name."""

    message: str
    parameters: Mapping[str, str]
    origins: Origins
    similar: Callable[[], str]

    @property
    def user(self) -> str:
        return self.parameters.get("user", "")


def explain(failure: Failure, destination: str) -> RatchetError:
    """The error for a failed connection."""
    advice = next((hint for pattern, hint in _HINTS if re.search(pattern, failure.message)), _GENERAL)
    hint = advice if isinstance(advice, str) else advice(failure)
    return Unreachable(
        f"cannot connect to {destination}", detail=shorten(failure.message, failure.parameters), hint=hint
    )


def shorten(message: str, parameters: Mapping[str, str]) -> str:
    """libpq's message without the address, which the error has already, unless there are several addresses."""
    first, several, attempts = message.strip().partition(_SEVERAL)
    if not several:
        return _sentence(first, parameters)
    lines = []
    for attempt in attempts.strip().split("\n- "):
        text = attempt if attempt.startswith("- ") else f"- {attempt}"
        match = _ATTEMPT.match(text)
        is_one = "," not in parameters.get("host", "")
        address = "" if not match else f"{match['address']}: " if is_one else f"{match['host']}, port {match['port']}: "
        lines.append(address + _sentence(_PREFIX.sub("", text[match.end() if match else 2 :]), parameters))
    return "\n".join(dict.fromkeys(lines))


def _sentence(message: str, parameters: Mapping[str, str]) -> str:
    prefix = _PREFIX.match(message)
    address = prefix["host"] or "" if prefix else ""
    is_known = address in (*parameters.get("host", "").split(","), *parameters.get("hostaddr", "").split(","))
    text = _GUESSES.sub("", message[prefix.end() :] if prefix else message).strip()
    text = re.sub(r"\s*\n\s*", ". ", re.sub(r"(?m)^(FATAL|ERROR|DETAIL|HINT):\s+", r"\1: ", text))
    if prefix and prefix["socket"] and not text.startswith("FATAL"):
        text = f"{prefix['socket']}: {text}"
    elif address and not is_known and not address.startswith(("127.", "::1")):
        text = f"{address}: {text}"
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _wrong_password(failure: Failure) -> str:
    if not failure.origins.password:
        return f"Check the password of {failure.user}, and the role's name in pg_user."
    return f"The password comes from {failure.origins.password}. Check it, and that it is the one of {failure.user}."


def _no_database(failure: Failure) -> str:
    name, user = _quoted(failure.parameters.get("dbname", "")), _quoted(failure.user)
    create = f"To create it, run in psql: CREATE DATABASE {name} OWNER {user};"
    return " ".join(filter(None, (failure.similar(), _source("name", failure.origins.database), create)))


def _no_role(failure: Failure) -> str:
    create = f"To create it, run in psql: CREATE ROLE {_quoted(failure.user)} LOGIN PASSWORD '...';"
    return f"{_source('name', failure.origins.user)} {create}".strip()


def _not_allowed(failure: Failure) -> str:
    address = re.search(r'for host "([^"]+)"', failure.message)
    client = address[1] + ("/128" if ":" in address[1] else "/32") if address else "ADDRESS"
    line = f"host {failure.parameters.get('dbname', '')} {failure.user} {client} scram-sha-256"
    added = f"add a line to pg_hba.conf on the server and reload it, such as: {line}"
    if "no encryption" in failure.message or "SSL off" in failure.message:
        return f"If the server accepts encrypted connections only, set pg_sslmode: require. If not, {added}"
    return f"A{added[1:]}"


def _refused(failure: Failure) -> str:
    host, port = failure.parameters.get("host", "localhost"), failure.parameters.get("port", "5432")
    is_socket = host.startswith("/")
    check = f"Is the server running, {f'with its socket in {host}' if is_socket else f'and does it listen on {host}'}"
    check += f", port {port}?"
    if failure.origins.server_variable:
        return f"{check} To use the bundled PostgreSQL, unset {failure.origins.server_variable}."
    return f"{check} {_source('address', failure.origins.host)}".strip()


def _source(noun: str, origin: str) -> str:
    return f"The {noun} comes from {origin}." if origin else ""


def _quoted(name: str) -> str:
    """An identifier, in quotes where SQL needs them."""
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"{}"'.format(name.replace('"', '""'))


_GENERAL = "Check the settings: `invoke render` shows them."
_HINTS: tuple[tuple[str, str | Callable[[Failure], str]], ...] = (
    (
        r"no password supplied",
        "Set pg_password or password_command in the inventory, or the variable that they read, or put it in the URL.",
    ),
    (r"password authentication failed|(SASL|LDAP|PAM) authentication failed", _wrong_password),
    (
        r"(Peer|Ident) authentication failed",
        "This server accepts only the role with the name of the system's user. Set pg_user to it, or another pg_host.",
    ),
    (r'database ".*" does not exist|no such database', _no_database),
    (r'role ".*" does not exist', _no_role),
    (r"no pg_hba\.conf entry|pg_hba\.conf rejects", _not_allowed),
    (
        r"does not support SSL",
        "Set ssl = on on the server. On a network that you trust, set pg_sslmode: prefer, or sslmode in the URL.",
    ),
    (
        r"certificate verify failed|root certificate",
        "Set pg_sslrootcert to the server's certificate authority, or to system for a public one. Keep the check on.",
    ),
    (r"does not match host name", "Set pg_host to a name that is in the server's certificate."),
    (r"Connection refused|on socket .*No such file", _refused),
    (
        r"resolve host|translate host name",
        "Check the host's name in pg_host or the URL, and that this machine can look it up: a VPN may be down.",
    ),
    (
        r"timeout expired|timed out|unreachable|No route to host",
        "Check the address. A firewall, or a VPN that is down, drops packets. pg_connect_timeout sets the time.",
    ),
    (r"database system is|not yet accepting connections", "Run again when the server is ready."),
    (
        r"closed the connection unexpectedly|invalid response to SSL|expected authentication request",
        "Check that a PostgreSQL server listens on this port, and read its log.",
    ),
)
"""Advice by a pattern of libpq's or the server's text. The first that matches is used."""
