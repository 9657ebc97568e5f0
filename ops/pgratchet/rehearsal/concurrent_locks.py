"""The locks of statements that run outside a transaction, which last too short to be seen from another session. Pure.

CREATE INDEX, DROP INDEX and REINDEX with CONCURRENTLY take SHARE UPDATE EXCLUSIVE on the table, in all of their
transactions (https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-TABLES). DROP INDEX takes ACCESS
EXCLUSIVE on the index at its end, and REINDEX on the old index: by then no query uses it.
"""

from __future__ import annotations

from collections.abc import Mapping

from pgratchet.migrations.classify import concurrent_command
from pgratchet.migrations.statement import Statement
from pgratchet.rehearsal.probe import Relation

_TABLE_MODE = "ShareUpdateExclusiveLock"


def expected(
    statement: Statement, before: Mapping[int, Relation], after: Mapping[int, Relation]
) -> set[tuple[int, str]]:
    """Return oids and modes of the locks that a statement took, by the indexes that it made or dropped."""
    if concurrent_command(statement) is None:
        return set()
    changed = {oid: relation for oid, relation in {**before, **after}.items() if (oid in before) != (oid in after)}
    tables = {relation.table for relation in changed.values() if relation.table is not None}
    return {(oid, _TABLE_MODE) for oid in tables if oid in before}
