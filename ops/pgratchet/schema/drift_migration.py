"""Writes SQL that makes the changes of a live database in the databases that lack them.

The database that has the changes runs the same file, so each statement does nothing there: by IF [NOT] EXISTS, by OR
REPLACE, or because the server's message about a duplicate is caught. Other changes are left to a person.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from pgratchet.migrations.lexer import split_statements
from pgratchet.schema.differences import Difference
from pgratchet.schema.dump_text import NAME
from pgratchet.schema.objects import created_name

_IF_MISSING = re.compile(
    r"(CREATE (?:UNIQUE |UNLOGGED |FOREIGN |MATERIALIZED )*(?:TABLE|INDEX|SCHEMA|SEQUENCE|STATISTICS|VIEW)) (?!IF NOT)"
)
_OR_REPLACE = re.compile(r"CREATE (FUNCTION|PROCEDURE|VIEW|TRIGGER|RULE) ")
_FIRST_NAME = re.compile(
    rf"(?:CREATE (?:CONSTRAINT )?(?:TRIGGER|POLICY|RULE)|.*?\bCONSTRAINT) (?P<name>{NAME})", re.DOTALL
)
_CONSTRAINT = re.compile(
    rf"ALTER TABLE (?:ONLY )?(?P<table>{NAME}\.{NAME})\s+ADD CONSTRAINT (?P<name>{NAME}) (?P<definition>.*)",
    re.DOTALL,
)
_SIGNATURE = re.compile(rf"CREATE (?P<kind>FUNCTION|PROCEDURE|AGGREGATE) (?P<name>{NAME}\.{NAME})")
_GRANT = re.compile(r"(?P<head>.*?)\bGRANT (?P<what>.*) TO (?P<role>\S+)(?: WITH GRANT OPTION)?", re.DOTALL)
_REVOKE = re.compile(r"(?P<head>.*?)\bREVOKE (?P<what>.*) FROM (?P<role>\S+)", re.DOTALL)
_COMMENT = re.compile(r"(COMMENT ON .*? IS) (?:E?'.*')", re.DOTALL)
_ENUM = re.compile(r"CREATE TYPE (?P<name>.*?) AS ENUM \((?P<values>.*)\)", re.DOTALL)
_LABEL = re.compile(r"'(?:[^']|'')*'")
_COLUMN = re.compile(rf"(?P<name>{NAME}) (?P<type>.*?)(?P<default> DEFAULT .*?)?(?P<required> NOT NULL)?", re.DOTALL)
_DROPPABLE = {
    **{kind: kind.upper() for kind in ("table", "index", "view", "materialized view", "sequence", "type", "domain")},
    **{kind: kind.upper() for kind in ("schema", "extension", "foreign table", "statistics", "collation", "server")},
}
_REPEATABLE = ("GRANT ", "REVOKE ", "COMMENT ", "ALTER DEFAULT ", "ALTER EXTENSION ", "CREATE EXTENSION IF NOT EXISTS ")
_PARTITION = "partition"
_ATTACHED = re.compile(rf"ALTER TABLE ONLY (?P<parent>\S.*?) ATTACH PARTITION (?P<child>{NAME}\.{NAME}) .*", re.DOTALL)
_OF_TABLE = ("trigger", "policy", "rule")
_CAUGHT = """\
DO $pgratchet$
BEGIN
    {};
EXCEPTION
    WHEN duplicate_object OR duplicate_table OR duplicate_function OR unique_violation THEN NULL;
