"""Checks the inventory's variables: names, types, forms, and contradictions between values."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from pgratchet.config.escaping import NamedValue
from pgratchet.config.secrets import SECRET_VARIABLES
from pgratchet.config.templates import is_template
from pgratchet.config.url import variables_from_url
from pgratchet.config.yaml_files import TaggedValue
from pgratchet.errors import ConfigurationError
from pgratchet.variables import Group, Ports, Range, Variables, names, required

_T = TypeVar("_T", bound=Group)
_PORT = r"(?:[1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d{2}|655[0-2]\d|6553[0-5])"
_ANNOTATIONS = get_type_hints(Variables, include_extras=True)


def _checked_type(kind: Any) -> Any:
    """A variable's type with msgspec's form of the type's limits."""
    if get_origin(kind) is tuple:
        item: Any = _checked_type(get_args(kind)[0])
        return tuple[item, ...]
    if get_origin(kind) is not Annotated:
        return kind
    base, limit = get_args(kind)
    if isinstance(limit, Range):
        return Annotated[base, msgspec.Meta(ge=limit.least, le=limit.most)]
    if isinstance(limit, Ports):
        return Annotated[base, msgspec.Meta(pattern=rf"^{_PORT}(?:,{_PORT})*$")]
    return Annotated[base, msgspec.Meta(min_length=1)]


_FIELDS = {name: _checked_type(kind) for name, kind in _ANNOTATIONS.items()}
"""The checked type of each variable, by name."""
_SHARED_PREFIXES = ("app_", "env_")
"""How names of variables begin that other applications use in the same inventory."""
_PREFIXES = tuple({f"{name.partition('_')[0]}_" for name in _FIELDS if "_" in name} - set(_SHARED_PREFIXES))
"""How the names of variables begin. A name with another beginning may be a variable of another application."""
_BOOLEANS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
"""Words for booleans. In quotes they mean the same as without."""
ANSIBLE_NAMES = {"ssh_host": "ansible_host", "ssh_user": "ansible_user", "ssh_port": "ansible_port"}
"""Ansible's variables that replace a missing variable."""
_HOST = r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*)"
_USER = r"[A-Za-z0-9_][A-Za-z0-9._\\-]{0,62}"
_HOP = rf"(?:{_USER}@)?[A-Za-z0-9_][A-Za-z0-9._-]*(?::[0-9]{{1,5}})?"
_PATH = r"[^\x00-\x1f\x7f\"%]+"
_SSH: dict[str, tuple[str, str]] = {
    "ssh_host": (_HOST, "the name or address of a host"),
    "ssh_user": (_USER, "the name of a user: letters, digits, and . _ -"),
    "ssh_gateway": (rf"{_HOP}(?:,{_HOP})*", "user@host:port, or several of them separated by commas"),
    "ssh_key": (_PATH, "a path without control characters, double quotes and percent signs"),
    "ssh_config": (_PATH, "a path without control characters, double quotes and percent signs"),
    "ssh_known_hosts": (_PATH, "a path without control characters, double quotes and percent signs"),
    "ssh_python": (r"[A-Za-z0-9_/][A-Za-z0-9_./+-]*", "the name or path of a program"),
}
"""The form of each variable that reaches a shell, ssh_config or a host name, and the form in words."""
_SECRET_OPTION = re.compile(r"secret|token|password|sas|(account|access|master|customer)_key(_base64)?$", re.IGNORECASE)
_IN_URL = r".*:[^/@]+@.*"
_SECRETS = {
    **dict.fromkeys(("pg_password", "app_password"), r".+"),
    "pg_url": _IN_URL + "|.*password=.*",
    "backup_store": _IN_URL,
}
"""The form of a secret, by the variable that may hold one."""


class Mistake(NamedValue):
    """A sentence about a variable."""


def mistakes(
    variables: Mapping[str, Any], kind: type[Group] | None = None, hidden: Collection[str] = ()
) -> Iterator[Mistake]:
    """The mistakes in a target's variables, as sentences.

    With `kind` the variables are rendered, and the required variables of the group must exist. Without `kind` they are
    as written, and values with templates are accepted, because their types are unknown before rendering. The values of
    the variables `hidden` are not shown.
    """
    is_rendered = kind is not None
    for name, value in variables.items():
        texts = _mistakes_of(name, value, is_rendered, name in hidden or name in SECRET_VARIABLES)
        yield from (Mistake.of(name, text) for text in texts)
    for name in required(kind or Variables):
        if name not in variables and not (name == "pg_dbname" and any(_url_mistake(variables))):
            yield Mistake.of("", f"{name} is missing.{_missing_advice(name, variables)}")
    for text in _combined(variables, is_rendered):
        yield Mistake.of(text.partition(":")[0], text)


