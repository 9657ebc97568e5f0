"""Classifies statements: transaction control, COPY, statements that cannot run in a transaction, and their objects."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pgratchet.migrations.lexer import _SAID_BY_FIRST_WORD, Statement, _copies, _Scanner, copies_from_client


def is_harmless(statement: Statement) -> bool:
    """Whether the first word alone says that the statement is none of those below; almost all are."""
    return statement.head[0] in _SAID_BY_FIRST_WORD


def transaction_control(statement: Statement) -> str | None:
    """The words of a statement that begins, ends or sets up a transaction, else None. Savepoints do none of it."""
    head = statement.head
    first = head[0]
    if first in ("BEGIN", "COMMIT", "END", "ABORT"):
        return "COMMIT PREPARED" if head[:2] == ("COMMIT", "PREPARED") else first
    if first == "ROLLBACK":
        to_savepoint = "TO" in head[1:3]
        return None if to_savepoint else first
    if head[:2] in (("START", "TRANSACTION"), ("PREPARE", "TRANSACTION"), ("SET", "TRANSACTION")):
        return " ".join(head[:2])
    return None


def unsettles_strings(statement: Statement) -> bool:
    """Whether a statement lets backslashes escape in plain strings, which this lexer then reads otherwise."""
    head = tuple(word for word in statement.head if word not in ("SESSION", "LOCAL"))
    return head[:2] == ("SET", "STANDARD_CONFORMING_STRINGS") and head[3:4] not in (("ON",), ("TRUE",), ("DEFAULT",))


def copies_to_client(statement: Statement) -> bool:
    """Whether the statement is a COPY whose rows go to the client."""
    return _copies(statement, "TO")


def only_adds(text: bytes, statement: Statement) -> bool:
    """Whether a statement takes away or changes nothing that is there already, as far as its words tell.

    Only what is known to be harmless counts; whatever runs code of its own (DO, CALL, SELECT) does not.
    """
    head = tuple(word for word in statement.head if word not in ("UNIQUE", "GLOBAL", "LOCAL", "TEMP", "UNLOGGED"))
    if head[0] == "CREATE" and "REPLACE" not in head[:3]:
        return head[1] in _ADDED
    if head[:2] == ("ALTER", "TABLE") or head[0] == "INSERT":
        words = _tokens(text, statement)
        return _TAKES_AWAY.isdisjoint(words) and (head[0] == "INSERT" or "ADD" in words)
    if head[:2] == ("ALTER", "TYPE"):
        return "ADD" in head and "VALUE" in head
    return copies_from_client(statement) or head[0] in _HARMLESS


_ADDED = (
    *("TABLE", "INDEX", "SCHEMA", "TYPE", "DOMAIN", "SEQUENCE", "VIEW", "MATERIALIZED", "EXTENSION", "FUNCTION"),
    *("PROCEDURE", "AGGREGATE", "OPERATOR", "COLLATION", "STATISTICS", "ROLE", "POLICY", "CAST", "DATABASE"),
)


_HARMLESS = ("COMMENT", "GRANT", "ANALYZE", "VACUUM", "SET", "RESET", "SAVEPOINT", "RELEASE")


_TAKES_AWAY = frozenset(("DROP", "DELETE", "UPDATE", "TRUNCATE", "RENAME", "TYPE", "SET", "DETACH", "DISABLE", "MERGE"))


def _tokens(text: bytes, statement: Statement) -> frozenset[str]:
    """All that a statement's head would hold, were it as long as the statement."""
    piece = text[statement.start : statement.end]
    found = _Scanner(piece, rows=False, tokens=len(piece)).statement()
    return frozenset(found.head if found else ())


def outside_transaction(statement: Statement) -> str | None:
    """The words of a statement that PostgreSQL refuses inside a transaction block (25001), else None.

    From the list measured on 15, 16 and 18, and the source where the run needs a subscription or a partition.
    What depends on the object rather than on the words (CLUSTER of a partitioned table, ALTER SUBSCRIPTION
    with a refresh) is left to the server.
    """
    head = statement.head
    command = " ".join(word for word in head[:3] if word not in ("UNIQUE", "(", "'"))
    for forbidden in _OUTSIDE:
        if command == forbidden or command.startswith(forbidden + " "):
            return forbidden
    if head[:2] == ("ALTER", "DATABASE") and "TABLESPACE" in head:
        return "ALTER DATABASE ... SET TABLESPACE"
    if "CONCURRENTLY" in head and (concurrent := _concurrent(head)):
        return f"{concurrent} CONCURRENTLY"
    if head[0] == "REINDEX" and any(word in ("SCHEMA", "DATABASE", "SYSTEM") for word in _behind_options(head)[:1]):
        return f"REINDEX {_behind_options(head)[0]}"
    if head == ("CLUSTER",) or head == ("CLUSTER", "VERBOSE"):
        return "CLUSTER"
    return None


_OUTSIDE = (
    "VACUUM",
    "CREATE DATABASE",
    "DROP DATABASE",
    "CREATE TABLESPACE",
    "DROP TABLESPACE",
    "ALTER SYSTEM",
    "DISCARD ALL",
)


