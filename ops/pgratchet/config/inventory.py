"""Reads the inventory: environments and their target databases, in the form of Ansible's static inventory.

Every mistake is reported at once.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pgratchet.config import ansible, unread_files, validation
from pgratchet.config.yaml_files import Findings, Place
from pgratchet.errors import ConfigurationError, combine_mistakes
from pgratchet.formatting import suggest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_SUFFIXES = (".yml", ".yaml")
_HINT = "Fix the files named above. No connection was made."


@dataclass(frozen=True, slots=True)
class InventoryTarget:
    """A database of an environment. `groups` are its groups, and `variables` are unrendered.

    `notes` are sentences about variables that the inventory sets without effect. `siblings` are the other targets of
    the environment, and `other_environments` are those of the inventory. `place` is that of the target in its file, and
    `places` are those of its variables; both are empty for a target that is not read from a file.
    """

    environment: str
    name: str
    groups: tuple[str, ...]
    variables: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    siblings: tuple[str, ...] = ()
    other_environments: tuple[str, ...] = ()
    place: Place | None = None
    places: Mapping[str, Place] = field(default_factory=dict)

    def position(self, variable: str = "") -> str:
        """The file and line of a variable's value, or else of the target; empty when it is not read from a file."""
        place = self.places.get(variable) or self.place
        return place.position if place else ""

    def label(self, variable: str = "") -> str:
        """The beginning of a sentence about the target or a variable of it, as inventory/dev.yml:5: target shop."""
        position = self.position(variable)
        return f"{position}: target {self.name}" if position else f"{self.environment}: {self.name}"


def environments(folder: Path) -> tuple[str, ...]:
    """The names of the environments in the folder."""
    return tuple(sorted({path.stem for path in folder.glob("*") if path.suffix in _SUFFIXES and path.is_file()}))


def load(
    folder: Path, environment: str, limit: str | None = None, *, named_by: str = "--env=NAME"
) -> tuple[InventoryTarget, ...]:
    """The environment's targets in the order of the file. A ConfigurationError names every mistake.

    `limit` selects targets: names of targets or groups, with * and ?, separated by commas. `named_by` is the flag or
    the variable that names the environment, for the hint of an unknown one.
    """
    path = _environment_file(folder, environment, named_by)
    findings = Findings()
    hosts = ansible.read_hosts(path, findings)
    mistakes = findings.mistakes
    targets = tuple(_target(environment, host, findings) for host in hosts)
    mistakes += _variable_mistakes(targets)
    if not targets and not mistakes:
        mistakes.append(f"{path}: no target. Put a database below all: hosts:.")
    if mistakes:
        raise combine_mistakes("the inventory cannot be used", list(dict.fromkeys(mistakes)), _HINT)
    others = tuple(name for name in environments(folder) if name != environment)
    names = [target.name for target in targets]
    unread = tuple(_unread_files(folder, hosts))
    related = tuple(
        replace(
            target,
            notes=(*target.notes, *unread),
            siblings=tuple(n for n in names if n != target.name),
            other_environments=others,
        )
        for target in targets
    )
    return _select(related, limit, environment)


def _variable_mistakes(targets: Iterable[InventoryTarget]) -> Iterator[str]:
    """The mistakes in variables. One in a shared file is named once, with its targets."""
    affected: dict[tuple[str, str], list[str]] = {}
    for target in targets:
        for mistake in validation.mistakes(target.variables):
            affected.setdefault((target.position(mistake.variable), mistake), []).append(target.name)
    for (position, text), names in affected.items():
        yield f"{position}: {'target' if len(names) == 1 else 'targets'} {', '.join(names)}: {text}"


def _unread_files(folder: Path, hosts: Iterable[ansible.Host]) -> Iterator[str]:
    def names(hosts: Iterable[ansible.Host]) -> dict[str, set[str]]:
        groups = {group for host in hosts for group in (*host.groups, *host.ancestors)}
        return {"host_vars": {host.name for host in hosts}, "group_vars": {"all", "ungrouped", *groups}}

    def all_names() -> set[str]:
        paths = (path for path in folder.iterdir() if path.suffix in _SUFFIXES and path.is_file())
        by_file = [names(ansible.read_hosts(path, Findings())) for path in paths]
        return set().union(*(each for by_kind in by_file for each in by_kind.values()))

    return unread_files.notes(folder, names(tuple(hosts)), all_names)


def listed_roles(targets: Iterable[InventoryTarget]) -> tuple[str, ...]:
    """The names in `roles` of the targets, which are created on servers for development and tests."""
    lists = [value for target in targets if isinstance(value := target.variables.get("roles"), list)]
    return tuple(dict.fromkeys(str(name) for names in lists for name in names))


def all_roles(folder: Path) -> tuple[str, ...]:
    """The names in `roles` of all environments that can be read."""
    targets: list[InventoryTarget] = []
    for environment in environments(folder):
        with suppress(ConfigurationError):
            targets += load(folder, environment)
    return listed_roles(targets)


