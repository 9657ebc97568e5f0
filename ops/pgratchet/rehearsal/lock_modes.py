"""The lock modes of tables, and the work of an application blocked by each mode. Pure.

The modes and their conflicts: https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-TABLES. A query
takes ACCESS SHARE, and INSERT, UPDATE and DELETE take ROW EXCLUSIVE. A mode in conflict with one of these blocks
reads or writes, from the locking statement to the end of the transaction.
"""

from __future__ import annotations

from typing import Literal

Blocked = Literal["reads", "writes", "rows"]
"""Reads and writes, only writes, or only writes to the changed rows."""

MODES = {
    "AccessShareLock": "ACCESS SHARE",
    "RowShareLock": "ROW SHARE",
    "RowExclusiveLock": "ROW EXCLUSIVE",
    "ShareUpdateExclusiveLock": "SHARE UPDATE EXCLUSIVE",
    "ShareLock": "SHARE",
    "ShareRowExclusiveLock": "SHARE ROW EXCLUSIVE",
    "ExclusiveLock": "EXCLUSIVE",
    "AccessExclusiveLock": "ACCESS EXCLUSIVE",
}
"""The modes as in pg_locks and as in the documentation, the weakest first."""

STRENGTH = {mode: strength for strength, mode in enumerate(MODES.values())}
_BLOCKING_WRITES = frozenset(("SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE"))


def blocked_by(mode: str) -> Blocked | None:
    """Return the work of an application blocked by a mode; None for modes against maintenance alone."""
    if mode == "ACCESS EXCLUSIVE":
        return "reads"
    return "writes" if mode in _BLOCKING_WRITES else None


def strongest(modes: list[str]) -> str:
    """Return the strongest of some modes."""
    return max(modes, key=STRENGTH.__getitem__)
