"""The ledger table: its SQL, which stands in history.sql, reading it and writing it.

Owns the table's shape, its name in the database and the key of the advisory lock that guards it. Refuses to
know files and plans. Every name is schema-qualified, since a migration may set search_path to anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from string import Formatter

from psycopg import Connection
from psycopg.pq import Escaping
from psycopg.pq.abc import Escaping as Quote

from pgratchet.database import queries
from pgratchet.database.connection import Answer, rows, send
from pgratchet.errors import HistoryDisagrees
from pgratchet.migrations.plan import HistoryRow
from pgratchet.migrations.scripts import Script
from pgratchet.version import __version__

_Value = str | bytes | int | list[str] | None
_NO_TABLE = ("42P01", "3F000")
_MADE_MEANWHILE = ("23505", "42P07", "42P06")
_DENIED = "42501"
_AS_OURSELVES = (
    b"SET LOCAL transaction_read_only = off;\nSET LOCAL SESSION AUTHORIZATION DEFAULT;\nSET LOCAL ROLE NONE;\n"
)
"""Before a step is recorded: what the file has SET for its own statements, a role above all, stays for the next."""

BODY_LIMIT = 1_000_000
"""Bytes of a migration's text up to which it is kept beside its row."""


@dataclass(frozen=True, slots=True)
class RunColumns:
    """What every row of one run has in common: its id, and the backup behind it or the reason for none."""

    run_id: str
    backup_id: str | None = None
    backup_waived: str | None = None


@dataclass(frozen=True, slots=True)
class AdoptedRow:
    """A migration that was run before this history was there. `moment` is when, in the server's form, None where that
    is not known; `source` says by whose word it is here."""

    name: str
    checksum: str
    text: bytes
    source: str
    run_id: str
    moment: str | None = None
    duration_ms: int | None = None


@dataclass(frozen=True, slots=True)
class StepProgress:
    """How far a migration without a transaction has come: statements done, and the one begun on its own."""

    done: int
    begun: int | None
    body: str | None
    checksum: str


@dataclass(frozen=True, slots=True)
class History:
    """One history table, by schema and name."""

    schema: str = "ratchet"
    table: str = "migrations"

    @property
    def lock_key(self) -> int:
        """The 64-bit advisory lock key. Advisory locks are per database, so the table's name is enough."""
        digest = hashlib.sha256(f"pgratchet:{self.schema}.{self.table}".encode()).digest()
        return int.from_bytes(digest[:8], "big", signed=True)

    def reading(self, connection: Connection) -> bytes:
        """The query for every row, oldest first, as text; `records` reads its answer. It creates nothing."""
        return self._text(connection, "read")

    def read(self, connection: Connection) -> list[HistoryRow]:
        """Every row, oldest first; none where the table is not there. Creates nothing, in one round trip."""
        return read_rows(send(connection, self.reading(connection))) or []

    def reading_run(self, connection: Connection, run_id: str, names: Sequence[str]) -> bytes:
        """The query for the rows of one run among `names`, in order, as text."""
        return self._text(connection, "read_run", run_id=run_id, names=list(names))

    def read_run(self, connection: Connection, run_id: str, names: Sequence[str]) -> list[HistoryRow]:
        """The rows of one run among `names`, in order."""
        return read_rows(send(connection, self.reading_run(connection, run_id, names))) or []

    def bodies(self, connection: Connection, names: Sequence[str]) -> dict[str, str]:
        """The texts that ran, by name, of those that were kept."""
        found = self._rows(connection, "bodies", names=list(names)) if names else []
        return {str(name): body for name, body in found if body is not None}

    def asking(self, connection: Connection) -> bytes:
        """The query for a row if the table is there, and for none if not, as text."""
        return self._text(connection, "exists", schema_name=self.schema, table_name=self.table)

    def create(self, connection: Connection, behind: Sequence[AdoptedRow] = ()) -> None:
        """Make schema and table where they are missing, with these rows, in one round trip and one transaction; twice
        at once too, where a pooler voids the lock. A role may own the schema without the right to make one: then the
        table alone is tried for."""
        adopted = [self._text(connection, "adopt", **_adopted(each)) for each in behind]
        table = b";\n".join((self._text(connection, "create_table"), *adopted))
        both = b"%b;\n%b" % (self._text(connection, "create_schema"), table)
        error = send(connection, both).error
        if error is not None and error.sqlstate in _MADE_MEANWHILE:
            error = send(connection, both).error
        if error is not None and error.sqlstate == _DENIED:
            alone = send(connection, table).error
            error = error if alone and alone.sqlstate in _NO_TABLE else alone
        if error is not None:
            raise error

    def adopt(self, connection: Connection, adopted: Sequence[AdoptedRow]) -> None:
        """Write the rows, all or none, and read them back."""
        self.create(connection, adopted)
        lost = {each.name for each in adopted} - {record.name for record in self.read(connection)}
        if lost:
            raise HistoryDisagrees(
                f"rows that were written are not in the history: {', '.join(sorted(lost))}",
                hint="See what else writes to it, and run again.",
            )

    def begin(self, connection: Connection, script: Script, text: bytes, run: RunColumns) -> bytes:
        """The statement that opens a migration's transaction, as text for a simple query."""
        return self._text(connection, "begin_migration", **_values(script, text, run))

    def finish(self, connection: Connection, script: Script) -> bytes:
        """The statement that closes it: finish the row, and fail unless that was done."""
        return self._text(connection, "finish_migration", name=script.name, checksum=script.migration.checksum)

    def progress(self, connection: Connection, name: str) -> StepProgress | None:
        """Where an unfinished migration without a transaction stands; None when it has not begun."""
        for done, begun, body, checksum in self._rows(connection, "progress", name=name):
            return StepProgress(int(done or 0), int(begun) if begun else None, body, str(checksum))
        return None

    def begin_steps(self, connection: Connection, script: Script, text: bytes, run: RunColumns) -> None:
        self._rows(connection, "begin_steps", **_values(script, text, run))

    def resume_steps(self, connection: Connection, script: Script, text: bytes, run: RunColumns) -> None:
        self._rows(connection, "resume_steps", **_values(script, text, run))

    def step_begun(self, connection: Connection, run_id: str, name: str, number: int | None) -> None:
        """Record that a statement is begun; DivisionByZero where the row is not this run's."""
        _ask(connection, _AS_OURSELVES + self._text(connection, "step_begun", number=number, name=name, run_id=run_id))

    def record_step(self, connection: Connection, run_id: str, name: str, number: int) -> None:
        """Record that a statement is done; that can be repeated. DivisionByZero where the row is not this run's."""
        _ask(connection, self.step_done(connection, run_id, name, number))

    def step_done(self, connection: Connection, run_id: str, name: str, number: int) -> bytes:
        """The statements that record it, as text, so that they can share a transaction."""
        return _AS_OURSELVES + self._text(connection, "step_done", number=number, name=name, run_id=run_id)

    def is_there(self, connection: Connection, name: str) -> bool:
        """Whether there is a row of that name, finished or not, of whatever run."""
        return bool(self._rows(connection, "taken_up", name=name))

    def finish_steps(self, connection: Connection, run_id: str, name: str) -> int | None:
        """Finish the row; the milliseconds since it was begun, None where this run has no row to finish."""
        finished = self._rows(connection, "finish_steps", name=name, run_id=run_id)
        return int(finished[0][0] or 0) if finished else None

    def _rows(self, connection: Connection, query: str, /, **values: _Value) -> list[tuple[str | None, ...]]:
        """Send a query on its own; raises what the server says."""
        return _ask(connection, self._text(connection, query, **values))

    def _text(self, connection: Connection, query: str, /, **values: _Value) -> bytes:
        """A query with its values as literals, for what travels with other statements in one string."""
        names = {"schema": (self.schema,), "table": (self.schema, self.table)}
        quote = Escaping(connection.pgconn)
        pieces: list[bytes] = []
        for text, place in _pieces(query):
            pieces.append(text)
            if place in names:
                pieces.append(b".".join(bytes(quote.escape_identifier(name.encode())) for name in names[place]))
            elif place:
                pieces.append(_literal(quote, values[place]))
        return b"".join(pieces)


