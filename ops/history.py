"""The ledger table: its SQL, which stands in history.sql, reading it and writing it.

Owns the table's shape, its name in the database and the key of the advisory lock that guards it. Refuses to
know files and plans. Every name is schema-qualified, since a migration may set search_path to anything.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg import Connection, sql
from psycopg.errors import DuplicateSchema, DuplicateTable, InvalidSchemaName, UndefinedTable, UniqueViolation

from ops import __version__
from ops.migrations import Record, Script

if TYPE_CHECKING:
    from typing_extensions import LiteralString

BODY_LIMIT = 1_000_000
"""Characters of a migration's text up to which it is kept beside its row."""


@dataclass(frozen=True, slots=True)
class Run:
    """What every row of one run has in common: its id, and the backup behind it or the reason for none."""

    run_id: str
    backup_id: str | None = None
    backup_waived: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a migration without a transaction has come: statements done, and the one begun on its own."""

    done: int
    begun: int | None
    body: str | None
    checksum: str


@dataclass(frozen=True, slots=True)
class Ledger:
    """One history table, by schema and name."""

    schema: str = "ratchet"
    table: str = "migrations"

    @property
    def lock_key(self) -> int:
        """The 64-bit advisory lock key. Advisory locks are per database, so the table's name is enough."""
        digest = hashlib.sha256(f"pgratchet:{self.schema}.{self.table}".encode()).digest()
        return int.from_bytes(digest[:8], "big", signed=True)

    def exists(self, connection: Connection) -> bool:
        qualified = self._table().as_string(connection)
        row = connection.execute(self._query("exists", regclass=sql.Literal(qualified))).fetchone()
        return bool(row and row[0])

    def read(self, connection: Connection) -> list[Record]:
        """Every row, oldest first; none where the table is not there. Creates nothing, in one round trip."""
        try:
            return [_record(*row) for row in connection.execute(self._query("read"))]
        except (UndefinedTable, InvalidSchemaName):
            return []

    def read_run(self, connection: Connection, run_id: str, names: Sequence[str]) -> list[Record]:
        """The rows of one run among `names`, in order."""
        rows = connection.execute(self._query("read_run"), (run_id, list(names)))
        return [_record(*row) for row in rows]

    def bodies(self, connection: Connection, names: Sequence[str]) -> dict[str, str]:
        """The texts that ran, by name, of those that were kept."""
        rows = connection.execute(self._query("bodies"), (list(names),)).fetchall() if names else []
        return {name: body for name, body in rows if body is not None}

    def create(self, connection: Connection) -> None:
        """Make schema and table where they are missing; twice at once too, where a pooler voids the lock."""
        for _ in range(3):
            if self.exists(connection):
                return
            with suppress(UniqueViolation, DuplicateTable, DuplicateSchema):
                connection.execute(self._query("create_schema"))
                connection.execute(self._query("create_table"))

    def begin(self, connection: Connection, script: Script, run: Run) -> str:
        """The statement that opens a migration's transaction, as text for a simple query."""
        return self._text(
            connection,
            "begin_migration",
            name=script.migration.name,
            checksum=script.migration.checksum,
            run_id=run.run_id,
            backup_id=run.backup_id,
            backup_waived=run.backup_waived,
            tool_version=__version__,
            body=_body(script),
        )

    def finish(self, connection: Connection, script: Script) -> tuple[str, str]:
        """The statements that close it: finish the row, and fail unless that was done."""
        migration = script.migration
        return (
            self._text(connection, "finish_migration", name=migration.name),
            self._text(connection, "insist", name=migration.name, checksum=migration.checksum),
        )

    def progress(self, connection: Connection, name: str) -> Progress | None:
        """Where an unfinished migration without a transaction stands; None when it has not begun."""
        row = connection.execute(self._query("progress"), (name,)).fetchone()
        return Progress(*row) if row else None

    def begin_steps(self, connection: Connection, script: Script, run: Run) -> None:
        migration, body = script.migration, _body(script)
        values = (migration.name, migration.checksum, run.run_id, run.backup_id, run.backup_waived, __version__, body)
        connection.execute(self._query("begin_steps"), values)

    def resume_steps(self, connection: Connection, script: Script, run: Run) -> None:
        migration, body = script.migration, _body(script)
        values = (migration.checksum, run.run_id, run.backup_id, run.backup_waived, __version__, body, migration.name)
        connection.execute(self._query("resume_steps"), values)

    def step_begun(self, connection: Connection, name: str, number: int | None) -> None:
        connection.execute(self._query("step_begun"), (number, name))

    def step_done(self, connection: Connection, name: str, number: int) -> str:
        """The statement that records it, as text, so that it can share a transaction."""
        parts = {"number": sql.Literal(number), "name": sql.Literal(name)}
        return self._query("step_done", **parts).as_string(connection)

    def finish_steps(self, connection: Connection, name: str) -> int:
        """Finish the row; the milliseconds since it was begun."""
        row = connection.execute(self._query("finish_steps"), (name,)).fetchone()
        return int(row[0]) if row else 0

    def _text(self, connection: Connection, query: str, /, **values: str | None) -> str:
        literals = {key: sql.Literal(value) for key, value in values.items()}
        return self._query(query, **literals).as_string(connection)

    def _query(self, query: str, /, **parts: sql.Composable) -> sql.Composed:
        text = sql.SQL(_queries()[query])
        return text.format(schema=sql.Identifier(self.schema), table=self._table(), **parts)

    def _table(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.table)


def _record(name: str, checksum: str, executed_ms: int | None, duration_ms: int | None) -> Record:
    moment = None if executed_ms is None else datetime.fromtimestamp(executed_ms / 1000, timezone.utc)
    return Record(name, checksum, moment, duration_ms)


def _body(script: Script) -> str | None:
    return script.text if len(script.text) <= BODY_LIMIT else None


@lru_cache
def _queries() -> dict[str, LiteralString]:
    """The statements of history.sql by name, without their comments."""
    text = Path(__file__).with_name("history.sql").read_text("utf-8")
    named = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)[1:]
    bodies = (re.sub(r"^--.*\n", "", body, flags=re.MULTILINE).strip().rstrip(";") for body in named[1::2])
    return dict(zip(named[::2], bodies, strict=True))
