"""The inventory: environments and their target databases, in the form of Ansible's static inventory.

Owns the reading of `inventory/*.yml` with `group_vars` and `host_vars`, Ansible's order of precedence, and the
list of variables a target may have with their types. Refuses to know templates and connections. A value that
holds `{{` is a template: its type is judged when settings have rendered it. Every mistake is reported at once.

The order, weakest first, is Ansible's own for inventories: `vars` of the group all in the environment's file;
`vars` of its other groups, parents before children; group_vars/all.yml; group_vars/GROUP.yml; the host's own
variables; host_vars/HOST.yml. So an environment's file speaks for its targets at the host, or in a group_vars
file, and group_vars/all.yml holds what no one else has said.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml

from pgratchet.errors import ConfigurationError, several

Text = Annotated[str, msgspec.Meta(min_length=1)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class Variables(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every variable that a target may have. The ones that begin with pg_ are what the templates read.

    Those of libpq mean what libpq's documentation says of the parameter behind the prefix. pg_host may be a
    connection pooler's, for the application; pg_direct_host and pg_direct_port are then the server's own.
    """

    pg_url: str = ""
    pg_host: str = ""
    pg_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 5432
    pg_direct_host: str = ""
    pg_direct_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 5432
    pg_dbname: Text
    pg_user: str = ""
    pg_password: str = ""
    pg_sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    pg_sslrootcert: str = ""
    pg_require_auth: str = ""
    pg_channel_binding: Literal["disable", "prefer", "require"] = "prefer"
    pg_connect_timeout: Annotated[int, msgspec.Meta(ge=2, le=3600)] = 10
    pg_target_session_attrs: Literal["any", "read-write", "primary", "prefer-standby", "standby", "read-only"] = "any"
    pg_system_identifier: str = ""
    password_command: tuple[Text, ...] = ()
    password_timeout: Annotated[int, msgspec.Meta(ge=1, le=600)] = 30
    embedded: bool = False
    confirm: bool = False
    backup_policy: Literal["always", "when-destructive", "never"] = "always"
    backup_dir: Text = "backups"
    backup_store: str = ""
    backup_store_options: dict[str, str] = {}
    backup_recipients: tuple[Text, ...] = ()
    backup_identity: str = ""
    backup_jobs: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    backup_parallel_from: Annotated[int, msgspec.Meta(ge=0)] = 10_000_000_000
    backup_keep_count: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 0
    backup_keep_days: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 0
    backup_command: tuple[Text, ...] = ()
    backup_max_age: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 3_600
    drill_environment: str = ""
    pg_maintenance_dbname: Text = "postgres"
    history_schema: Text = "ratchet"
    history_table: Text = "migrations"
    migration_timeout: Milliseconds = 30_000
    migration_batch_size: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    lock_timeout: Milliseconds = 3_000
    reach: Literal["local", "ssh", "tunnel"] = "local"
    ssh_host: str = ""
    ssh_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    ssh_user: str = ""
    ssh_gateway: str = ""
    ssh_key: str = ""
    ssh_config: str = "~/.ssh/config"
    ssh_known_hosts: str = "~/.ssh/known_hosts"
    ssh_python: Text = "python3"
    ssh_timeout: Annotated[int, msgspec.Meta(ge=1, le=600)] = 10
    ssh_silence: Annotated[int, msgspec.Meta(ge=2, le=3600)] = 20
    ssh_patience: Annotated[int, msgspec.Meta(ge=0, le=86_400)] = 60
    backup_at: Literal["host", "here"] = "host"

    def __repr__(self) -> str:
        """Without the values, of which some are secrets."""
        return f"Variables(pg_dbname={self.pg_dbname!r})"


_FIELDS = {each.name: each for each in msgspec.structs.fields(Variables)}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
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
"""What reaches a shell, a configuration of OpenSSH, or a host's name: of what it is made, or refused."""
_SECRET_OPTION = re.compile(r"secret|token|password|sas|(account|access|master|customer)_key(_base64)?$", re.IGNORECASE)
_IN_URL = r".*:[^/@]+@.*"
_SUFFIXES = (".yml", ".yaml")
_HINT = "Mend the files named; nothing was connected to."


@dataclass(frozen=True, slots=True)
class Target:
    """One database of an environment: its name, the groups it is in, and its variables as they were written."""

    environment: str
    name: str
    groups: tuple[str, ...]
    variables: Mapping[str, Any]


@dataclass(slots=True)
class _Group:
    variables: dict[str, Any] = field(default_factory=dict)
    hosts: dict[str, dict[str, Any]] = field(default_factory=dict)
    parents: set[str] = field(default_factory=set)
    priority: int = 1


