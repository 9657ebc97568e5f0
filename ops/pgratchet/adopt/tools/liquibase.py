"""Liquibase: the table databasechangelog has an id, an author and a file for each changeset.

Every changeset becomes a file. Changesets in XML, YAML or JSON are converted if they hold only SQL. Liquibase's
checksum is of the parsed change, not of the text, so nothing can be verified with it (CheckSum.java). Applied
changesets have the order of their runs, the others that of the master changelog. A changeset with runOnChange is a
repeatable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pgratchet.adopt.tools.changelogs import Node
from pgratchet.adopt.tools.liquibase_order import Changeset, find_changesets, is_for_postgresql, resolve
from pgratchet.adopt.tools.tool import JsonRow, Tool, ToolMigration, ToolRow, read_file, with_semicolon

_ROLLBACK = re.compile(r"/\*\s*liquibase\s+rollback\b.*?\*/", re.IGNORECASE | re.DOTALL)
_MARK = re.compile(r"(?im)^[ \t]*--[ \t]*(rollback|comment|preconditions?(-\S+)?|validCheckSum)\b.*\n?")
_PRECONDITION = re.compile(r"(?im)^[ \t]*--[ \t]*preconditions?\b")
_PARAMETER = re.compile(r"\$\{(?P<name>[^}]*)\}")
_NO_CHANGES = ("comment", "rollback", "preConditions", "validCheckSum", "modifySql", "property")
_GUARD = "It has preconditions, which are not adopted."
_RAN = ("EXECUTED", "RERAN", "MARK_RAN")


def files(folder: Path) -> Sequence[ToolMigration]:
    return [_migration(changeset) for changeset in find_changesets(folder)]


def _migration(changeset: Changeset) -> ToolMigration:
    node, attributes = changeset.node, changeset.node.attributes
    author, identity = attributes.get("author", ""), attributes["id"]
    up, obstacle = _sql(changeset)
    up, missing = _with_properties(up, changeset.properties)
    transactional = attributes.get("runintransaction", "true").lower() != "false"
    repeatable = _is_true(attributes, "runonchange") and transactional
    return ToolMigration(
        f"{changeset.logical_path}: {author}:{identity}",
        _file_keys(identity, author, changeset.logical_path),
        identity if identity.isdecimal() else "",
        f"{changeset.path.stem}_{identity}",
        up,
        transactional=transactional,
        obstacle=obstacle or missing,
        remarks=_about_runs(attributes, repeatable=repeatable),
        repeatable=repeatable,
        condition=" ".join(changeset.conditions),
        never=changeset.never,
        guard=_GUARD if _has_preconditions(node) else "",
        paths=(changeset.path, *_sql_files(changeset)),
    )


def _about_runs(attributes: Mapping[str, str], *, repeatable: bool) -> tuple[str, ...]:
    """Say how often a changeset runs here that Liquibase runs more often."""
    remarks = []
    if _is_true(attributes, "runonchange") and not repeatable:
        remarks.append("It has runOnChange=true, and runs once here: it cannot run in a transaction.")
    if _is_true(attributes, "runalways"):
        often = "when its text has changed" if repeatable else "once"
        remarks.append(f"It has runAlways=true, which pgratchet does not have: it runs {often}.")
    return tuple(remarks)


def _is_true(attributes: Mapping[str, str], name: str) -> bool:
    return attributes.get(name, "").lower() == "true"


def _sql(changeset: Changeset) -> tuple[str, str]:
    """The SQL of a changeset, and the sentence that says why there is none."""
    node = changeset.node
    delimiter = node.attributes.get("enddelimiter", ";")
    if not node.children and (node.text.strip() or changeset.path.suffix.lower() == ".sql"):
        text = _MARK.sub("", _ROLLBACK.sub("", node.text)).lstrip("\n")
        return text, "" if delimiter == ";" else f"Its statements end with {delimiter}."
    changes = [child for child in node.children if child.name not in _NO_CHANGES]
    others = [child.name for child in changes if child.name not in ("sql", "sqlFile")]
    if others:
        kind = changeset.path.suffix.lstrip(".").upper()
        return "", f"It is {kind}, not SQL: {', '.join(dict.fromkeys(others))}."
    pieces = [_change(child, changeset) for child in changes if is_for_postgresql(child.attributes.get("dbms", ""))]
    return "\n".join(with_semicolon(text) for text, _ in pieces), next((reason for _, reason in pieces if reason), "")


def _change(change: Node, changeset: Changeset) -> tuple[str, str]:
    """The text of a change `sql` or `sqlFile`, and the sentence that says why it cannot run here."""
    delimiter = change.attributes.get("enddelimiter", ";")
    reason = "" if delimiter == ";" else f"Its statements end with {delimiter}."
    if change.name == "sql":
        return change.attributes.get("sql") or change.text, reason
    path = resolve(change.attributes.get("path", ""), change, changeset.path, changeset.path.parent)
    if path is None or not path.is_file():
        return "", f"Its file {change.attributes.get('path', '')} does not exist."
    return read_file(path)[1], reason


def _sql_files(changeset: Changeset) -> list[Path]:
    """The files that a changeset runs, and those that undo it."""
    changes = [*changeset.node.children, *(child for node in changeset.node.children for child in node.children)]
    names = [(change.attributes.get("path", ""), change) for change in changes if change.name == "sqlFile"]
    paths = (resolve(name, change, changeset.path, changeset.path.parent) for name, change in names if name)
    return [path for path in paths if path]


def _with_properties(text: str, properties: Mapping[str, str]) -> tuple[str, str]:
    """The text with the values of the changelog's properties, and a sentence about the first one without a value."""
    text = _PARAMETER.sub(lambda match: properties.get(match["name"].strip(), match[0]), text)
    missing = _PARAMETER.search(text)
    return text, f"It has the parameter {missing.group()}." if missing else ""


