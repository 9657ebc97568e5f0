"""Reads changelog files of Liquibase, in XML, YAML, JSON or SQL, into nodes of one form.

Liquibase does the same (liquibase.parser.core.ParsedNode). Names of attributes are in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from pgratchet.adopt.tools.tool import read_file
from pgratchet.errors import ConfigurationError

SUFFIXES = (".xml", ".yaml", ".yml", ".json", ".sql")
_HEAD = re.compile(r"\s*--\s*liquibase\s*formatted(?P<attributes>.*)", re.IGNORECASE)
_LINE = re.compile(r"[ \t]*--[ \t]*(?P<name>changeset|property|includeAll|include)[ \t]+(?P<rest>.*)", re.IGNORECASE)
_IDENTITY = re.compile(r'(?P<author>"[^"]+"|[^:]+):[ \t]*(?P<id>"[^"]+"|\S+)(?P<attributes>.*)')
_ATTRIBUTE = re.compile(r'(?P<name>\w+):[ \t]*(?:"(?P<quoted>[^"]*)"|(?P<value>\S+))')
_IGNORE = re.compile(r"(?i)[ \t]*--[ \t]*ignoreLines:(?:(?P<count>\d+)|(?P<all>start)|end)\b")


@dataclass(frozen=True, slots=True)
class Node:
    """An element of a changelog. `text` is the SQL of a changeset in an SQL file, or the text of an element."""

    name: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    children: Sequence[Node] = ()
    text: str = ""


def read_changelog(path: Path) -> Node | None:
    """The root of a changelog; None for a file that is not a changelog."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        return None
    text = read_file(path)[1]
    if suffix == ".sql":
        return _from_sql(text)
    if "databaseChangeLog" not in text:
        return None
    try:
        root = _from_xml(_parse_xml(text)) if suffix == ".xml" else _from_yaml(yaml.safe_load(text))
    except (ElementTree.ParseError, yaml.YAMLError) as error:
        raise ConfigurationError(
            f"{path} is not a valid changelog",
            detail=" ".join(str(error).split()) + ".",
            hint="Fix the file, or give the master changelog of the database as --files=FILE.",
        ) from error
    return root if root.name == "databaseChangeLog" else None


def _parse_xml(text: str) -> ElementTree.Element:
    if "<!ENTITY" in text:  # entities can expand to any size
        raise ElementTree.ParseError("a changelog has no entities")
    return ElementTree.fromstring(text)  # noqa: S314  without entities


def _from_xml(element: ElementTree.Element) -> Node:
    attributes = {_local(name).lower(): value for name, value in element.attrib.items()}
    text = "".join([element.text or "", *(child.tail or "" for child in element)])
    return Node(_local(element.tag), attributes, [_from_xml(child) for child in element], text)


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _from_yaml(document: Any) -> Node:
    log = document.get("databaseChangeLog") if isinstance(document, dict) else None
    return _yaml_node("databaseChangeLog" if log is not None else "", log)


def _yaml_node(name: str, value: Any) -> Node:
    """A node of a mapping, whose scalars are attributes and whose lists are children, of a list, or of a scalar."""
    if isinstance(value, list):
        return _yaml_list(name, {}, value)
    if not isinstance(value, dict):
        return Node(name, {}, (), _scalar(value))
    attributes = {str(key).lower(): _scalar(item) for key, item in value.items() if not isinstance(item, dict | list)}
    nested = [(str(key), item) for key, item in value.items() if isinstance(item, dict | list)]
    lists = [entry for key, item in nested if key == "changes" and isinstance(item, list) for entry in item]
    others = [_yaml_node(key, item) for key, item in nested if key != "changes"]
    return _yaml_list(name, attributes, lists, others)


def _yaml_list(name: str, attributes: Mapping[str, str], entries: Sequence[Any], others: Sequence[Node] = ()) -> Node:
    mappings = [entry for entry in entries if isinstance(entry, dict)]
    children = [_yaml_node(str(key), item) for entry in mappings for key, item in entry.items()]
    own = {key: text for entry in mappings for key, text in _own_attributes(entry)}
    return Node(name, {**attributes, **own}, [*others, *children])


def _own_attributes(entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A changelog in YAML has its own attributes as entries of its list."""
    for key, value in entry.items():
        if not isinstance(value, dict | list):
            yield str(key).lower(), _scalar(value)


def _scalar(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _from_sql(text: str) -> Node | None:
    """The changesets and includes of an SQL changelog; None for a file without the first line of one."""
    text = _without_ignored_lines(text)
    head = _HEAD.match(text)
    if head is None:
        return None
    children: list[Node] = []
    lines: list[str] = []
    for line in text.splitlines(keepends=True):
        match = _LINE.match(line)
        if match is None:
            lines.append(line)
        elif node := _sql_node(match["name"].lower(), match["rest"]):
            _close(children, lines)
            children.append(node)
    _close(children, lines)
    return Node("databaseChangeLog", parse_attributes(head["attributes"]), children)


def _close(children: list[Node], lines: list[str]) -> None:
    """Give the lines since the last changeset to it."""
    if children and children[-1].name == "changeSet" and not children[-1].text:
        last = children[-1]
        children[-1] = Node(last.name, last.attributes, (), "".join(lines))
    lines.clear()


def _sql_node(name: str, rest: str) -> Node | None:
    if name != "changeset":
        return Node({"includeall": "includeAll"}.get(name, name), parse_attributes(rest))
    match = _IDENTITY.match(rest.rstrip("\r\n"))
    if match is None:
        return None
    identity = {part: match[part].strip().strip('"') for part in ("author", "id")}
    return Node("changeSet", {**parse_attributes(match["attributes"]), **identity})


def parse_attributes(text: str) -> dict[str, str]:
    """The attributes `name:value` or `name:"value"` of a line, the names in lower case."""
    return {m["name"].lower(): m["quoted"] or m["value"] or "" for m in _ATTRIBUTE.finditer(text)}


def _without_ignored_lines(text: str) -> str:
    """The text without the lines marked by `ignoreLines`."""
    lines: list[str] = []
    ignored = 0.0
    for line in text.splitlines(keepends=True):
        if mark := _IGNORE.match(line):
            ignored = inf if mark["all"] else int(mark["count"] or 0)
        elif ignored:
            ignored -= 1
        else:
            lines.append(line)
    return "".join(lines)