def environments(folder: Path) -> tuple[str, ...]:
    """The names of the environments that the folder describes."""
    return tuple(sorted(path.stem for path in folder.glob("*") if path.suffix in _SUFFIXES and path.is_file()))


def load(folder: Path, environment: str, limit: str | None = None) -> tuple[Target, ...]:
    """The environment's targets in the order of their file; ConfigurationError names every mistake at once.

    `limit` chooses among them: names of targets or groups, with * and ?, separated by commas.
    """
    path = _environment_file(folder, environment)
    mistakes: list[str] = []
    try:
        groups = _groups(path, mistakes)
    except RecursionError:
        raise several(
            "the inventory cannot be used", [f"{path}: a group inside itself, by an anchor."], _HINT
        ) from None
    targets = tuple(_targets(folder, environment, groups, mistakes))
    mistakes += [f"{path}: target {t.name}: {m}" for t in targets for m in judge(t.variables)]
    if not targets and not mistakes:
        mistakes.append(f"{path}: no target. Put a database below all: hosts:.")
    if mistakes:
        raise several("the inventory cannot be used", list(dict.fromkeys(mistakes)), _HINT)
    return _limited(targets, limit, environment)


def judge(variables: Mapping[str, Any], *, rendered: bool = False) -> Iterator[str]:
    """What is wrong with a target's variables, a sentence each. Before rendering, templates pass as they are."""
    for name, value in variables.items():
        if name not in _FIELDS and not name.startswith("ansible_"):
            yield f'unknown variable "{name}".{_nearest(name)}'
        elif name in _FIELDS and (rendered or not _is_template(value)):
            yield from _type_mistake(name, value, strict=not rendered)
            yield from _name_mistake(name, value)
            yield from _ssh_mistake(name, value)
    for name, each in _FIELDS.items():
        if each.required and name not in variables:
            yield f"{name} is missing."
    if rendered:
        yield from _contradictions(variables)
    else:
        yield from _secrets(variables)


def _type_mistake(name: str, value: object, *, strict: bool) -> Iterator[str]:
    try:
        msgspec.convert(value, _FIELDS[name].type, strict=strict)
    except msgspec.ValidationError as error:
        yield f"{name}: {str(error)[:1].lower()}{str(error)[1:]}."


def _name_mistake(name: str, value: object) -> Iterator[str]:
    """The server would cut a longer name, and libpq ends one at a NUL: that is then another name."""
    text = str(value) if name in ("pg_dbname", "history_schema", "history_table") else ""
    if "\0" in text or len(text.encode(errors="surrogateescape")) > 63:
        yield f"{name}: no name that PostgreSQL can hold, which is at most 63 bytes without a NUL."


def _ssh_mistake(name: str, value: object) -> Iterator[str]:
    form, told = _SSH.get(name, ("", ""))
    if form and value and not re.fullmatch(form, str(value)):
        yield f"{name}: {told}."


def _contradictions(variables: Mapping[str, Any]) -> Iterator[str]:
    """What each may be, and both together cannot."""
    reach = variables.get("reach", "local")
    if reach != "local" and not variables.get("ssh_host"):
        yield f"reach: {reach} needs ssh_host, the host to log in to."
    if reach != "local" and variables.get("embedded"):
        yield f"reach: {reach} leads to another machine, and embedded is a server on this one."
    if reach == "ssh":
        here = variables.get("backup_at") == "here"
        for name in ("backup_recipients",) if here else ("backup_recipients", "backup_store"):
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


def convert(variables: Mapping[str, Any]) -> Variables:
    """Rendered variables, which `judge` has nothing against, as typed ones."""
    known = {name: value for name, value in variables.items() if name in _FIELDS}
    return msgspec.convert(known, Variables, strict=False)


def _is_template(value: object) -> bool:
    return isinstance(value, str) and "{{" in value


