"""Reads an Ansible inventory in YAML: groups, hosts, and the variables of each host in Ansible's order of precedence.

The order, weakest first: `vars` of the group all in the file; `vars` of the host's other groups; group_vars/all;
group_vars/GROUP; the host's own variables in the file; host_vars/HOST. Groups are ordered by depth, then by
ansible_group_priority, then by name. A host's own variables that the file sets in several places are applied in the
order of the file (https://docs.ansible.com/ansible/latest/inventory_guide/intro_inventory.html#how-variables-are-merged).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgratchet.config.yaml_files import Findings, Place, as_mapping, read_mapping
from pgratchet.formatting import suggest

_HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_GROUP_NAME = re.compile(r"\w[\w.-]*")
_SUFFIXES = (".yml", ".yaml", ".json")
_UNREAD_SUFFIXES = ("", *_SUFFIXES, ".ini", ".toml", ".yml.j2", ".yaml.j2", ".YML", ".YAML")
"""Endings of files that look like files of variables. Ansible reads the first that exists of "" and _SUFFIXES."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Variables of a host from one place. `group` is None for the host's own variables.

    `places` says where each variable is set, except for variables that are directly in the file `place`. `is_shared` is
    true for a file that other environments read too.
    """

    place: Place
    location: str
    variables: Mapping[str, Any]
    group: str | None
    is_shared: bool
    places: Mapping[str, Place] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Host:
    """A host with its groups, parents first. Later layers override earlier ones."""

    name: str
    place: Place
    groups: tuple[str, ...]
    layers: tuple[Layer, ...]
    ancestors: Mapping[str, frozenset[str]]
    """The groups that contain a group, by the group."""

    def variables(self) -> dict[str, Any]:
        return {name: value for layer in self.layers for name, value in layer.variables.items()}

    def places(self) -> dict[str, Place]:
        """Where each variable gets its value."""
        return {
            name: layer.places.get(name) or layer.place.below(name) for layer in self.layers for name in layer.variables
        }


@dataclass(slots=True)
class _Group:
    variables: dict[str, Any] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    parents: set[str] = field(default_factory=set)
    priority: int = 1


@dataclass(slots=True)
class _HostEntry:
    place: Place
    variables: dict[str, Any] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)


def read_hosts(path: Path, findings: Findings) -> tuple[Host, ...]:
    """The hosts of an inventory file, in the order of the file. Mistakes and notes are added to `findings`."""
    file = _InventoryFile(path, findings)
    file.read()
    files = _VariableFiles(path, findings)
    return tuple(_host(file, files, name) for name in file.hosts)


def _host(file: _InventoryFile, files: _VariableFiles, name: str) -> Host:
    entry = file.hosts[name]
    # A host in no group of its own is in "ungrouped", and a host in another group is not.
    direct = entry.groups - {"all", "ungrouped"} or {"ungrouped"}
    members = {"all", *direct, *(above for group in direct for above in file.ancestors[group])}
    groups = sorted(members, key=lambda group: (file.depths[group], file.groups[group].priority, group))
    path, top = file.path, Place(file.path)
    layers = [
        Layer(top, f"{path}: vars of {each}", file.groups[each].variables, each, False, file.groups[each].places)
        for each in groups
    ]
    layers += [_layer(each, files, group) for group in groups for each in files.of_group(group)]
    layers.append(Layer(top, f"{path}: {name}", entry.variables, None, False, entry.places))
    layers += [_layer(each, files, None) for each in files.of_host(name)]
    return Host(name, entry.place, tuple(groups), tuple(layers), file.ancestors)


def _layer(path: Path, files: _VariableFiles, group: str | None) -> Layer:
    """The variables of a file in group_vars or host_vars."""
    return Layer(Place(path), f"{path}", files.read(path), group, True)


class _InventoryFile:
    """The groups and hosts of an inventory file, read in the order of the file."""

    def __init__(self, path: Path, findings: Findings) -> None:
        self.path = path
        self.groups = {"all": _Group(), "ungrouped": _Group(parents={"all"})}
        self.hosts: dict[str, _HostEntry] = {}
        self.depths: dict[str, int] = {}
        self.ancestors: dict[str, frozenset[str]] = {}
        self._findings = findings
        self._mistakes = findings.mistakes

    def read(self) -> None:
        content = read_mapping(self.path, self._findings)
        if content.get("plugin"):
            self._mistakes.append(f"{self.path}: plugin: inventory plugins are not supported. List the hosts instead.")
            return
        try:
            for name, group in content.items():
                self._read_group(name, group, Place(self.path, (name,)), "all")
        except RecursionError:
            self._mistakes.append(f"{self.path}: a group is inside itself, by an anchor.")
            self.hosts.clear()
        self._mistakes += [
            f'{self.path}: "{name}" is a group and a host. Ansible confuses their variables; rename one of them.'
            for name in self.hosts
            if name in self.groups
        ]
        for name in self.groups:
            self._measure(name, ())

    def _read_group(self, name: str, content: object, location: Place, parent: str) -> None:
        self._check_group_name(name, location, parent)
        group = self.groups.setdefault(name, _Group())
        if name != "all":
            group.parents.add(parent)
        for key, part in as_mapping(content, location, self._mistakes).items():
            inner = location.below(key)
            if key not in ("vars", "hosts", "children"):
                self._mistakes.append(
                    f'{inner.position}: {": ".join(location.keys)}: unknown key "{key}".'
                    f"{suggest(key, ('vars', 'hosts', 'children'))} A group has vars, hosts and children."
                )
                continue
            values = as_mapping(part, inner, self._mistakes)
            if key == "vars":
                self._read_variables(group, values, inner)
            for each, value in values.items():
                if key == "hosts":
                    self._read_host(each, value, name, inner)
                elif key == "children":
                    self._read_group(each, value, inner.below(each), name)

    def _check_group_name(self, name: str, location: Place, parent: str) -> None:
        if not _GROUP_NAME.fullmatch(name):
            self._mistakes.append(
                f'{location}: "{name}" is not a valid name for a group. Use letters, digits, "_", "." and "-".'
            )
        elif name == "all" and location.keys != ("all",):
            self._mistakes.append(f"{location}: the group all contains every group and cannot be inside one.")
        elif name == "ungrouped" and parent != "all":
            self._mistakes.append(f"{location}: the group ungrouped cannot be inside another group.")
        elif parent == "ungrouped":
            self._mistakes.append(f"{location}: the group ungrouped cannot contain a group.")

    def _read_variables(self, group: _Group, values: Mapping[str, Any], location: Place) -> None:
        for name, value in values.items():
            if name != "ansible_group_priority":
                group.variables[name] = value
                group.places[name] = location.below(name)
            elif isinstance(value, int | str) and re.fullmatch(r"-?\d{1,9}", str(value)):
                group.priority = int(value)
            else:
                self._mistakes.append(f"{location.below(name)}: expected a whole number.")

    def _read_host(self, name: str, content: object, group: str, location: Place) -> None:
        place = location.below(name)
        if not _HOST_NAME.fullmatch(name):
            self._mistakes.append(f'{place.position}: "{name}" is not a valid name for a target. {_host_advice(name)}')
        entry = self.hosts.setdefault(name, _HostEntry(place))
        entry.groups.add(group)
        variables = as_mapping(content, place, self._mistakes)
        entry.variables |= variables
        entry.places |= {each: place.below(each) for each in variables}

    def _measure(self, name: str, below: tuple[str, ...]) -> int:
        """Set the depth of a group, the longest path from the group all, and its ancestors."""
        if name in below:
            self._mistakes.append(f'{self.path}: the group "{name}" is inside itself.')
            return 0
        if name not in self.depths:
            parents = self.groups[name].parents
            depth = max((self._measure(parent, (*below, name)) + 1 for parent in parents), default=0)
            above = (self.ancestors.get(parent, frozenset()) | {parent} for parent in parents)
            self.depths[name] = depth
            self.ancestors[name] = frozenset().union(*above)
        return self.depths[name]


def _host_advice(name: str) -> str:
    if "[" in name:
        return "Ranges are not supported. Write each host on a line of its own."
    if re.search(r":\d+$", name):
        return "A port in a name is not supported. Set ssh_port or pg_port instead."
    return 'Use letters, digits, "_", "." and "-", at most 63.'


class _VariableFiles:
    """The files of variables in the folders group_vars and host_vars beside an inventory file."""

    def __init__(self, path: Path, findings: Findings) -> None:
        self._folder = path.parent
        self._findings = findings
        self._mistakes = findings.mistakes
        for folder in (self._folder / "group_vars", self._folder / "host_vars"):
            if folder.exists() and not folder.is_dir():
                self._mistakes.append(f"{folder}: not read, because it is not a folder.")
        self._found: dict[Path, list[Path]] = {}
        self._contents: dict[Path, dict[str, Any]] = {}

    def of_group(self, name: str) -> list[Path]:
        return self._files(self._folder / "group_vars" / name)

    def of_host(self, name: str) -> list[Path]:
        return self._files(self._folder / "host_vars" / name)

    def read(self, path: Path) -> dict[str, Any]:
        if path not in self._contents:
            self._contents[path] = read_mapping(path, self._findings)
        return self._contents[path]

    def _files(self, path: Path) -> list[Path]:
        """The files that Ansible reads for a group or host: one file, or all files of one folder."""
        if path not in self._found:
            similar = [path.with_name(path.name + suffix) for suffix in _UNREAD_SUFFIXES]
            existing = [each for each in similar if each.exists()]
            chosen = next((each for each in similar[: len(_SUFFIXES) + 1] if each.exists()), None)
            self._mistakes += [
                f"{each}: not read. {f'Ansible reads {chosen} alone.' if chosen else 'Give it the ending .yml.'}"
                for each in existing
                if each != chosen and not (chosen and each.samefile(chosen))
            ]
            self._found[path] = list(_files_in(chosen)) if chosen else []
        return self._found[path]


def _files_in(path: Path) -> Iterator[Path]:
    """A file, or the files of a folder and its folders in the order of their names, as Ansible sorts them."""
    if not path.is_dir():
        yield path
        return
    for each in sorted(path.iterdir(), key=lambda entry: entry.name):
        if each.name.startswith(".") or each.name.endswith("~"):
            continue
        if (each.is_dir() and not each.suffix) or (each.is_file() and each.suffix in ("", *_SUFFIXES)):
            yield from _files_in(each)
