"""The locks of statements outside a transaction: some end too soon for an observing session.

CREATE INDEX, DROP INDEX and REINDEX with CONCURRENTLY take SHARE UPDATE EXCLUSIVE on the table, in all
transactions, as VACUUM does (https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-TABLES). DETACH
PARTITION CONCURRENTLY takes the same on the parent, and ACCESS EXCLUSIVE on the partition in its second transaction
(https://www.postgresql.org/docs/current/sql-altertable.html#SQL-ALTERTABLE-DETACH-PARTITION). The last lock
of DROP INDEX and REINDEX on the index is left out: by then no query uses the index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from pgratchet.migrations.classify import concurrent_command
from pgratchet.migrations.effects import find_effect
from pgratchet.migrations.lexer import read_tokens
from pgratchet.migrations.names import read_name
from pgratchet.migrations.statement import Statement, Token
from pgratchet.rehearsal.probe import Relation

_SHARED = "ShareUpdateExclusiveLock"
_EXCLUSIVE = "AccessExclusiveLock"
_VACUUM_WORDS = ("FULL", "FREEZE", "VERBOSE", "ANALYZE")

FindRelation = Callable[[str], int | None]
"""Returns the oid of a relation by the name in a file."""


def unseen_locks(
    text: bytes,
    statement: Statement,
    before: Mapping[int, Relation],
    after: Mapping[int, Relation],
    find_relation: FindRelation,
) -> set[tuple[int, str]]:
    """Return oids and modes, as in pg_locks, of the locks taken by a statement for certain."""
    locks: set[tuple[int | None, str]] = set()
    if statement.head[0] == "VACUUM":
        names = list(_vacuumed(read_tokens(text, statement)))
        mode = _EXCLUSIVE if _is_full(statement.head) else _SHARED
        locks |= {(find_relation(name), mode) for name in names}
    elif concurrent_command(statement) == "DETACH PARTITION" and (effect := find_effect(text, statement)):
        locks |= {(find_relation(effect.table), _SHARED), (find_relation(effect.name), _EXCLUSIVE)}
    elif concurrent_command(statement) is not None:
        changed = {oid: relation for oid, relation in {**before, **after}.items() if (oid in before) != (oid in after)}
        locks |= {(relation.table, _SHARED) for relation in changed.values()}
    return {(oid, mode) for oid, mode in locks if oid is not None and oid in before and not before[oid].is_hidden}


def _is_full(head: Sequence[str]) -> bool:
    return "FULL" in head and (*head, "")[head.index("FULL") + 1] not in ("FALSE", "OFF", "0")


def _vacuumed(tokens: Sequence[Token]) -> Iterator[str]:
    """The names behind the options of a VACUUM; none for all tables."""
    index = 1
    if tokens[index : index + 1] and tokens[index].word == "(":
        index = _behind_parentheses(tokens, index)
    while index < len(tokens) and tokens[index].word in _VACUUM_WORDS:
        index += 1
    while index < len(tokens):
        name, index = read_name(tokens, index)
        yield name
        if index < len(tokens) and tokens[index].word == "(":  # columns
            index = _behind_parentheses(tokens, index)
        index += 1  # the comma


def _behind_parentheses(tokens: Sequence[Token], index: int) -> int:
    return next((at for at, token in enumerate(tokens[index:], index) if token.word == ")"), len(tokens) - 1) + 1