END
$pgratchet$;"""


def write_statements(differences: Sequence[Difference]) -> tuple[list[str], list[Difference]]:
    """SQL that makes the changes, and the differences that a person has to write.

    What is to be dropped comes first, in the order opposite to that of its creation.
    """
    chosen = [each for each in differences if not _goes_with_object(each, differences)]
    missing = [each for each in chosen if each.change == "missing"]
    missing.sort(key=lambda each: each.kind == _PARTITION)  # last, so first of the reversed ones
    others = sorted(
        (each for each in chosen if each.change != "missing"), key=lambda each: not _only_attaches(each, chosen)
    )
    sql: list[str] = []
    by_hand: list[Difference] = []
    for difference in (*reversed(missing), *others):
        statements = list(_WRITERS[difference.change](difference))
        sql += statements
        if not statements:
            by_hand.append(difference)
    return sql, by_hand


def _only_attaches(one: Difference, differences: Sequence[Difference]) -> bool:
    """Return whether an existing table becomes a partition: before its parent gets columns, which it then gets too."""
    is_new = any(each.kind == "table" and each.name == one.name for each in differences)
    return one.kind == _PARTITION and one.change == "added" and not is_new


def _goes_with_object(one: Difference, differences: Sequence[Difference]) -> bool:
    """Return whether something that is missing, such as a comment, is dropped together with its object."""
    if one.change != "missing" or one.kind not in ("comment", "privileges", "extension version"):
        return False
    name = f"extension {one.name}" if one.kind == "extension version" else one.name
    return any(each.change == "missing" and f"{each.kind} {each.name}" == name for each in differences)


def _split(sql: str) -> list[str]:
    text = sql.encode()
    return [text[each.start : each.end].decode() for each in split_statements(text, rows=False)]


def _added(difference: Difference) -> Iterator[str]:
    if difference.kind == "index":
        yield from (_guarded(_with_partitions(statement)) for statement in _split(difference.actual))
        return
    if difference.kind == "column":
        column, *options = _split(difference.actual)
        yield f"ALTER TABLE {difference.table} ADD COLUMN IF NOT EXISTS {column};"
        yield from (f"{option};" for option in options)
        return
    if difference.kind == "constraint" and difference.actual.startswith("CONSTRAINT "):
        match = _FIRST_NAME.match(difference.actual)
        name, definition = (match["name"], difference.actual[match.end() :].strip(" ;")) if match else ("", "")
        yield _constraint(difference.table, name, definition, replaces=False)
        return
    yield from (_guarded(statement) for statement in _split(difference.actual))


def _with_partitions(statement: str) -> str:
    """CREATE INDEX with the indexes of all partitions, which are no differences of their own."""
    return statement.replace(" ON ONLY ", " ON ", 1)


def _guarded(statement: str) -> str:
    """A statement that does nothing where its object exists."""
    if _IF_MISSING.match(statement) and not statement.startswith("CREATE VIEW"):
        return _IF_MISSING.sub(r"\1 IF NOT EXISTS ", statement, count=1) + ";"
    if _OR_REPLACE.match(statement):
        return _OR_REPLACE.sub(r"CREATE OR REPLACE \1 ", statement, count=1) + ";"
    if statement.startswith(
        ("GRANT ", "REVOKE ", "COMMENT ", "ALTER DEFAULT ", "ALTER EXTENSION ", "CREATE EXTENSION IF NOT ")
    ):
        return f"{statement};"
    if " ENABLE ROW LEVEL SECURITY" in statement or " OWNED BY " in statement:
        return f"{statement};"
    if match := _ATTACHED.fullmatch(statement):
        return _unless_attached(match["child"], statement, "NOT ")
    if match := _CONSTRAINT.match(statement):
        return _constraint(match["table"], match["name"], match["definition"], replaces=False)
    return _CAUGHT.format(statement)


def _unless_attached(child: str, statement: str, negation: str) -> str:
    condition = f"{negation}EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass({_literal(child)}))"
    return f"DO $pgratchet$\nBEGIN\n    IF {condition} THEN\n        {statement};\n    END IF;\nEND\n$pgratchet$;"


def _missing(difference: Difference) -> Iterator[str]:
    first = _split(difference.expected)[0]
    kind = difference.kind
    if kind in ("privileges", "default privileges"):
        yield from filter(None, map(_revoked, _split(difference.expected)))
    elif kind == "row-level security":
        yield first.replace(" ENABLE ", " DISABLE ") + ";"
    elif match := _ATTACHED.fullmatch(first):
        statement = f"ALTER TABLE {match['parent']} DETACH PARTITION {match['child']}"
        yield _unless_attached(match["child"], statement, "")
    elif kind == "comment" and (match := _COMMENT.match(first)):
        yield f"{match[1]} NULL;"
    elif difference.table and kind not in _DROPPABLE:
        yield from _dropped_from_table(difference.table, kind, first)
    elif kind in ("function", "procedure", "aggregate") and (match := _SIGNATURE.match(first)):
        arguments = difference.name[difference.name.index("(") :]
        yield f"DROP {match['kind']} IF EXISTS {match['name']}{arguments};"
    elif kind in _DROPPABLE and (name := _qualified_name(difference, first)):
        yield f"DROP {_DROPPABLE[kind]} IF EXISTS {name};"


def _dropped_from_table(table: str, kind: str, first: str) -> Iterator[str]:
    if kind == "column" and (match := re.match(NAME, first)):
        yield f"ALTER TABLE {table} DROP COLUMN IF EXISTS {match[0]};"
    elif kind == "constraint" and (match := _FIRST_NAME.match(first)):
        yield f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {match['name']};"
    elif kind in _OF_TABLE and (match := _FIRST_NAME.match(first)):
        yield f"DROP {kind.upper()} IF EXISTS {match['name']} ON {table};"


def _qualified_name(difference: Difference, create: str) -> str:
    """The name of what a statement creates. CREATE INDEX has no schema: an index is in that of its table."""
    name = created_name(create)
    return f"{difference.table.rpartition('.')[0]}.{name}" if name and difference.kind == "index" else name


def _revoked(statement: str) -> str:
    """The opposite of GRANT or REVOKE."""
    if match := _GRANT.fullmatch(statement):
        return f"{match['head']}REVOKE {match['what']} FROM {match['role']};"
    if match := _REVOKE.fullmatch(statement):
        return f"{match['head']}GRANT {match['what']} TO {match['role']};"
    return ""


def _changed(difference: Difference) -> Iterator[str]:
    before, after = _split(difference.expected), _split(difference.actual)
    kind = difference.kind
    if kind in ("privileges", "default privileges"):
        yield from filter(None, (_revoked(each) for each in before if each not in after))
        yield from (f"{each};" for each in after if each not in before)
    elif kind in ("function", "procedure", "view", "trigger", "rule", "comment"):
        yield from (_guarded(statement) for statement in after)
    elif kind == "policy":
        yield from _missing(difference)
        yield from (f"{statement};" for statement in after)
    elif kind == "index":
        yield from _rebuilt_index(difference, after)
    elif kind == "constraint":
        yield from _replaced_constraint(difference, after)
    elif kind == "type":
        yield from _more_labels(before[0], after[0])
    elif kind == "column":
        yield from _altered_column(difference.table, before, after)


def _rebuilt_index(difference: Difference, after: Sequence[str]) -> Iterator[str]:
    """An index is built again only where its definition is another one."""
    name = _qualified_name(difference, after[0])
    current = f"pg_get_indexdef(to_regclass({_literal(name)}))"
    yield (
        f"DO $pgratchet$\nBEGIN\n    IF {current} IS DISTINCT FROM {_literal(after[0])} THEN\n"
        f"        DROP INDEX IF EXISTS {name};\n        {_with_partitions(after[0])};\n    END IF;\nEND\n$pgratchet$;"
    )


def _replaced_constraint(difference: Difference, after: Sequence[str]) -> Iterator[str]:
    if match := _FIRST_NAME.match(after[0]):
        yield _constraint(difference.table, match["name"], after[0][match.end() :].strip(), replaces=True)


def _constraint(table: str, name: str, definition: str, *, replaces: bool) -> str:
    """Add a constraint where the table has none of that name, or with `replaces` none of that definition."""
    same = f"\n            AND pg_get_constraintdef(oid) = {_literal(definition)}" if replaces else ""
    drop = f"        ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name};\n" if replaces else ""
    return (
        "DO $pgratchet$\nBEGIN\n    IF NOT EXISTS (\n        SELECT FROM pg_constraint\n"
        f"        WHERE conrelid = to_regclass({_literal(table)}) AND quote_ident(conname) = {_literal(name)}{same}\n"
        f"    ) THEN\n{drop}        ALTER TABLE {table} ADD CONSTRAINT {name} {definition};\n"
        "    END IF;\nEND\n$pgratchet$;"
    )


def _more_labels(before: str, after: str) -> Iterator[str]:
    """New labels of an enum; nothing where labels were removed or reordered, which a server cannot do."""
    old, new = _ENUM.fullmatch(before), _ENUM.fullmatch(after)
    if not old or not new:
        return
    labels, known = _LABEL.findall(new["values"]), _LABEL.findall(old["values"])
    if [label for label in labels if label in known] != known:
        return
    for index, label in enumerate(labels):
        if label not in known:
            place = f" AFTER {labels[index - 1]}" if index else f" BEFORE {known[0]}" if known else ""
            yield f"ALTER TYPE {new['name']} ADD VALUE IF NOT EXISTS {label}{place};"


def _altered_column(table: str, before: Sequence[str], after: Sequence[str]) -> Iterator[str]:
    """A change of a column's type, default or NOT NULL; nothing for a generated column or an option."""
    old, new = _COLUMN.fullmatch(before[0]), _COLUMN.fullmatch(after[0])
    if len(before) > 1 or len(after) > 1 or not old or not new or "GENERATED" in before[0] + after[0]:
        return
    column = f"ALTER TABLE {table} ALTER COLUMN {new['name']}"
    if old["type"] != new["type"]:
        yield f"{column} TYPE {new['type']};"
    if old["default"] != new["default"]:
        yield f"{column} SET{new['default']};" if new["default"] else f"{column} DROP DEFAULT;"
    if old["required"] != new["required"]:
        yield f"{column} {'SET' if new['required'] else 'DROP'} NOT NULL;"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


_WRITERS: dict[str, Callable[[Difference], Iterator[str]]] = {
    "added": _added,
    "missing": _missing,
    "changed": _changed,
}
