"""Reads YAML and JSON files as Ansible does, and names what Ansible accepts and pgratchet does not.

Ansible reads a file as JSON first, then as YAML 1.1. When a key occurs twice it uses the last value and warns
(https://docs.ansible.com/ansible/latest/reference_appendices/config.html#duplicate-yaml-dict-key).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pgratchet.migrations.files import name_wide_encoding

try:
    from yaml import CSafeLoader as _SafeLoader
except ImportError:  # PyYAML without libyaml
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]

_TAGS = ("!vault", "!vault-encrypted", "!unsafe")
_JSON_TAGS = {"__ansible_vault": "!vault", "__ansible_unsafe": "!unsafe"}
_VAULT_HEADER = "$ANSIBLE_VAULT"


@dataclass(frozen=True, slots=True)
class TaggedValue:
    """A value with one of Ansible's own tags. Its content is not kept."""

    tag: str


@dataclass(frozen=True, slots=True)
class Findings:
    """Sentences about files: mistakes, with which the files cannot be used, and notes about values without effect."""

    mistakes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _Loader(_SafeLoader):
    """The safe loader with Ansible's tags."""


def _construct_tagged(loader: _Loader, node: yaml.Node) -> TaggedValue:
    kind = loader.resolve(type(node), node.value, (True, False))  # type: ignore[no-untyped-call]
    if node.tag != "!unsafe" and kind != "tag:yaml.org,2002:str":
        raise yaml.constructor.ConstructorError(None, None, f"the tag {node.tag} needs a text", node.start_mark)
    return TaggedValue(str(node.tag))


for _tag in _TAGS:
    _Loader.add_constructor(_tag, _construct_tagged)


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a YAML or JSON file: the keys that lead to it. The file is read again when its line is needed."""

    path: Path
    keys: tuple[str, ...] = ()

    def below(self, *keys: str) -> Place:
        return Place(self.path, (*self.keys, *keys))

    @property
    def position(self) -> str:
        """The file, and the line of the last key, as inventory/dev.yml:5."""
        line = _line_of(self.path, self.keys) if self.keys else None
        return f"{self.path}:{line}" if line else f"{self.path}"

    def __str__(self) -> str:
        """The position, and the keys for people: inventory/dev.yml:5: all: hosts."""
        return ": ".join((self.position, *self.keys))


def _line_of(path: Path, keys: tuple[str, ...]) -> int | None:
    """The line of the last key; None when it cannot be found. It counts from 1."""
    try:
        return _find(_node_of(path), keys)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None


def _node_of(path: Path) -> yaml.Node | None:
    loader = _Loader(path.read_text("utf-8"))
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _find(node: yaml.Node | None, keys: tuple[str, ...]) -> int | None:
    """As the values are read, the last of equal keys counts, and a key of the mapping itself before a merged one."""
    if not isinstance(node, yaml.MappingNode):
        return None
    for key, value in reversed(node.value):
        if isinstance(key, yaml.ScalarNode) and key.value == keys[0]:
            inner = _find(value, keys[1:]) if len(keys) > 1 else None
            return inner or key.start_mark.line + 1
    merged = [value for key, value in node.value if key.tag == "tag:yaml.org,2002:merge"]
    parts = [part for value in merged for part in (value.value if isinstance(value, yaml.SequenceNode) else [value])]
    return next((line for part in parts if (line := _find(part, keys))), None)


def read_mapping(path: Path, findings: Findings) -> dict[str, Any]:
    """The mapping in a file; empty for an empty file. Mistakes and notes are added to `findings`."""
    mistakes = findings.mistakes
    text = _read_text(path, mistakes)
    repeated: list[str] = []
    try:
        content = _parse(text, repeated)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mistakes.append(f"{path}{_explain(text, error)}")
        return {}
    findings.notes.extend(f"{path}{key} occurs twice in one mapping. The last value is used." for key in repeated)
    if isinstance(content, str) and content.startswith(_VAULT_HEADER):
        mistakes.append(f"{path}: encrypted by Ansible Vault, which is not supported.")
    elif content is not None and not isinstance(content, dict) and (ini := _ini_section(text)):
        mistakes.append(f"{path}:{ini}")
    else:
        return as_mapping(content, Place(path), mistakes)
    return {}


def _read_text(path: Path, mistakes: list[str]) -> str:
    """The text of a file; empty, with a mistake added, when it is not in UTF-8."""
    raw = path.read_bytes()
    if encoding := name_wide_encoding(raw):
        mistakes.append(f"{path}: the file is {encoding}. Save it as UTF-8.")
        return ""
    try:
        return raw.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        mistakes.append(f"{path}:{line}: a character that is not in UTF-8. Save the file as UTF-8.")
        return ""


def _ini_section(text: str) -> str:
    from pgratchet.config import yaml_errors

    return yaml_errors.ini_section(text)


def _explain(text: str, error: Exception) -> str:
    """The position behind the file's name, and what is wrong there."""
    from pgratchet.config import yaml_errors

    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark):
        start = error.context_mark.line if error.context_mark else mark.line
        return f":{yaml_errors.explain(text, str(error.problem), mark.line, mark.column, start)}"
    if isinstance(error, yaml.reader.ReaderError):
        code = error.character if isinstance(error.character, int) else ord(str(error.character))
        line = text[: text.find(chr(code))].count("\n") + 1
        return f":{line}: the control character U+{code:04X}, which YAML does not accept."
    if isinstance(error, RecursionError):
        return ": not YAML: too many mappings or lists inside each other."
    for line, value in _unreadable(text):
        return f':{line}: "{value}" cannot be read. Put the value in quotes.'
    return ": not YAML, or it has a value that cannot be read."


