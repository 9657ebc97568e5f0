"""Recognizes the privileges and the roles in the statements of a dump."""

from __future__ import annotations

import re

from pgratchet.schema import dump_text

_ROLE = rb'(?:"(?:[^"]|"")+"|[\w$]+)'
_GRANTED = re.compile(
    rb"(?:ALTER DEFAULT PRIVILEGES\b.*)?\b(?:GRANT|REVOKE)\b.*\b(?:TO|FROM)\s+(?P<role>%b)(?:\s+WITH\s.*)?" % _ROLE,
    re.DOTALL,
)
_DEFAULTS_OF = re.compile(rb"ALTER DEFAULT PRIVILEGES FOR ROLE (?P<role>%b) " % _ROLE)
_ROLES = rb"(?P<roles>%b(?:, %b)*)" % (_ROLE, _ROLE)
_POLICY = re.compile(rb"CREATE POLICY .*? TO %b(?: USING| WITH CHECK|$)" % _ROLES, re.DOTALL)
_PUBLIC = "public"


def for_any_owner(statement: bytes, user: str) -> bytes:
    """A statement of a dump as the owner of a new database runs it; empty for what the owner has anyway."""
    if statement.startswith(b"RESET "):
        return b""
    granted = _GRANTED.fullmatch(statement)
    if granted and _unquoted(granted["role"]) == user:
        return b""
    defaults = _DEFAULTS_OF.match(statement)
    if defaults and _unquoted(defaults["role"]) == user:
        return b"ALTER DEFAULT PRIVILEGES " + statement[defaults.end() :]
    return statement


def roles(dump: bytes) -> tuple[str, ...]:
    """The names of the roles that the privileges and policies of a dump name."""
    names: set[str] = set()
    for statement in dump_text.split(dump):
        for pattern in (_DEFAULTS_OF, _GRANTED, _POLICY):
            if match := pattern.match(statement):
                names |= {_unquoted(role) for role in re.findall(_ROLE, match[match.lastgroup or 0])}
    return tuple(sorted(names - {_PUBLIC}))


def _unquoted(name: bytes) -> str:
    text = name.decode()
    return text[1:-1].replace('""', '"') if text.startswith('"') else text.lower()
