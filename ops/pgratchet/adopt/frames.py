"""Takes BEGIN and COMMIT out of another tool's SQL, because the runner owns the transactions.

Without its frames a file that other tools commit part by part is one transaction. Some files have a COMMIT because a
new value of an enum cannot be used before it is committed, or because a statement such as CREATE INDEX CONCURRENTLY
follows. Such a file runs without a transaction (https://www.postgresql.org/docs/current/sql-altertype.html).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from pgratchet.adopt.tools.tool import statements_of
from pgratchet.migrations import classify
from pgratchet.migrations.statement import Statement

_OPENING = re.compile(r"(BEGIN( WORK| TRANSACTION)?|START TRANSACTION)( (ISOLATION|READ|NOT|DEFERRABLE)\b.*)?")
_CLOSING = re.compile(r"(COMMIT|END)( WORK| TRANSACTION)?( AND NO CHAIN)?")
_MODE = re.compile(r"\b(ISOLATION|READ|DEFERRABLE|SNAPSHOT)\b")
_REST = re.compile(rb"[ \t]*;?[ \t]*\n?")


@dataclass(frozen=True, slots=True)
class Unframed:
    """SQL without transaction control, and whether it runs in one transaction.

    `removed` tells if anything was cut, `has_mode` if that was an isolation level or another mode of a transaction.
    """

    text: str
    transactional: bool
    removed: bool = False
    has_mode: bool = False


def remove_frames(text: str, *, transactional: bool) -> Unframed:
    """Remove BEGIN, COMMIT and SET TRANSACTION. A text with other control, such as ROLLBACK, stays as it is."""
    statements = statements_of(text)
    controls = [statement for statement in statements if classify.transaction_control(statement)]
    if not controls or not all(_is_frame(statement) for statement in controls):
        return Unframed(text, transactional)
    content, pieces, end = text.encode(), list[bytes](), 0
    for statement in controls:
        pieces.append(content[end : statement.start])
        rest = _REST.match(content, statement.end)
        end = rest.end() if rest else statement.end
    pieces.append(content[end:])
    transactional = not _needs_commit(statements) if transactional else _is_one_frame(statements, controls)
    has_mode = any(_MODE.search(" ".join(statement.head)) for statement in controls)
    return Unframed(b"".join(pieces).decode(), transactional, removed=True, has_mode=has_mode)


def _is_frame(statement: Statement) -> bool:
    return _is_opening(statement) or _is_closing(statement) or statement.head[:2] == ("SET", "TRANSACTION")


def _is_opening(statement: Statement) -> bool:
    return _OPENING.fullmatch(" ".join(statement.head)) is not None


def _is_closing(statement: Statement) -> bool:
    return _CLOSING.fullmatch(" ".join(statement.head)) is not None


def _is_one_frame(statements: list[Statement], controls: list[Statement]) -> bool:
    """Return whether all statements stand in a single BEGIN and COMMIT."""
    ends = [statements[0], statements[-1]]
    inside = statements[1:-1]
    return controls == ends and _is_opening(ends[0]) and not any(map(classify.outside_transaction, inside))


def _needs_commit(statements: list[Statement]) -> bool:
    """Return whether a COMMIT makes a new value of an enum usable, or lets a statement run outside a transaction."""
    if any(map(classify.outside_transaction, statements)):
        return True
    added = next((index for index, statement in enumerate(statements) if _adds_value(statement)), None)
    return added is not None and any(_is_closing(statement) for statement in statements[added:-1])


def _adds_value(statement: Statement) -> bool:
    head = statement.head
    return head[:2] == ("ALTER", "TYPE") and ("ADD", "VALUE") in pairwise(head)