def _ask(connection: Connection, text: bytes) -> list[tuple[str | None, ...]]:
    """The rows of the last of some statements that are one transaction; raises what the server says."""
    answer = send(connection, text)
    if answer.error is not None:
        raise answer.error
    return rows(answer.results[-1])


def read_rows(answer: Answer) -> list[HistoryRow] | None:
    """The rows that a query for them was answered with; None where there is no table yet."""
    if answer.error is None:
        return [_record(*row) for row in rows(answer.tables[-1])]
    if answer.error.sqlstate in _NO_TABLE:
        return None
    raise answer.error


def _record(
    name: str | None, checksum: str | None, executed_ms: str | None, duration_ms: str | None, source: str | None
) -> HistoryRow:
    moment = None if executed_ms is None else datetime.fromtimestamp(int(executed_ms) / 1000, timezone.utc)
    took = None if duration_ms is None else int(duration_ms)
    return HistoryRow(name or "", checksum or "", moment, took, source or "")


def _values(script: Script, text: bytes, run: RunColumns) -> dict[str, _Value]:
    return {
        "name": script.name,
        "checksum": script.migration.checksum,
        "run_id": run.run_id,
        "backup_id": run.backup_id,
        "backup_waived": run.backup_waived,
        "tool_version": __version__,
        "body": text if len(text) <= BODY_LIMIT else None,
    }


def _adopted(given: AdoptedRow) -> dict[str, _Value]:
    return {
        "name": given.name,
        "checksum": given.checksum,
        "moment": given.moment or "-infinity",
        "duration_ms": given.duration_ms,
        "run_id": given.run_id,
        "tool_version": __version__,
        "source": given.source,
        "body": given.text if len(given.text) <= BODY_LIMIT else None,
    }


def _literal(quote: Quote, value: _Value) -> bytes:
    if value is None:
        return b"NULL"
    if isinstance(value, int):
        return b"%d" % value
    if isinstance(value, list):
        return b"ARRAY[%b]::text[]" % b", ".join(_literal(quote, each) for each in value)
    return bytes(quote.escape_literal(value if isinstance(value, bytes) else value.encode()))


@lru_cache
def _pieces(query: str) -> tuple[tuple[bytes, str], ...]:
    """A query as text and, behind each piece of it, the name of what stands there."""
    return tuple(
        (text.encode(), name or "") for text, name, _, _ in Formatter().parse(queries.load(__file__, "history")[query])
    )
