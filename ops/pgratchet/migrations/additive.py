"""Recognizes additive statements, before which the policy when-destructive takes no backup."""

from __future__ import annotations

from pgratchet.migrations.classify import copies_from_client
from pgratchet.migrations.lexer import all_tokens
from pgratchet.migrations.statement import Statement

_CREATED = (
    *("TABLE", "INDEX", "SCHEMA", "TYPE", "DOMAIN", "SEQUENCE", "VIEW", "MATERIALIZED", "EXTENSION", "FUNCTION"),
    *("PROCEDURE", "AGGREGATE", "OPERATOR", "COLLATION", "STATISTICS", "ROLE", "POLICY", "CAST", "DATABASE"),
)
_HARMLESS = ("COMMENT", "GRANT", "ANALYZE", "VACUUM", "SET", "RESET", "SAVEPOINT", "RELEASE")
_DESTRUCTIVE = frozenset(
    ("DROP", "DELETE", "UPDATE", "TRUNCATE", "RENAME", "TYPE", "SET", "DETACH", "DISABLE", "MERGE")
)


def is_additive(text: bytes, statement: Statement) -> bool:
    """Return whether a statement of `text`, by its words, changes and removes no existing object or row.

    Statements with code of their own (DO, CALL, SELECT) and unknown statements do not count as additive.
    """
    head = tuple(word for word in statement.head if word not in ("UNIQUE", "GLOBAL", "LOCAL", "TEMP", "UNLOGGED"))
    if head[0] == "CREATE" and "REPLACE" not in head[:3]:
        return head[1] in _CREATED
    if head[:2] == ("ALTER", "TABLE") or head[0] == "INSERT":
        words = all_tokens(text, statement)
        return _DESTRUCTIVE.isdisjoint(words) and (head[0] == "INSERT" or "ADD" in words)
    if head[:2] == ("ALTER", "TYPE"):
        return "ADD" in head and "VALUE" in head
    return copies_from_client(statement) or head[0] in _HARMLESS