def _has_preconditions(node: Node) -> bool:
    return _PRECONDITION.search(node.text) is not None or any(child.name == "preConditions" for child in node.children)


def _row_keys(identity: str, author: str, file: str) -> tuple[str, ...]:
    """The keys of a row. The keys match a file whose path is an end of the row's path, or the reverse.

    Liquibase's paths begin at its working folder, ours at the folder of files.
    """
    path = file.removeprefix("classpath:").lstrip("/")
    return (*(f"{identity} {author} {end}" for end in _ends(path)), f"{identity} {author} .../{path}")


def _file_keys(identity: str, author: str, file: str) -> tuple[str, ...]:
    path = file.removeprefix("classpath:").lstrip("/")
    return (f"{identity} {author} {path}", *(f"{identity} {author} .../{end}" for end in _ends(path)))


def _ends(path: str) -> list[str]:
    """The path, and the path without its first folder, its first two folders, and so on."""
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def rows(json_rows: Sequence[JsonRow], _: Sequence[ToolMigration]) -> Sequence[ToolRow]:
    return [_row(row) for row in sorted(json_rows, key=lambda row: int(row["orderexecuted"]))]


def _row(row: JsonRow) -> ToolRow:
    keys, kind = _row_keys(str(row["id"]), str(row["author"]), str(row["filename"])), str(row["exectype"])
    if kind not in _RAN:
        return ToolRow(keys, "undone" if kind == "SKIPPED" else "failed", remark=f"Liquibase's row says {kind}.")
    remark = "Liquibase has marked it as run without running it." if kind == "MARK_RAN" else ""
    return ToolRow(keys, moment=row["dateexecuted"], remark=remark, position=int(row["orderexecuted"]))


TOOL = Tool(
    "liquibase",
    "databasechangelog",
    frozenset({"id", "author", "filename", "exectype", "md5sum"}),
    ("src/main/resources/db/changelog", "db/changelog", "changelog", "migrations"),
    files,
    rows,
    lock_table="databasechangeloglock",
    other_tables=("databasechangeloghistory",),
)