def _mistakes_of(name: str, value: object, is_rendered: bool, is_hidden: bool) -> Iterator[str]:
    if name not in _FIELDS:
        yield from _unknown(name)
    elif tag := _unsupported_tag(value):
        yield f"{name}: the tag {tag} is not supported. Use password_command, or {{{{ env('NAME') }}}}."
    elif is_rendered or not is_template(value):
        yield from _type_mistake(name, value, is_hidden)
        yield from _name_mistake(name, value)
        yield from _ssh_mistake(name, value)
        yield from _host_mistake(name, value, is_hidden)


def _combined(variables: Mapping[str, Any], is_rendered: bool) -> Iterator[str]:
    """Mistakes that need the other variables, or the form that is in the file."""
    if is_rendered:
        yield from _contradictions(variables)
    else:
        yield from _secrets(variables)
        yield from _url_mistake(variables)
        yield from _application_mistakes(variables)


def _url_mistake(variables: Mapping[str, Any]) -> Iterator[str]:
    """The mistake in a URL that is in the inventory as it is. One from an environment variable is read later."""
    value = variables.get("pg_url")
    if isinstance(value, str) and value and not is_template(value):
        try:
            variables_from_url(value)
        except ConfigurationError as error:
            yield f"pg_url: {error.message}. {error.detail} {error.hint}".replace("\n", " ")


def _missing_advice(name: str, variables: Mapping[str, Any]) -> str:
    if other := next((each for each in variables if _squashed(each) in (name[3:], _squashed(name))), None):
        return f" The variable {other} is not read: write {name}."
    return " It is needed beside pg_url too." if name == "pg_dbname" and variables.get("pg_url") else ""


def similar_name(name: str, variables: Mapping[str, Any]) -> str:
    """The variable that was probably meant by a name of no variable, when that is likely; otherwise an empty text.

    A name without pg_ may be a variable of another application. It is taken for ours when the target lacks ours.
    """
    if name in _FIELDS or any(_unknown(name)) or name in ANSIBLE_NAMES.values():
        return ""
    if known := _FIELDS_BY_SQUASHED_NAME.get(_squashed(name)):
        return known
    own = f"pg_{name}"
    if own in _FIELDS and not {own, "pg_url"} & variables.keys():
        is_password = name == "password" and "password_command" in variables
        return "" if is_password else own
    if not name.startswith("ansible_"):
        return ""
    import difflib

    return next(iter(difflib.get_close_matches(name, ANSIBLE_NAMES.values(), n=1, cutoff=0.9)), "")


def _squashed(name: str) -> str:
    return re.sub("[_-]", "", name).lower()


_FIELDS_BY_SQUASHED_NAME = {_squashed(name): name for name in _FIELDS}


def is_known(name: str) -> bool:
    """Return whether this is the name of a variable."""
    return name in _FIELDS


