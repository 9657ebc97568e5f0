"""Finds out whether the history takes part in logical replication, which would mix the histories of two databases.

Logical replication copies rows and no schema changes: a subscriber of the history has rows of migrations that were
applied to the publisher only (https://www.postgresql.org/docs/current/logical-replication-restrictions.html).
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg.pq.abc import PGresult

from pgratchet.database.environment_record import RecordedDatabase, read_system_identifier
from pgratchet.database.history import History
from pgratchet.database.identity import Identity
from pgratchet.database.simple_query import rows, send
from pgratchet.errors import HistoryDisagrees
from pgratchet.migrations.plan import HistoryRow


@dataclass(frozen=True, slots=True)
class Replication:
    """Names, separated by commas: subscriptions that write to the history, and publications that contain it."""

    subscriptions: str = ""
    publications: str = ""

    @classmethod
    def from_result(cls, result: PGresult) -> Replication:
        """Read the first columns of the answer to `History.about_query`."""
        ((subscriptions, publications, *_),) = rows(result)
        return cls(subscriptions or "", publications or "")

    def require_own_rows(self, history: History) -> None:
        """Raise HistoryDisagrees when a subscription writes to the history."""
        if self.subscriptions:
            raise HistoryDisagrees(
                f"the history is replicated from another database, by the subscription {self.subscriptions}",
                detail=f"The rows of {history.schema}.{history.table} show what was applied to the publisher. Schema "
                "changes are not replicated, so this database may lack them.",
                hint="In the inventory, set history_schema of this database to a name that is not replicated. Then "
                "mark the migrations that it has, up to NAME, with `invoke adopt --baseline=NAME`.",
            )

    def warning(self, history: History) -> str:
        """Return a sentence about the publications of the history; an empty text without any."""
        if not self.publications:
            return ""
        return (
            f"the history, {history.schema}.{history.table}, is published by {self.publications}: its rows are copied "
            "to subscribers, whose schema is not changed; publish tables without it, or give it another history_schema"
            " on the subscribers"
        )


def read_replication(connection: psycopg.Connection, history: History) -> Replication:
    """Find out whether the history takes part in logical replication."""
    answer = send(connection, history.about_query(connection))
    if answer.error is not None:
        raise answer.error
    return Replication.from_result(answer.results[0])


def read_own_rows(
    connection: psycopg.Connection, history: History, identity: Identity | None = None
) -> tuple[list[HistoryRow], Replication]:
    """Read the history, in a single round trip.

    HistoryDisagrees when a subscription writes to it, Unreachable when it belongs to another environment.
    """
    queries = (history.about_query(connection), history.read_query(connection))
    answer = send(connection, b";\n".join(queries))
    applied = history.read_rows(connection, answer) or []
    replication = Replication.from_result(answer.results[0])
    database = RecordedDatabase.from_result(answer.results[0])
    database.require_own(identity, lambda: read_system_identifier(connection))
    replication.require_own_rows(history)
    return applied, replication
