"""Reads pg_dump's schema as objects: tables, columns, constraints, indexes, functions, privileges and all others.

pg_dump writes a comment above each object, with its name, kind and schema. Comments inside a string or a function's
body are part of a statement, so only the text between two statements is searched for such a comment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pgratchet.migrations.lexer import split_statements
from pgratchet.schema import dump_text
from pgratchet.schema.dump_text import NAME, unquote
from pgratchet.schema.table_columns import split_table

_HEADER = re.compile(
    r"^-- Name: (?P<name>.*); Type: (?P<type>[A-Z ]+); Schema: (?P<schema>.*); Owner: .*$", re.MULTILINE
)
_KINDS = {
    "ACL": "privileges",
    "CHECK CONSTRAINT": "constraint",
    "DEFAULT ACL": "default privileges",
    "FK CONSTRAINT": "constraint",
    "INDEX ATTACH": "index of a partition",
    "PUBLICATION TABLE": "table of a publication",
    "ROW SECURITY": "row-level security",
    "SEQUENCE OWNED BY": "owner of a sequence",
    "TABLE ATTACH": "partition",
}
"""The kinds that are not named as pg_dump names them."""
_OF_TABLE = ("CONSTRAINT", "FK CONSTRAINT", "CHECK CONSTRAINT", "TRIGGER", "POLICY", "RULE", "DEFAULT")
"""The types whose name in pg_dump's comment begins with the name of a table."""
_RELATIONS = ("TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW")
_HAS_COLUMNS = ("TABLE", "FOREIGN TABLE")
_CREATED = re.compile(
    rf"CREATE (?:(?:OR REPLACE|UNIQUE|UNLOGGED|FOREIGN|MATERIALIZED|RECURSIVE|TEXT SEARCH|EVENT) )*[A-Z]+ "
    rf"(?:IF NOT EXISTS )?(?P<name>{NAME}(?:\.{NAME})?)"
)
_INDEXED = re.compile(rf"CREATE (?:UNIQUE )?INDEX {NAME} ON (?:ONLY )?(?P<table>{NAME}(?:\.{NAME})?)")
_SEQUENCE_OF = re.compile(
    rf"ALTER TABLE (?:ONLY )?(?P<identity>{NAME}(?:\.{NAME})?) ALTER COLUMN"
    rf"|ALTER SEQUENCE {NAME}(?:\.{NAME})? OWNED BY (?P<owner>{NAME}\.{NAME})\."
)
_COLUMN_OPTION = re.compile(rf"ALTER (?:FOREIGN )?TABLE (?:ONLY )?{NAME}(?:\.{NAME})? ALTER COLUMN (?P<column>{NAME}) ")
_OTHER_METHOD = re.compile(r"SET default_table_access_method = (?P<method>.*)")
_UNORDERED = ("ACL", "DEFAULT ACL")
"""The types whose statements pg_dump writes in the order in which the privileges were granted."""


@dataclass(frozen=True, slots=True)
class SchemaObject:
    """An object of a schema: its kind, such as "index", and its name, such as "public.users.email" for a column.

    `relation` is the table or view that the object belongs to or is, and otherwise the object's own name. Names are
    unquoted. `statements` are SQL, in pg_dump's order. Those of a table define its columns too, which are also objects
    of their own: `without_columns` is what else the statements say, and `columns` are the names in their order.
    """

    kind: str
    name: str
    relation: str
    statements: tuple[str, ...]
    without_columns: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.name

    @property
    def sql(self) -> str:
        return "\n".join(f"{statement};" for statement in self.statements)


@dataclass(slots=True)
class _Entry:
    """One of pg_dump's comments, and the statements below it."""

    type: str
    name: str
    schema: str
    statements: list[str] = field(default_factory=list)

    @property
    def qualified(self) -> str:
        return self.name if self.schema == "-" else f"{self.schema}.{self.name}"


def read_objects(
    dump: bytes, ignored: re.Pattern[str] = dump_text.AUTOMATIC_NAME
) -> dict[tuple[str, str], SchemaObject]:
    """The objects of a dump, in its order, by kind and name.

    `ignored` matches the names of NOT NULL constraints that are no difference (`dump_text`). Objects of the same kind
    and name, such as the default privileges of several roles, are one.
    """
    entries = list(_entries(dump))
    relations = {entry.qualified for entry in entries if entry.type in _RELATIONS}
    objects: dict[tuple[str, str], SchemaObject] = {}
    for entry in entries:
        for each in _objects_of(entry, relations, ignored):
            before = objects.get(each.key)
            objects[each.key] = replace(each, statements=before.statements + each.statements) if before else each
    return objects


