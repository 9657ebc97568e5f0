"""Classifies statements by their first tokens: transaction control, COPY, commands refused in a transaction."""

from __future__ import annotations

import re

from pgratchet.migrations.statement import Statement

HARMLESS_FIRST_WORDS = frozenset(("INSERT", "UPDATE", "DELETE", "SELECT", "VALUES", "WITH", "COMMENT"))
"""First words of statements that make files large, and that no refused statement begins with."""

_ENCODING = re.compile(rb"\bfrom\s+std(?:in|out)\b.*\bencoding\s*'([^']*)'", re.IGNORECASE | re.DOTALL)
_OUTSIDE = (
    "VACUUM",
    "CREATE DATABASE",
    "DROP DATABASE",
    "CREATE TABLESPACE",
    "DROP TABLESPACE",
    "ALTER SYSTEM",
    "DISCARD ALL",
)


def is_harmless(statement: Statement) -> bool:
    """Return whether no other function here can apply, by the first word; true for most statements."""
    return statement.head[0] in HARMLESS_FIRST_WORDS


def transaction_control(statement: Statement) -> str | None:
    """Return the command if it begins, ends or sets up a transaction; None for others, savepoints included."""
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


def turns_off_standard_strings(statement: Statement) -> bool:
    """Return whether the statement turns standard_conforming_strings off, which the lexer does not follow."""
    head = tuple(word for word in statement.head if word not in ("SESSION", "LOCAL"))
    return head[:2] == ("SET", "STANDARD_CONFORMING_STRINGS") and head[3:4] not in (("ON",), ("TRUE",), ("DEFAULT",))


def copies_from_client(statement: Statement) -> bool:
    """Return whether the statement is a COPY whose rows come from the client."""
    return _is_client_copy(statement, "FROM")


def copies_to_client(statement: Statement) -> bool:
    """Return whether the statement is a COPY whose rows go to the client."""
    return _is_client_copy(statement, "TO")


def reads_other_encoding(text: bytes, statement: Statement) -> bool:
    """Return whether a COPY from the client reads its rows, which are UTF-8, in another encoding."""
    option = _ENCODING.search(text, statement.start, statement.end)
    return option is not None and option[1].lower() not in (b"utf8", b"utf-8", b"unicode")


def _is_client_copy(statement: Statement, direction: str) -> bool:
    if statement.head[0] != "COPY":
        return False
    depth = 0
    for token, following in zip(statement.head, statement.head[1:], strict=False):
        depth += {"(": 1, ")": -1}.get(token, 0)
        if depth == 0 and token == direction:
            return following in ("STDIN", "STDOUT")  # the server accepts either word for either direction
    return False


def outside_transaction(statement: Statement) -> str | None:
    """Return the command if PostgreSQL refuses it inside a transaction block (SQLSTATE 25001); None for others.

    The server calls PreventInTransactionBlock (src/backend/access/transam/xact.c) for these commands. Where the object
    and not the words decides (CLUSTER of a partitioned table, ALTER SUBSCRIPTION with a refresh), the server decides.
    """
    head = statement.head
    command = " ".join(word for word in head[:3] if word not in ("UNIQUE", "(", "'"))
    for forbidden in _OUTSIDE:
        if command == forbidden or command.startswith(forbidden + " "):
            return forbidden
    if head[:2] == ("ALTER", "DATABASE") and "TABLESPACE" in head:
        return "ALTER DATABASE ... SET TABLESPACE"
    if concurrent := concurrent_command(statement):
        return f"{concurrent} CONCURRENTLY"
    if head[0] == "REINDEX" and words_after_options(head)[:1] in (("SCHEMA",), ("DATABASE",), ("SYSTEM",)):
        return f"REINDEX {words_after_options(head)[0]}"
    if head[0] == "CLUSTER" and words_after_options(head) in ((), ("VERBOSE",)):
        return "CLUSTER"
    return None


def concurrent_command(statement: Statement) -> str | None:
    """Return the command of a statement with the keyword CONCURRENTLY, without that keyword; None for others."""
    head = statement.head
    if "CONCURRENTLY" not in head or _is_turned_off(head):
        return None
    kind = head[2:3] if head[1:2] == ("UNIQUE",) else head[1:2]
    if head[0] in ("CREATE", "DROP") and kind == ("INDEX",):
        return f"{head[0]} INDEX"
    if head[0] == "REINDEX":
        return "REINDEX"
    return "DETACH PARTITION" if head[:2] == ("ALTER", "TABLE") and "DETACH" in head else None


def _is_turned_off(head: tuple[str, ...]) -> bool:
    """Return whether the options of a REINDEX turn CONCURRENTLY off. The value of a quoted word is not known here."""
    if head[:2] != ("REINDEX", "("):
        return False
    value = head[head.index("CONCURRENTLY") + 1 :]
    return value[:1] in (("FALSE",), ("OFF",), ("0",), ("'",), ('"',))


def words_after_options(head: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words of REINDEX or CLUSTER behind the options in parentheses."""
    return head[head.index(")") + 1 :] if head[1:2] == ("(",) and ")" in head else head[1:]


_CLUSTER_KINDS = ("ROLE", "USER", "GROUP", "TABLESPACE", "DATABASE", "SUBSCRIPTION", "SYSTEM")


def changes_cluster(statement: Statement) -> bool:
    """Return whether a statement changes more than its database: roles, tablespaces, databases, the server's settings.

    No dump of a database has these (https://www.postgresql.org/docs/current/app-pgdump.html).
    """
    head = statement.head
    is_change = head[0] in ("CREATE", "ALTER", "DROP") and head[1:2] and head[1] in _CLUSTER_KINDS
    return bool(is_change) and head[1:3] != ("USER", "MAPPING")