def _concurrent(head: tuple[str, ...]) -> str | None:
    """The command whose keyword CONCURRENTLY is: on an index, REINDEX, ALTER TABLE ... DETACH PARTITION."""
    kind = head[2:3] if head[1:2] == ("UNIQUE",) else head[1:2]
    if head[0] in ("CREATE", "DROP") and kind == ("INDEX",):
        return f"{head[0]} INDEX"
    if head[0] == "REINDEX":
        return "REINDEX"
    return "DETACH PARTITION" if head[:2] == ("ALTER", "TABLE") and "DETACH" in head else None


def _behind_options(head: tuple[str, ...]) -> tuple[str, ...]:
    """The words of REINDEX behind its options in parentheses."""
    return head[head.index(")") + 1 :] if ")" in head[1:] else head[1:]


@dataclass(frozen=True, slots=True)
class Effect:
    """What a statement that cannot share a transaction makes or takes away, which the catalog then shows.

    Names are in parts, folded as the server does; a subscription's or a database's has one. `table` is an index's,
    or the parent that a partition is detached from; a DROP INDEX names none.
    """

    kind: Literal["index", "database", "tablespace", "subscription", "partition"]
    creates: bool
    name: tuple[str, ...]
    table: tuple[str, ...] = ()


def effect(text: bytes, statement: Statement) -> Effect | None:
    """What a statement of `text` makes or takes away; None where that is nothing which the catalog could show."""
    head = tuple(word for word in statement.head if word != "UNIQUE")
    concurrently = _concurrent(statement.head) if "CONCURRENTLY" in head else None
    if concurrently == "DETACH PARTITION":
        return _detached(list(_names(text, statement)))
    if concurrently in ("CREATE INDEX", "DROP INDEX"):
        return _index(list(_names(text, statement)), creates=head[0] == "CREATE")
    for kind in _OBJECTS:
        if head[0] in ("CREATE", "DROP") and head[1:2] == (kind.upper(),):
            tokens = list(_names(text, statement))
            return Effect(kind, head[0] == "CREATE", (tokens[_behind_if_exists(tokens, 2)].text,))
    return None


_OBJECTS: tuple[Literal["database", "tablespace", "subscription"], ...] = ("database", "tablespace", "subscription")


def _index(tokens: list[_Name], *, creates: bool) -> Effect:
    at = _behind_if_exists(tokens, tokens.index(_word("concurrently")) + 1)
    name, at = _dotted(tokens, at)
    if not creates:
        return Effect("index", False, name)
    at += 2 if tokens[at + 1] == _word("only") else 1
    return Effect("index", True, name, _dotted(tokens, at)[0])


def _detached(tokens: list[_Name]) -> Effect:
    at = _behind_if_exists(tokens, 2)
    table, at = _dotted(tokens, at + 1 if tokens[at] == _word("only") else at)
    return Effect("partition", False, _dotted(tokens, tokens.index(_word("partition"), at) + 1)[0], table)


def reindexed(text: bytes, statement: Statement) -> tuple[str, tuple[str, ...]] | None:
    """What a REINDEX ... CONCURRENTLY is of: INDEX, TABLE, SCHEMA, DATABASE or SYSTEM, and its name, if it has one."""
    if outside_transaction(statement) != "REINDEX CONCURRENTLY":
        return None
    kind = _behind_options(statement.head)[0]
    tokens = list(_names(text, statement))
    at = tokens.index(_word(kind.lower())) + 1
    at += tokens[at : at + 1] == [_word("concurrently")]  # which may stand among the options instead
    return kind, _dotted(tokens, at)[0] if at < len(tokens) else ()


def _behind_if_exists(tokens: list[_Name], at: int) -> int:
    while tokens[at] in (_word("if"), _word("not"), _word("exists")):
        at += 1
    return at


def _word(text: str) -> _Name:
    return _Name(text, quoted=False)


@dataclass(frozen=True, slots=True)
class _Name:
    text: str
    quoted: bool


_NAMES = re.compile(r"""--[^\n\r]*|"(?P<quoted>(?:[^"]|"")*)"|(?P<word>[^\W0-9][\w$]*)|(?P<dot>\.)|(?P<other>[^\s])""")


def _names(text: bytes, statement: Statement) -> Iterator[_Name]:
    """The names, dots and first other symbols of a statement; enough of it to know what it names."""
    for match in _NAMES.finditer(_BLOCK_COMMENT.sub(b" ", text[statement.start : statement.end]).decode()):
        if match["quoted"] is not None:
            yield _Name(match["quoted"].replace('""', '"'), quoted=True)
        elif match["word"]:
            yield _Name(match["word"].lower(), quoted=False)
        elif match["dot"] or match["other"]:
            yield _Name(match["dot"] or match["other"], quoted=False)


_BLOCK_COMMENT = re.compile(rb"/\*.*?\*/", re.DOTALL)


def _dotted(tokens: list[_Name], at: int) -> tuple[tuple[str, ...], int]:
    parts = [tokens[at].text]
    while at + 2 < len(tokens) and tokens[at + 1] == _Name(".", quoted=False):
        at += 2
        parts.append(tokens[at].text)
    return tuple(parts), at + 1