def _entries(dump: bytes) -> Iterator[_Entry]:
    """The comments of a dump with their statements, without settings of the session."""
    text = dump_text.without_meta_commands(dump)
    entry, end, method = _Entry("", "", "-"), 0, "heap"
    for statement in split_statements(text, rows=False):
        for header in _HEADER.finditer(text[end : statement.start].decode()):
            if entry.statements:
                yield entry
            entry = _Entry(header["type"], header["name"], header["schema"])
        end = statement.end
        sql = dump_text.without_private_option(text[statement.start : end]).decode()
        if match := _OTHER_METHOD.fullmatch(sql):
            method = match["method"]
        elif not dump_text.is_session_statement(statement) and not sql.endswith(" SET ()"):
            stored = method != "heap" and entry.type in ("TABLE", "MATERIALIZED VIEW") and sql.startswith("CREATE ")
            entry.statements.append(f"{sql}\nUSING {method}" if stored else sql)
    if entry.statements:
        yield entry


def _objects_of(entry: _Entry, relations: set[str], ignored: re.Pattern[str]) -> Iterator[SchemaObject]:
    statements = tuple(sorted(entry.statements) if entry.type in _UNORDERED else entry.statements)
    if entry.type in _HAS_COLUMNS:
        yield from _table_objects(entry, statements, ignored)
    elif entry.type == "INDEX":
        yield from _index_objects(entry, statements)
    else:
        if entry.type == "DOMAIN":
            statements = (ignored.sub("", statements[0]), *statements[1:])
        name, relation = _name_of(entry, relations)
        yield SchemaObject(_KINDS.get(entry.type, entry.type.lower()), name, relation, statements)


def _table_objects(entry: _Entry, statements: tuple[str, ...], ignored: re.Pattern[str]) -> Iterator[SchemaObject]:
    """The table without its columns, and the columns and constraints that CREATE TABLE defines."""
    table = entry.qualified
    create, *others = (ignored.sub("", statements[0]), *statements[1:])
    head, parts = split_table(create)
    options: dict[str, list[str]] = {}
    rest = [head]
    for statement in others:
        match = _COLUMN_OPTION.match(statement)
        (options.setdefault(unquote(match["column"]), []) if match else rest).append(statement)
    columns = tuple(part.name for part in parts if not part.is_constraint)
    yield SchemaObject(entry.type.lower(), table, table, (create, *others), tuple(rest), columns)
    for part in parts:
        kind = "constraint" if part.is_constraint else "column"
        more = () if part.is_constraint else options.get(part.name, ())
        yield SchemaObject(kind, f"{table}.{part.name}", table, (part.sql, *more))


def _index_objects(entry: _Entry, statements: tuple[str, ...]) -> Iterator[SchemaObject]:
    match = _INDEXED.match(statements[0])
    table = unquote_qualified(match["table"]) if match else entry.qualified
    yield SchemaObject("index", entry.qualified, table, statements)


def _name_of(entry: _Entry, relations: set[str]) -> tuple[str, str]:
    """The name of an object and of its relation."""
    if entry.type in _OF_TABLE:
        prefix = f"{entry.schema}."
        words = entry.name.split(" ")
        for length in range(len(words) - 1, 0, -1):  # the table's name may contain spaces
            table = prefix + " ".join(words[:length])
            if table in relations:
                return f"{table}.{' '.join(words[length:])}", table
    if entry.type.startswith("SEQUENCE") and (match := _SEQUENCE_OF.match(entry.statements[0])):
        return entry.qualified, unquote_qualified(match["identity"] or match["owner"])
    if entry.type in ("ACL", "COMMENT", "SECURITY LABEL"):
        return _name_of_note(entry)
    return entry.qualified, entry.qualified


def _name_of_note(entry: _Entry) -> tuple[str, str]:
    """The name of privileges or of a comment, which begins with the kind of the object that they are about."""
    kind, _, rest = entry.name.partition(" ")
    while rest.partition(" ")[0] in ("VIEW", "TABLE", "TRIGGER", "WRAPPER", "DATA", "SEARCH"):
        word, _, rest = rest.partition(" ")
        kind = f"{kind} {word}"
    schema = "" if entry.schema == "-" else f"{entry.schema}."
    if match := re.fullmatch(rf"(?P<name>.*) ON (?P<table>{NAME}(?:\.{NAME})?)", rest):
        table = schema + unquote(match["table"])
        return f"{kind.lower()} {table}.{unquote(match['name'])}", table
    if kind == "COLUMN" and (match := re.fullmatch(rf"(?P<table>{NAME})\.(?P<column>.*)", rest)):
        table = schema + unquote(match["table"])
        return f"column {table}.{unquote(match['column'])}", table
    name = schema + unquote(rest)
    return f"{kind.lower()} {name}", name


def created_name(statement: str) -> str:
    """The name of the object that a CREATE statement creates, as SQL; empty for another statement."""
    match = _CREATED.match(statement)
    return match["name"] if match else ""


def unquote_qualified(name: str) -> str:
    """The name, with its schema, that a qualified SQL identifier stands for."""
    return ".".join(unquote(part) for part in re.findall(NAME, name))