def _unreadable(text: str) -> Iterator[tuple[int, str]]:
    """Values that look like a date or a number and are none, such as 2024-13-45, with their lines."""
    loader = _Loader(text)
    try:
        nodes = [loader.get_single_node()]
        while nodes:
            node = nodes.pop()
            if isinstance(node, yaml.CollectionNode):
                pairs = node.value if isinstance(node, yaml.MappingNode) else [(item,) for item in node.value]
                nodes += [each for pair in pairs for each in pair]
            elif node is not None:
                try:
                    loader.construct_object(node)
                except ValueError:
                    yield node.start_mark.line + 1, node.value
    finally:
        loader.dispose()


def as_mapping(value: object, location: Place, mistakes: list[str]) -> dict[str, Any]:
    """A value as a mapping with texts as keys; empty for no value and, with a mistake added, for any other value."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        advice = " Write NAME: VALUE in place of NAME=VALUE." if isinstance(value, str) and "=" in value else ""
        mistakes.append(f"{location}: expected a mapping of names to values.{advice}")
        return {}
    wrong = [key for key in value if not isinstance(key, str) or not key]
    mistakes += [f"{location}: the key {_shown(key)} is not a text. Put it in quotes." for key in wrong]
    return {key: each for key, each in value.items() if key not in wrong}


def _shown(key: object) -> str:
    """A key as it may be written in the file."""
    if key is None:
        return "null"
    return str(key).lower() if isinstance(key, bool) else repr(key)


def _parse(text: str, repeated: list[str]) -> object:
    """The content of a file. Keys that occur twice are added to `repeated`."""
    if text.startswith(_VAULT_HEADER):
        return _VAULT_HEADER
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text, object_pairs_hook=lambda pairs: _json_object(pairs, repeated))
        except json.JSONDecodeError:
            repeated.clear()
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        repeated += [f':{key.start_mark.line + 1}: "{key.value}"' for key in _repeated_keys(node, set())]
        return loader.construct_document(node) if node else None
    finally:
        loader.dispose()


def _json_object(pairs: list[tuple[str, Any]], repeated: list[str]) -> object:
    result: dict[str, Any] = {}
    for key, value in pairs:
        repeated += [f': "{key}"'] if key in result else []
        result[key] = value
    tag = next((tag for key, tag in _JSON_TAGS.items() if key in result), None)
    return TaggedValue(tag) if tag else result


def _repeated_keys(node: yaml.Node | None, visited: set[int]) -> Iterator[yaml.ScalarNode]:
    """The keys that repeat an earlier key of their mapping. Merge keys may be overridden, so they do not count."""
    if not isinstance(node, yaml.CollectionNode) or id(node) in visited:
        return
    visited.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated_keys(item, visited)
        return
    keys: set[tuple[str, str]] = set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in keys:
            yield key
        elif isinstance(key, yaml.ScalarNode):
            keys.add((key.tag, key.value))
        yield from _repeated_keys(value, visited)
