"""Reads the inventory: environments and their target databases, in the form of Ansible's static inventory.

Every mistake is reported at once. Variables have Ansible's order of precedence, weakest first: `vars` of the group
all in the environment's file; `vars` of its other groups, parents before children; group_vars/all.yml;
group_vars/GROUP.yml; the host's own variables; host_vars/HOST.yml
(https://docs.ansible.com/ansible/latest/playbook_guide/playbooks_variables.html).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pgratchet.config import validation
from pgratchet.errors import ConfigurationError, combine_mistakes

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_SUFFIXES = (".yml", ".yaml")
_HINT = "Fix the files named; nothing was connected to."


@dataclass(frozen=True, slots=True)
class InventoryTarget:
    """A database of an environment. `groups` are its groups, and `variables` are unrendered."""

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
    """The names of the environments in the folder."""
    return tuple(sorted(path.stem for path in folder.glob("*") if path.suffix in _SUFFIXES and path.is_file()))


def load(folder: Path, environment: str, limit: str | None = None) -> tuple[InventoryTarget, ...]:
    """The environment's targets in the order of the file. A ConfigurationError names every mistake.

    `limit` selects targets: names of targets or groups, with * and ?, separated by commas.
    """
    path = _environment_file(folder, environment)
    mistakes: list[str] = []
    try:
        groups = _groups(path, mistakes)
    except RecursionError:
        raise combine_mistakes(
            "the inventory cannot be used", [f"{path}: a group inside itself, by an anchor."], _HINT
        ) from None
    targets = tuple(_targets(folder, environment, groups, mistakes))
    mistakes += [f"{path}: target {t.name}: {m}" for t in targets for m in validation.mistakes(t.variables)]
    if not targets and not mistakes:
        mistakes.append(f"{path}: no target. Put a database below all: hosts:.")
    if mistakes:
        raise combine_mistakes("the inventory cannot be used", list(dict.fromkeys(mistakes)), _HINT)
    return _select(targets, limit, environment)


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
    """The mapping in a YAML file. A mistake in the file is added to `mistakes`."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load(path.read_text("utf-8"), loader)  # noqa: S506  both are safe loaders
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        position = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        mistakes.append(f"{path}{position}: not YAML: {error.problem}.")
        return {}
    except (ValueError, RecursionError, yaml.YAMLError):
        mistakes.append(f"{path}: not YAML in UTF-8, or with a value that cannot be read.")
        return {}
    return _mapping(content, f"{path}", mistakes)


def _mapping(value: object, location: str, mistakes: list[str]) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return value
    mistakes.append(f"{location}: a mapping of names is expected here.")
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


def _read_group(groups: dict[str, _Group], name: str, content: object, location: str, mistakes: list[str]) -> None:
    group = groups.setdefault(name, _Group())
    parts = _mapping(content, location, mistakes)
    mistakes += [
        f'{location}: unknown key "{key}". A group has vars, hosts and children.'
        for key in parts
        if key not in ("vars", "hosts", "children")
    ]
    variables = dict(_mapping(parts.get("vars"), f"{location}: vars", mistakes))
    priority = variables.pop("ansible_group_priority", group.priority)
    group.priority = priority if isinstance(priority, int) else group.priority
    group.variables |= variables
    for host, variables in _mapping(parts.get("hosts"), f"{location}: hosts", mistakes).items():
        if not _NAME.fullmatch(host):
            mistakes.append(
                f'{location}: hosts: "{host}" is no name. Use letters, digits, "_", "." and "-", at most 63.'
            )
        group.hosts.setdefault(host, {}).update(_mapping(variables, f"{location}: hosts: {host}", mistakes))
    for child, inner in _mapping(parts.get("children"), f"{location}: children", mistakes).items():
        groups.setdefault(child, _Group()).parents.add(name)
        _read_group(groups, child, inner, f"{location}: children: {child}", mistakes)


def _targets(
    folder: Path, environment: str, groups: dict[str, _Group], mistakes: list[str]
) -> Iterator[InventoryTarget]:
    group_variables = _read_variables(folder / "group_vars", mistakes)
    host_variables = _read_variables(folder / "host_vars", mistakes)
    order = sorted(groups, key=lambda name: (_depth(groups, name), groups[name].priority, name))
    for host in dict.fromkeys(host for group in groups.values() for host in group.hosts):
        ancestry = _ancestry(groups, [name for name in groups if host in groups[name].hosts])
        members = [name for name in order if name in ancestry]
        variables: dict[str, Any] = {}
        for name in members:
            variables |= groups[name].variables
        for name in members:
            variables |= group_variables.get(name, {})
        for name in members:
            variables |= groups[name].hosts.get(host, {})
        variables |= host_variables.get(host, {})
        yield InventoryTarget(environment, host, tuple(members), variables)


def _read_variables(folder: Path, mistakes: list[str]) -> dict[str, dict[str, Any]]:
    """The variables in a group_vars or host_vars folder, by group or host."""
    result: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_file() and path.suffix in _SUFFIXES:
            result.setdefault(path.stem, {}).update(_read(path, mistakes))
        elif not path.name.startswith("."):
            mistakes.append(f"{path}: not read. Variables stand in files that end in .yml.")
    return result


def _ancestry(groups: dict[str, _Group], names: Sequence[str]) -> set[str]:
    """The groups of these names and all groups above them."""
    ancestry: set[str] = {"all"}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in ancestry:
            ancestry.add(name)
            waiting += groups[name].parents
    return ancestry


def _depth(groups: dict[str, _Group], name: str, below: frozenset[str] = frozenset()) -> int:
    """The number of groups above a group. `below` are the groups below, to detect a cycle."""
    if name in below:
        raise ConfigurationError(
            f'the group "{name}" is inside itself', hint="Take it out of the children of its own children."
        )
    return max((_depth(groups, parent, below | {name}) + 1 for parent in groups[name].parents), default=0)


def _select(targets: tuple[InventoryTarget, ...], limit: str | None, environment: str) -> tuple[InventoryTarget, ...]:
    if limit is None:
        return targets
    patterns = [part.strip() for part in limit.split(",") if part.strip()]
    chosen = tuple(
        target
        for target in targets
        if any(fnmatch.fnmatchcase(name, p) for p in patterns for name in (target.name, *target.groups))
    )
    unused = [p for p in patterns if not any(fnmatch.fnmatchcase(n, p) for t in targets for n in (t.name, *t.groups))]
    if unused or not chosen:
        names = ", ".join(target.name for target in targets)
        raise ConfigurationError(
            f'--limit="{limit}" names no target of {environment}',
            detail=f"Its targets are: {names}.{''.join(f' None is {p}.' for p in unused)}",
            hint="Give names of targets or groups, with * and ?, separated by commas.",
        )
    return chosen
