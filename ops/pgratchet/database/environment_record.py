"""Remembers which environment a database belongs to, and refuses the settings of another one that lead there.

The record is a comment on the history table: it needs no table of its own, is in every dump, and means nothing to other
versions. A restored database has another oid and the same name, because databases are swapped by renaming. So a
database on the same cluster is the recorded one if it has the recorded oid or the recorded name. Any other database
with the record is a copy, and belongs to the environment that uses it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields

import psycopg
from psycopg.pq.abc import PGresult

from pgratchet.database.history import History
from pgratchet.database.identity import Identity
from pgratchet.database.simple_query import rows, send
from pgratchet.errors import Unreachable

_MARK = "pgratchet: "
"""How the line of the record begins. Other lines of the comment are somebody else's, and stay."""


@dataclass(frozen=True, slots=True)
class EnvironmentRecord:
    """An environment and target, and the database that it used: the record in a comment."""

    environment: str
    target: str
    system_identifier: str
    database: str
    oid: int

    def comment(self, existing: str) -> str:
        """The text of a comment with this record, and with the lines of the existing comment that are not ours."""
        others = [line for line in existing.splitlines() if not line.startswith(_MARK)]
        return "\n".join([*others, _MARK + json.dumps(asdict(self), ensure_ascii=False)])


@dataclass(frozen=True, slots=True)
class RecordedDatabase:
    """A database, with the comment on its history table."""

    database: str = ""
    oid: int = 0
    comment: str = ""

    @classmethod
    def from_result(cls, result: PGresult) -> RecordedDatabase:
        """Read the last columns of the answer to `History.about_query`."""
        ((*_, database, oid, comment),) = rows(result)
        return cls(database or "", int(oid or 0), comment or "")

    @property
    def record(self) -> EnvironmentRecord | None:
        """The record in the comment; None without a record that can be read."""
        for line in self.comment.splitlines():
            if line.startswith(_MARK):
                return _parse(line.removeprefix(_MARK))
        return None

    def record_of(self, identity: Identity, system_identifier: str) -> EnvironmentRecord:
        """The record of the environment that uses this database now."""
        return EnvironmentRecord(identity.environment, identity.target, system_identifier, self.database, self.oid)

    def require_own(self, identity: Identity | None, system_identifier: Callable[[], str]) -> None:
        """Raise Unreachable when this database belongs to another environment or target of the inventory.

        The cluster's identifier is only asked for when another environment is recorded. An unknown one is an empty
        text, and counts as the recorded one.
        """
        record = self.record
        if identity is None or record is None or not _is_other(record, identity):
            return
        is_same = self.oid == record.oid or self.database == record.database
        if is_same and system_identifier() in ("", record.system_identifier):
            raise _belongs_to_other(record, identity, self.database)


def _parse(text: str) -> EnvironmentRecord | None:
    try:
        values = json.loads(text)
        kinds = {each.name: str(each.type) for each in fields(EnvironmentRecord)}
        values = {name: (int if kind == "int" else str)(values[name]) for name, kind in kinds.items()}
    except (ValueError, TypeError, KeyError):
        return None
    return EnvironmentRecord(**values)


def _is_other(record: EnvironmentRecord, identity: Identity) -> bool:
    """Return whether the record names another environment or target that the inventory has now.

    A name that the inventory no longer has was changed there.
    """
    if record.environment == identity.environment:
        return record.target != identity.target and record.target in identity.others.targets
    return record.environment in identity.others.environments and record.environment not in identity.accepted


def _belongs_to_other(record: EnvironmentRecord, identity: Identity, database: str) -> Unreachable:
    if record.environment == identity.environment:
        return Unreachable(
            f'{identity.environment}: {identity.target} leads to the database of {record.target}, "{database}"',
            detail=f"Its history was last written by the target {record.target}. Nothing was changed.",
            hint=f"Check pg_host and pg_dbname of both targets. If the database belongs to {identity.target} now, "
            f"remove {record.target} from the inventory.",
        )
    return Unreachable(
        f'the settings of {identity.environment} lead to the database of {record.environment}, "{database}"',
        detail=f"Its history was last written by the environment {record.environment}. Nothing was changed.",
        hint=f"To work on {record.environment}, give --env={record.environment}. Otherwise check the environment "
        f"variables that {identity.environment} reads, such as DATABASE_URL. If {identity.environment} may use this "
        f"database, set history_from: [{record.environment}] for it in the inventory.",
    )


def require_own_database(
    connection: psycopg.Connection, history: History, identity: Identity, *, damaged: bool = False
) -> None:
    """Raise Unreachable when the database of a connection belongs to another environment or target of the inventory.

    A `damaged` database may be unreadable. What can be read is read with time limits.
    """
    limits = b"SET statement_timeout = '5s'; SET lock_timeout = '2s'; " if damaged else b""
    answer = send(connection, limits + history.about_query(connection))
    if answer.error is None:
        database = RecordedDatabase.from_result(answer.tables[0])
        database.require_own(identity, lambda: read_system_identifier(connection))
    elif not damaged:
        raise answer.error


def read_system_identifier(connection: psycopg.Connection) -> str:
    """Read the identifier of the cluster that a connection leads to; an empty text when this role may not read it."""
    answer = send(connection, b"SELECT system_identifier FROM pg_catalog.pg_control_system()")
    if isinstance(answer.error, psycopg.errors.InsufficientPrivilege):
        return ""
    if answer.error is not None:
        raise answer.error
    ((identifier,),) = rows(answer.results[0])
    return identifier or ""
