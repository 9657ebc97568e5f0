"""Checks the inventory's variables: names, types, forms, and contradictions between values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from pgratchet.variables import Group, Range, Variables, names, required

_T = TypeVar("_T", bound=Group)


def _checked_type(kind: Any) -> Any:
    """A variable's type with msgspec's form of the type's limits."""
    if get_origin(kind) is tuple:
        item: Any = _checked_type(get_args(kind)[0])
        return tuple[item, ...]
    if get_origin(kind) is Annotated:
        base, limit = get_args(kind)
        meta = msgspec.Meta(ge=limit.least, le=limit.most) if isinstance(limit, Range) else msgspec.Meta(min_length=1)
        return Annotated[base, meta]
    return kind


_FIELDS = {name: _checked_type(kind) for name, kind in get_type_hints(Variables, include_extras=True).items()}
"""The checked type of each variable, by name."""
_HOST = r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*)"
_USER = r"[A-Za-z0-9_][A-Za-z0-9._\\-]{0,62}"
_HOP = rf"(?:{_USER}@)?[A-Za-z0-9_][A-Za-z0-9._-]*(?::[0-9]{{1,5}})?"
_PATH = r"[^\x00-\x1f\x7f\"%]+"
_SSH: dict[str, tuple[str, str]] = {
    "ssh_host": (_HOST, "no name or address of a host"),
    "ssh_user": (_USER, "no name of a user: letters, digits, and . _ -"),
    "ssh_gateway": (rf"{_HOP}(?:,{_HOP})*", "not user@host:port, of which several are separated by commas"),
    "ssh_key": (_PATH, "no path without control characters, double quotes and percent signs"),
    "ssh_config": (_PATH, "no path without control characters, double quotes and percent signs"),
    "ssh_known_hosts": (_PATH, "no path without control characters, double quotes and percent signs"),
    "ssh_python": (r"[A-Za-z0-9_/][A-Za-z0-9_./+-]*", "no name or path of a program"),
}
"""The form of each variable that reaches a shell, ssh_config or a host name, and the message for other forms."""
_SECRET_OPTION = re.compile(r"secret|token|password|sas|(account|access|master|customer)_key(_base64)?$", re.IGNORECASE)
_IN_URL = r".*:[^/@]+@.*"


def mistakes(variables: Mapping[str, Any], kind: type[Group] | None = None) -> Iterator[str]:
    """The mistakes in a target's variables, as sentences.

    With `kind` the variables are rendered, and the required variables of the group must exist. Without `kind` they are
    as written, and values with templates are accepted, because their types are unknown before rendering.
    """
    is_rendered = kind is not None
    for name, value in variables.items():
        if name not in _FIELDS and not name.startswith("ansible_"):
            yield f'unknown variable "{name}".{_nearest(name)}'
        elif name in _FIELDS and (is_rendered or not _is_template(value)):
            yield from _type_mistake(name, value, strict=not is_rendered)
            yield from _name_mistake(name, value)
            yield from _ssh_mistake(name, value)
    for name in required(kind or Variables):
        if name not in variables:
            yield f"{name} is missing."
    if is_rendered:
        yield from _contradictions(variables)
    else:
        yield from _secrets(variables)


def _type_mistake(name: str, value: object, *, strict: bool) -> Iterator[str]:
    try:
        msgspec.convert(value, _FIELDS[name], strict=strict)
    except msgspec.ValidationError as error:
        yield f"{name}: {str(error)[:1].lower()}{str(error)[1:]}."


def _name_mistake(name: str, value: object) -> Iterator[str]:
    """PostgreSQL would truncate a longer name, and libpq a name with a NUL."""
    text = str(value) if name in ("pg_dbname", "history_schema", "history_table") else ""
    if "\0" in text or len(text.encode(errors="surrogateescape")) > 63:
        yield f"{name}: no name that PostgreSQL can hold, which is at most 63 bytes without a NUL."


def _ssh_mistake(name: str, value: object) -> Iterator[str]:
    form, message = _SSH.get(name, ("", ""))
    if form and value and not re.fullmatch(form, str(value)):
        yield f"{name}: {message}."


def _contradictions(variables: Mapping[str, Any]) -> Iterator[str]:
    """Mistakes in combinations of valid values."""
    reach = variables.get("reach", "local")
    if reach != "local" and not variables.get("ssh_host"):
        yield f"reach: {reach} needs ssh_host, the host to log in to."
    if reach != "local" and variables.get("embedded"):
        yield f"reach: {reach} leads to another machine, and embedded is a server on this one."
    if reach == "ssh":
        is_kept_here = variables.get("backup_at") == "here"
        for name in ("backup_recipients",) if is_kept_here else ("backup_recipients", "backup_store"):
            if variables.get(name):
                yield f"{name}: what it needs is not on the host. With reach: tunnel it is used from here."


def _secrets(variables: Mapping[str, Any]) -> Iterator[str]:
    for name, secret in (("pg_password", r".+"), ("pg_url", _IN_URL + "|.*password=.*"), ("backup_store", _IN_URL)):
        value = variables.get(name, "")
        if not _is_template(value) and re.fullmatch(secret, str(value)):
            yield f"{name}: a secret in the inventory. Use password_command, or {{{{ env('NAME') }}}}."
    options = variables.get("backup_store_options")
    for name, value in options.items() if isinstance(options, dict) else ():
        if _SECRET_OPTION.search(str(name)) and not _is_template(value):
            yield f"backup_store_options: {name}: a secret in the inventory. Use {{{{ env('NAME') }}}}."


def convert(values: Mapping[str, Any], kind: type[_T]) -> _T:
    """A group of variables from rendered values without mistakes."""
    present = [name for name in names(kind) if name in values]
    return kind(**{name: msgspec.convert(values[name], _FIELDS[name], strict=False) for name in present})


def _is_template(value: object) -> bool:
    return isinstance(value, str) and "{{" in value


def _nearest(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, _FIELDS, n=1)
    return f" Did you mean {near[0]}?" if near else ""