def with_ansible_names(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of a target, with values of Ansible's own variables for missing ones about the target's host."""
    result = dict(variables)
    if variables.get("reach", "local") != "local":
        result |= {
            name: variables[ansible_name]
            for name, ansible_name in ANSIBLE_NAMES.items()
            if name not in variables and ansible_name in variables
        }
    return result


def _unknown(name: str) -> Iterator[str]:
    """A mistake for a name that looks like one of ours. Other names are variables of other applications."""
    import difflib

    near = difflib.get_close_matches(name, _FIELDS, n=1)
    suggestion = f" Did you mean {near[0]}?" if near else ""
    is_typing_error = difflib.get_close_matches(name, [each for each in _FIELDS if "_" not in each], n=1, cutoff=0.85)
    if name.lower().replace("-", "_").startswith(_PREFIXES) or is_typing_error:
        yield f'unknown variable "{name}".{suggestion}'


def _unsupported_tag(value: object) -> str:
    if isinstance(value, TaggedValue):
        return value.tag
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return next((tag for item in items if (tag := _unsupported_tag(item))), "")


def normalized(name: str, value: object) -> object:
    """A variable's value without regard to quotes: "yes" is true, 5432 a list of one port, off a word."""
    kind = _ANNOTATIONS[name]
    if kind is bool and isinstance(value, str | int):
        return _BOOLEANS.get(str(value).lower(), value)
    if value is False and "off" in get_args(kind):
        return "off"  # YAML reads the word as false
    is_digits = name == "pg_system_identifier" or _has_ports(kind)
    if is_digits and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if _has_ports(kind) and isinstance(value, str) and "," in value:
        return ",".join(port or "5432" for port in value.split(","))
    return value


def _has_ports(kind: Any) -> bool:
    return get_origin(kind) is Annotated and isinstance(get_args(kind)[1], Ports)


def _type_mistake(name: str, value: object, is_hidden: bool) -> Iterator[str]:
    try:
        msgspec.convert(normalized(name, value), _FIELDS[name], strict=False)
    except msgspec.ValidationError:
        from pgratchet.config import values

        yield values.explain(name, _ANNOTATIONS[name], value, hidden=is_hidden)


def _host_mistake(name: str, value: object, is_hidden: bool) -> Iterator[str]:
    """A mistake for an address in the form of a URL: libpq takes the whole text for a name."""
    if name not in ("pg_host", "pg_direct_host") or not isinstance(value, str):
        return
    for host in value.split(","):
        if "://" in host or re.match(r"[^/@]+@", host):
            yield f"{name}: expected the name or address of a server. Write a URL as pg_url."
        elif with_port := re.fullmatch(r"(?:\[([^\[\]]*)\]|([^:/@]+)):(\d+)", host):
            port = name.replace("host", "port")
            parts = f"write {name}: {with_port[1] or with_port[2]} and {port}: {with_port[3]}"
            yield f"{name} has a port: {f'write it as {port}' if is_hidden else parts}."
        elif brackets := re.fullmatch(r"\[(.*)\]", host):
            yield f"{name}: write the address without brackets{'' if is_hidden else f': {brackets[1]}'}."


def _name_mistake(name: str, value: object) -> Iterator[str]:
    """PostgreSQL would truncate a longer name, and libpq a name with a NUL."""
    text = str(value) if name in ("pg_dbname", "history_schema", "history_table") else ""
    if "\0" in text or len(text.encode(errors="surrogateescape")) > 63:
        yield f"{name}: expected a name of at most 63 bytes without a NUL, which is what PostgreSQL accepts."


def _ssh_mistake(name: str, value: object) -> Iterator[str]:
    form, message = _SSH.get(name, ("", ""))
    if form and value and not re.fullmatch(form, str(value)):
        yield f"{name}: expected {message}."


def _contradictions(variables: Mapping[str, Any]) -> Iterator[str]:
    """Mistakes in combinations of valid values."""
    yield from _address_mistakes(variables)
    reach = variables.get("reach", "local")
    if reach != "local" and not variables.get("ssh_host"):
        yield f"reach: {reach} needs ssh_host or ansible_host, the host to log in to."
    if reach != "local" and variables.get("embedded"):
        yield f"reach: {reach} connects to another machine, but embedded is a server on this machine."
    if reach == "ssh":
        is_kept_here = variables.get("backup_at") == "here"
        for name in ("backup_signing_key", "backup_verify_keys"):
            if variables.get(name) and not is_kept_here:
                reason = "not supported with backup_at: host, because a host could sign what it changed"
                yield f"{name}: {reason}. Use backup_at: here, or reach: tunnel."
        for name in ("backup_recipients",) if is_kept_here else ("backup_recipients", "backup_store"):
            if variables.get(name):
                yield f"{name}: not supported with reach: ssh. Use reach: tunnel, which runs backups on this machine."


def _address_mistakes(variables: Mapping[str, Any]) -> Iterator[str]:
    for prefix in ("pg_", "pg_direct_"):
        hosts, ports = (str(variables.get(f"{prefix}{part}") or "").split(",") for part in ("host", "port"))
        if len(ports) not in (1, len(hosts)):
            yield f"{prefix}port: {len(ports)} ports for {len(hosts)} hosts. Give one port, or one for each host."
        is_used = prefix == "pg_direct_" or not variables.get("pg_direct_host")
        if len(hosts) > 1 and is_used and variables.get("reach") == "tunnel":
            yield f"{prefix}host: reach: tunnel connects to one server, but this names {len(hosts)}."


def _application_mistakes(variables: Mapping[str, Any]) -> Iterator[str]:
    if is_template(variables.get("env_file")):
        yield "env_file: expected a path without a template, because templates read the file's variables."
    if variables.get("app_password") and not variables.get("app_user"):
        yield "app_password: needs app_user, the role that the application logs in as."


def _secrets(variables: Mapping[str, Any]) -> Iterator[str]:
    for name, secret in _SECRETS.items():
        value = variables.get(name, "")
        if isinstance(value, str) and not is_template(value) and re.fullmatch(secret, value, re.DOTALL):
            yield f"{name}: a secret in the inventory. Use password_command, or {{{{ env('NAME') }}}}."
    options = variables.get("backup_store_options")
    for name, value in options.items() if isinstance(options, dict) else ():
        if _SECRET_OPTION.search(str(name)) and not is_template(value):
            yield f"backup_store_options: {name}: a secret in the inventory. Use {{{{ env('NAME') }}}}."


def convert(rendered: Mapping[str, Any], kind: type[_T]) -> _T:
    """A group of variables from rendered values without mistakes."""
    present = [name for name in names(kind) if name in rendered]
    return kind(**{n: msgspec.convert(normalized(n, rendered[n]), _FIELDS[n], strict=False) for n in present})