def _environment_file(folder: Path, environment: str, named_by: str) -> Path:
    paths = [folder / f"{environment}{suffix}" for suffix in _SUFFIXES]
    files = [path for path in paths if _NAME.fullmatch(environment) and path.is_file()]
    if len(files) > 1:
        raise ConfigurationError(
            f'the environment "{environment}" has two files',
            detail=f"They are {' and '.join(map(str, files))}.",
            hint="Remove one of them.",
        )
    if files:
        return files[0]
    _require_folder(folder)
    known = environments(folder)
    others = _other_forms(folder, environment)
    unsupported = [path for path in others if path.exists() and path.suffix not in _SUFFIXES]
    reasons = [f"{path} is not read: only a YAML file named {environment}.yml is." for path in unsupported]
    variable = _environment_variable(named_by)
    origin = f"The name comes from the environment variable {variable}. " if variable else ""
    raise ConfigurationError(
        f'unknown environment "{environment}"',
        detail=origin
        + " ".join([f"The environments in {folder}/ are: {', '.join(known) or 'none'}.", *reasons])
        + suggest(environment, known),
        hint=_environment_hint(folder, environment, known, named_by),
    )


def _require_folder(folder: Path) -> None:
    """Raise ConfigurationError in a folder that has no project."""
    if not folder.is_dir():
        raise ConfigurationError(
            f"no folder {folder}/",
            detail="It describes the environments and their databases. This folder has no project of pgratchet.",
            hint="Change to the folder of your project, or run `pgratchet init` to write a new project here.",
        )


def _environment_variable(named_by: str) -> str:
    """The variable's name when an environment variable names the environment, as OPS_ENV=NAME."""
    variable = re.fullmatch(r"([A-Z_]+)=NAME", named_by)
    return variable[1] if variable else ""


def _environment_hint(folder: Path, environment: str, known: Collection[str], named_by: str) -> str:
    variable = _environment_variable(named_by)
    choice = f"Change {variable}, or choose one with --env=NAME" if variable else f"Choose one with {named_by}"
    stem = environment.rpartition("/")[2]
    stem = next((stem.removesuffix(suffix) for suffix in _SUFFIXES if stem.endswith(suffix)), stem)
    if stem in known:
        return f"Give the name without folder and ending: {named_by.replace('NAME', stem, 1)}."
    if not _NAME.fullmatch(stem):
        return f"{choice}."
    return f"{choice}, or describe this one in {folder}/{stem}.yml."


def _other_forms(folder: Path, environment: str) -> list[Path]:
    """Paths of an environment in other forms of Ansible's inventory."""
    if not _NAME.fullmatch(environment):
        return []
    return [folder / f"{environment}{suffix}" for suffix in ("", ".ini", ".json", ".toml", ".py", ".sh")]


def _target(environment: str, host: ansible.Host, findings: Findings) -> InventoryTarget:
    variables, places = validation.with_ansible_names(host.variables()), host.places()
    places = {name: places.get(name) or places[validation.ANSIBLE_NAMES[name]] for name in variables}
    similar = (
        f'{places[name].position}: "{name}" has no effect. Did you mean {near}?'
        for name in variables
        if (near := validation.similar_name(name, variables))
    )
    notes = (*findings.notes, *_shadowed(host), *similar)
    return InventoryTarget(environment, host.name, host.groups, variables, notes, place=host.place, places=places)


def _shadowed(host: ansible.Host) -> Iterator[str]:
    """A sentence for each value of the environment's own file that a shared file overrides.

    That a child group or a host overrides a parent is what they are for. That group_vars/all.yml overrides `vars` in
    the environment's file surprises: the environment looks more specific.
    """
    winners = {name: layer for layer in host.layers for name in layer.variables}
    for layer in host.layers:
        for name in layer.variables if not layer.is_shared else ():
            winner = winners[name]
            is_as_general = winner.group == layer.group or (
                layer.group is not None and winner.group in host.ancestors[layer.group]
            )
            is_different = winner.variables[name] != layer.variables[name]
            if winner.is_shared and is_as_general and is_different and validation.is_known(name):
                yield (
                    f"{layer.location}: {name} has no effect, because {winner.location} sets it too and wins, as in "
                    f"Ansible. Set it for the host, or remove it from one of the files."
                )


def _select(targets: tuple[InventoryTarget, ...], limit: str | None, environment: str) -> tuple[InventoryTarget, ...]:
    if limit is None:
        return targets
    patterns = [part.strip() for part in limit.split(",") if part.strip()]
    chosen = tuple(
        target
        for target in targets
        if any(fnmatch.fnmatchcase(name, p) for p in patterns for name in (target.name, *target.groups))
    )
    named = [name for target in targets for name in (target.name, *target.groups)]
    unused = [p for p in patterns if not any(fnmatch.fnmatchcase(name, p) for name in named)]
    if unused or not chosen:
        raise _unmatched(limit, unused, targets, environment)
    return chosen


def _unmatched(
    limit: str, unused: Sequence[str], targets: Sequence[InventoryTarget], environment: str
) -> ConfigurationError:
    """The error for a limit of which some parts, or all, match nothing."""
    named = {name for target in targets for name in (target.name, *target.groups)} - {"ungrouped"}
    wrong = ", ".join(f'"{pattern}"' for pattern in unused) or f'"{limit}"'
    is_part = unused and [part.strip() for part in limit.split(",") if part.strip()] != list(unused)
    subject = f'--limit="{limit}"' + (f": {wrong}" if is_part else "")
    verb = "match" if is_part and len(unused) > 1 else "matches"
    return ConfigurationError(
        f"{subject} {verb} no target of {environment}",
        detail=f"Its targets are: {', '.join(target.name for target in targets)}."
        + "".join(dict.fromkeys(suggest(pattern, named) for pattern in unused)),
        hint="Give names of targets or groups, with * and ?, separated by commas.",
    )