def _nearest(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, _FIELDS, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _environment_file(folder: Path, environment: str) -> Path:
    for suffix in _SUFFIXES:
        path = folder / f"{environment}{suffix}"
        if _NAME.fullmatch(environment) and path.is_file():
            return path
    known = ", ".join(environments(folder)) or "none"
    raise ConfigurationError(
        f'unknown environment "{environment}"',
        detail=f"The environments in {folder}/ are: {known}.",
        hint=f"Choose one with --env=NAME, or describe this one in {folder}/{environment}.yml.",
    )


def _read(path: Path, mistakes: list[str]) -> dict[str, Any]:
    """A YAML file's mapping; what keeps it from being one goes to the mistakes."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load(path.read_text("utf-8"), loader)  # noqa: S506  both are safe loaders
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        mistakes.append(f"{path}{where}: not YAML: {error.problem}.")
        return {}
    except (ValueError, RecursionError, yaml.YAMLError):
        mistakes.append(f"{path}: not YAML in UTF-8, or with a value that cannot be read.")
        return {}
    return _mapping(content, f"{path}", mistakes)


def _mapping(value: object, where: str, mistakes: list[str]) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return value
    mistakes.append(f"{where}: a mapping of names is expected here.")
    return {}


def _groups(path: Path, mistakes: list[str]) -> dict[str, _Group]:
    groups = {"all": _Group()}
    for name, content in _read(path, mistakes).items():
        if name == "all":
            _read_group(groups, name, content, f"{path}: all", mistakes)
        else:
            groups.setdefault(name, _Group()).parents.add("all")
            _read_group(groups, name, content, f"{path}: {name}", mistakes)
    return groups


def _read_group(groups: dict[str, _Group], name: str, content: object, where: str, mistakes: list[str]) -> None:
    group = groups.setdefault(name, _Group())
    parts = _mapping(content, where, mistakes)
    mistakes += [
        f'{where}: unknown key "{key}". A group has vars, hosts and children.'
        for key in parts
        if key not in ("vars", "hosts", "children")
    ]
    variables = dict(_mapping(parts.get("vars"), f"{where}: vars", mistakes))
    priority = variables.pop("ansible_group_priority", group.priority)
    group.priority = priority if isinstance(priority, int) else group.priority
    group.variables |= variables
    for host, variables in _mapping(parts.get("hosts"), f"{where}: hosts", mistakes).items():
        if not _NAME.fullmatch(host):
            mistakes.append(f'{where}: hosts: "{host}" is no name. Use letters, digits, "_", "." and "-", at most 63.')
        group.hosts.setdefault(host, {}).update(_mapping(variables, f"{where}: hosts: {host}", mistakes))
    for child, inner in _mapping(parts.get("children"), f"{where}: children", mistakes).items():
        groups.setdefault(child, _Group()).parents.add(name)
        _read_group(groups, child, inner, f"{where}: children: {child}", mistakes)


def _targets(folder: Path, environment: str, groups: dict[str, _Group], mistakes: list[str]) -> Iterator[Target]:
    file_variables = _files(folder / "group_vars", mistakes)
    host_variables = _files(folder / "host_vars", mistakes)
    order = sorted(groups, key=lambda name: (_depth(groups, name), groups[name].priority, name))
    for host in dict.fromkeys(host for group in groups.values() for host in group.hosts):
        mine = _ancestry(groups, [name for name in groups if host in groups[name].hosts])
        members = [name for name in order if name in mine]
        variables: dict[str, Any] = {}
        for name in members:
            variables |= groups[name].variables
        for name in members:
            variables |= file_variables.get(name, {})
        for name in members:
            variables |= groups[name].hosts.get(host, {})
        variables |= host_variables.get(host, {})
        yield Target(environment, host, tuple(members), variables)


def _files(folder: Path, mistakes: list[str]) -> dict[str, dict[str, Any]]:
    """The variables in a group_vars or host_vars folder, by group or host."""
    result: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_file() and path.suffix in _SUFFIXES:
            result.setdefault(path.stem, {}).update(_read(path, mistakes))
        elif not path.name.startswith("."):
            mistakes.append(f"{path}: not read. Variables stand in files that end in .yml.")
    return result


def _ancestry(groups: dict[str, _Group], names: Sequence[str]) -> set[str]:
    found: set[str] = {"all"}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += groups[name].parents
    return found


def _depth(groups: dict[str, _Group], name: str, seen: frozenset[str] = frozenset()) -> int:
    if name in seen:
        raise ConfigurationError(
            f'the group "{name}" is inside itself', hint="Take it out of the children of its own children."
        )
    return max((_depth(groups, parent, seen | {name}) + 1 for parent in groups[name].parents), default=0)


def _limited(targets: tuple[Target, ...], limit: str | None, environment: str) -> tuple[Target, ...]:
    if limit is None:
        return targets
    patterns = [part.strip() for part in limit.split(",") if part.strip()]
    chosen = tuple(
        target
        for target in targets
        if any(fnmatch.fnmatchcase(name, p) for p in patterns for name in (target.name, *target.groups))
    )
    idle = [p for p in patterns if not any(fnmatch.fnmatchcase(n, p) for t in targets for n in (t.name, *t.groups))]
    if idle or not chosen:
        names = ", ".join(target.name for target in targets)
        raise ConfigurationError(
            f'--limit="{limit}" names no target of {environment}',
            detail=f"Its targets are: {names}.{''.join(f' None is {p}.' for p in idle)}",
            hint="Give names of targets or groups, with * and ?, separated by commas.",
        )
    return chosen
