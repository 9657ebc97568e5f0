"""The history table: applied migrations, and the progress of migrations without a transaction.

The queries are in history.sql. Their names are schema-qualified, because a migration can set search_path.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from string import Formatter

import psycopg
from psycopg import Connection
from psycopg.pq import Escaping
from psycopg.pq.abc import Escaping as EscapingProtocol

from pgratchet.database import queries
from pgratchet.database.history_errors import NO_COLUMN, cannot_be_read, hidden_rows
from pgratchet.database.simple_query import Answer, rows, send
from pgratchet.errors import HistoryDisagrees, RatchetError
from pgratchet.migrations.plan import HistoryRow
from pgratchet.migrations.scripts import Script
from pgratchet.version import __version__

_Value = str | bytes | int | list[str] | None

_NO_TABLE = ("42P01", "3F000")
_CREATED_MEANWHILE = ("23505", "42P07", "42P06")
_DENIED = "42501"
_ROW_SECURITY_FUNCTION = "check_enable_rls"
"""The server's function that refuses a query of rows that may be hidden. The SQLSTATE is that of a missing grant."""
_ASSERTION_SQLSTATE = "22P02"
_ASSERTION_TEXT = re.compile(r"pgratchet: ([^()]+ \([^()]+\))")
_AS_OURSELVES = (
    b"SET LOCAL transaction_read_only = off;\nSET LOCAL SESSION AUTHORIZATION DEFAULT;\nSET LOCAL ROLE TO DEFAULT;\n"
)
"""Sent before the record of a step: a role that the file has SET must not write the record, and stays for the file."""

HISTORY_COLUMNS = (b"name", b"checksum", b"", b"duration_ms", b"source", b"statements_done", b"statement_begun")
"""Names of the columns of the queries `read` and `read_run`; the third is an expression."""

BODY_LIMIT = 1_000_000
"""Largest text of a migration, in bytes, that is stored in its row."""


@dataclass(frozen=True, slots=True)
class RunColumns:
    """The columns with the same values in all rows of a run: id, and backup or the reason for none."""

    run_id: str
    backup_id: str | None = None
    backup_waived: str | None = None


@dataclass(frozen=True, slots=True)
class AdoptedRow:
    """A migration from the time before this history existed.

    `moment` is the time in the server's text form, None when unknown. `source` is the value of that column.
    """

    name: str
    checksum: str
    text: bytes
    source: str
    run_id: str
    moment: str | None = None
    duration_ms: int | None = None


@dataclass(frozen=True, slots=True)
class StepProgress:
    """Progress of a migration without a transaction, as in the history row.

    `done` counts the completed statements. `begun` is the number of a statement outside a transaction that is recorded
    as begun and not as done. `body` is the text, or a hash of the completed statements.
    """

    done: int
    begun: int | None
    body: str | None
    checksum: str


@dataclass(frozen=True, slots=True)
class History:
    """A history table, by schema and name. Methods with the suffix `_query` return SQL text to send with other text."""

    schema: str = "ratchet"
    table: str = "migrations"

    @property
    def quoted_name(self) -> str:
        """The table's name with its schema, quoted for pg_dump's options."""
        return ".".join('"{}"'.format(name.replace('"', '""')) for name in (self.schema, self.table))

    @property
    def lock_key(self) -> int:
        """The 64-bit key of the advisory lock. Such locks are per database, so the table's name makes the key."""
        digest = hashlib.sha256(f"pgratchet:{self.schema}.{self.table}".encode()).digest()
        return int.from_bytes(digest[:8], "big", signed=True)

    def read_query(self, connection: Connection) -> bytes:
        """Return the query for all rows; `read_rows` reads the answer."""
        return self._query(connection, "read")

    def read(self, connection: Connection) -> list[HistoryRow]:
        """Read all rows, oldest first, in a single round trip; no rows without a table. Creates nothing."""
        return self.read_rows(connection, send(connection, self.read_query(connection))) or []

    def read_rows(self, connection: Connection, answer: Answer) -> list[HistoryRow] | None:
        """Read the rows in the answer to `read_query` or `read_run_query`; None without a table.

        ConfigurationError when this role may not read the table, or not all rows, and when it is no history.
        """
        if answer.error is None:
            return [_history_row(*row) for result in (*answer.chunks, answer.tables[-1]) for row in rows(result)]
        if answer.error.sqlstate in _NO_TABLE:
            return None
        raise self.unreadable(connection, answer.error)

    def read_run_query(self, connection: Connection, run_id: str, names: Sequence[str]) -> bytes:
        """Return the query for the rows of a run with these names; `read_rows` reads the answer."""
        return self._query(connection, "read_run", run_id=run_id, names=list(names))

    def read_run(self, connection: Connection, run_id: str, names: Sequence[str]) -> list[HistoryRow]:
        """Read the rows of a run with these names, oldest first."""
        return self.read_rows(connection, send(connection, self.read_run_query(connection, run_id, names))) or []

    def read_bodies(self, connection: Connection, names: Sequence[str]) -> dict[str, str]:
        """Read the applied texts, by name; texts above BODY_LIMIT are not stored."""
        if not names:
            return {}
        answer = send(connection, self._query(connection, "read_bodies", names=list(names)))
        if answer.error is not None:
            raise self.unreadable(connection, answer.error)
        bodies = rows(answer.results[-1])
        return {str(name): body for name, body in bodies if body is not None}

    def exists_query(self, connection: Connection) -> bytes:
        """Return a query with a row when the table exists, otherwise without rows."""
        return self._query(connection, "exists", schema_name=self.schema, table_name=self.table)

    def about_query(self, connection: Connection) -> bytes:
        """Return the query for a row of the table's subscriptions and publications, the database, and the comment."""
        return self._query(connection, "about", schema_name=self.schema, table_name=self.table)

    def create(self, connection: Connection, comment: str | None = None) -> None:
        """Create schema and table where missing, with a comment, in a single transaction and round trip."""
        self._create_and_change(connection, [] if comment is None else [self._comment_query(connection, comment)])

    def comment(self, connection: Connection, text: str) -> None:
        """Replace the comment on the table, if this role may do so."""
        send(connection, self._comment_query(connection, text))

    def _comment_query(self, connection: Connection, text: str) -> bytes:
        return self._query(connection, "comment", text=text)

    def _create_and_change(self, connection: Connection, changes: Sequence[bytes]) -> None:
        """Create schema and table where missing and change rows, in a single transaction and round trip.

        Two runs can create the table at the same time behind a pooler, where the lock does not exclude them. A role may
        own the schema without the right to create schemas; then the table is created alone.
        """
        table = b";\n".join((self._query(connection, "create_table"), *changes))
        schema_and_table = b"%b;\n%b" % (self._query(connection, "create_schema"), table)
        error = send(connection, schema_and_table).error
        if error is not None and error.sqlstate in _CREATED_MEANWHILE:
            error = send(connection, schema_and_table).error
        if error is not None and error.sqlstate == _DENIED:
            table_error = send(connection, table).error
            error = error if table_error and table_error.sqlstate in _NO_TABLE else table_error
        if error is not None:
            raise error

    def adopt(
        self,
        connection: Connection,
        adopted: Sequence[AdoptedRow],
        *,
        mended: Sequence[AdoptedRow] = (),
        replaced: Sequence[str] = (),
    ) -> None:
        """Insert adopted rows, all or none, and read them back; HistoryDisagrees when a row is missing.

        `mended` are adopted before and get another text. `replaced` are names of adopted rows to remove.
        """
        changes = [self._query(connection, "forget_adopted", names=list(replaced))] if replaced else []
        changes += [self._query(connection, "replace_adopted", **_mended_values(row)) for row in mended]
        changes += [self._query(connection, "adopt", **_adopted_values(row)) for row in adopted]
        self._create_and_change(connection, changes)
        present = {(row.name, row.checksum) for row in self.read(connection)}
        missing = {row.name for row in (*adopted, *mended) if (row.name, row.checksum) not in present}
        if missing:
            raise HistoryDisagrees(
                f"rows that were just written are not in the history: {', '.join(sorted(missing))}",
                hint="Find out what else writes to the history table, and run again.",
            )

    def lock_transaction_query(self, connection: Connection) -> bytes:
        """Return the assertion to take the migration lock until the end of the transaction."""
        return self._query(connection, "lock_transaction", lock_key=self.lock_key)

    def begin_migration_query(self, connection: Connection, script: Script, text: bytes, columns: RunColumns) -> bytes:
        """Return the first statement of a migration's transaction, to insert the row."""
        return self._query(connection, "begin_migration", **_row_values(script, text, columns))

    def finish_migration_query(self, connection: Connection, script: Script) -> bytes:
        """Return the last statement of a migration's transaction, an assertion to finish the row."""
        return self._query(connection, "finish_migration", name=script.name, checksum=script.migration.checksum)

    def finish_repeatable_query(self, connection: Connection, script: Script) -> bytes:
        """Return the last statement of a repeatable, an assertion to finish the row."""
        return self._query(connection, "finish_repeatable", name=script.name, checksum=script.migration.checksum)

    def read_progress(self, connection: Connection, name: str) -> StepProgress | None:
        """Read the progress of an unfinished migration without a transaction; None before the first statement."""
        for done, begun, body, checksum in self._fetch(connection, "read_progress", name=name):
            return StepProgress(int(done or 0), int(begun) if begun else None, body, str(checksum))
        return None

    def begin_steps(self, connection: Connection, script: Script, text: bytes, columns: RunColumns) -> None:
        """Insert the row of a migration without a transaction."""
        self._fetch(connection, "begin_steps", **_row_values(script, text, columns))

    def resume_steps(self, connection: Connection, script: Script, text: bytes, columns: RunColumns) -> None:
        """Make the unfinished row of a migration without a transaction belong to this run."""
        self._fetch(connection, "resume_steps", **_row_values(script, text, columns))

    def record_step_begun(self, connection: Connection, run_id: str, name: str, number: int | None) -> None:
        """Record the beginning of a statement; None clears the record. Asserts the row to be of this run."""
        query = self._query(connection, "record_step_begun", number=number, name=name, run_id=run_id)
        _fetch_last(connection, _AS_OURSELVES + query)

    def record_step_done(
        self, connection: Connection, run_id: str, name: str, number: int, digest: str | None = None
    ) -> None:
        """Record the end of a statement; can be repeated. Asserts the row to be of this run.

        `digest` is a hash of the statements that are done, to keep instead of a text that is too large.
        """
        _fetch_last(connection, self.record_step_done_query(connection, run_id, name, number, digest))

    def record_step_done_query(
        self, connection: Connection, run_id: str, name: str, number: int, digest: str | None = None
    ) -> bytes:
        """Return the text of `record_step_done`, to send in the transaction of the statement."""
        query = self._query(connection, "record_step_done", number=number, name=name, run_id=run_id, digest=digest)
        return _AS_OURSELVES + query

    def forget_untouched(self, connection: Connection, names: Sequence[str]) -> None:
        """Remove the rows of these migrations of which no statement took effect, and assert the migration lock."""
        query = self._query(connection, "forget_untouched", names=list(names))
        _fetch_last(connection, b"%b%b;\n%b" % (_AS_OURSELVES, self.lock_transaction_query(connection), query))

    def has_row(self, connection: Connection, name: str) -> bool:
        """Return whether the history has a row with this name, of any run, finished or not."""
        return bool(self._fetch(connection, "has_row", name=name))

    def finish_steps(
        self,
        connection: Connection,
        run_id: str,
        name: str,
        digest: str | None = None,
        duration_ms: int | None = None,
    ) -> int | None:
        """Finish the row, without its `digest`; returns the duration in milliseconds, since the row began by default.

        Returns None when this run has no row to finish.
        """
        values = {"name": name, "run_id": run_id, "digest": digest, "duration_ms": duration_ms}
        finished = self._fetch(connection, "finish_steps", **values)
        return int(finished[0][0] or 0) if finished else None

    def _fetch(self, connection: Connection, query: str, /, **values: _Value) -> list[tuple[str | None, ...]]:
        """Send a query and return the rows; psycopg.Error when the server refuses the query."""
        answer = send(connection, self._query(connection, query, **values))
        if answer.error is not None:
            raise self.refusal(answer.error)
        return rows(answer.results[-1])

    def unreadable(self, connection: Connection, error: psycopg.Error) -> psycopg.Error | RatchetError:
        """Return the error for a history that cannot be read, or any other error as it is."""
        refusal = self.refusal(error)
        if refusal is error and error.sqlstate in (_DENIED, NO_COLUMN):
            return cannot_be_read(self.schema, self.table, connection.info.user, error)
        return refusal

    def refusal(self, error: psycopg.Error) -> psycopg.Error | RatchetError:
        """Return the error for rows that may be hidden, or any other error as it is."""
        if error.sqlstate != _DENIED or error.diag.source_function != _ROW_SECURITY_FUNCTION:
            return error
        return hidden_rows(self.schema, self.table)

    def _query(self, connection: Connection, query: str, /, **values: _Value) -> bytes:
        """Return a query of history.sql with names and values filled in, since simple queries have no parameters."""
        names = {"schema": (self.schema,), "table": (self.schema, self.table)}
        escaping = Escaping(connection.pgconn)
        pieces: list[bytes] = []
        for text, field in _split_query(query):
            pieces.append(text)
            if field in names:
                pieces.append(b".".join(bytes(escaping.escape_identifier(name.encode())) for name in names[field]))
            elif field:
                pieces.append(_literal(escaping, values[field]))
        return b"".join(pieces)


def failed_assertion(error: psycopg.Error) -> str | None:
    """Return the text of a failed assertion of history.sql, or None for any other error."""
    if error.sqlstate != _ASSERTION_SQLSTATE:
        return None
    match = _ASSERTION_TEXT.search(error.diag.message_primary or "")
    return match[1] if match else None


def _fetch_last(connection: Connection, text: bytes) -> list[tuple[str | None, ...]]:
    """Send statements as a single transaction; returns the rows of the last statement."""
    answer = send(connection, text)
    if answer.error is not None:
        raise answer.error
    return rows(answer.results[-1])


def _history_row(
    name: str | None,
    checksum: str | None,
    executed_ms: str | None,
    duration_ms: str | None,
    source: str | None,
    done: str | None,
    begun: str | None,
) -> HistoryRow:
    executed_at = None if executed_ms is None else datetime.fromtimestamp(int(executed_ms) / 1000, timezone.utc)
    duration, statements_done, statement_begun = (None if n is None else int(n) for n in (duration_ms, done, begun))
    return HistoryRow(name or "", checksum or "", executed_at, duration, source or "", statements_done, statement_begun)


def _row_values(script: Script, text: bytes, columns: RunColumns) -> dict[str, _Value]:
    return {
        "name": script.name,
        "checksum": script.migration.checksum,
        "run_id": columns.run_id,
        "backup_id": columns.backup_id,
        "backup_waived": columns.backup_waived,
        "tool_version": __version__,
        "body": text if len(text) <= BODY_LIMIT else None,
    }


def _adopted_values(row: AdoptedRow) -> dict[str, _Value]:
    return {
        "name": row.name,
        "checksum": row.checksum,
        "moment": row.moment or "-infinity",
        "duration_ms": row.duration_ms,
        "run_id": row.run_id,
        "tool_version": __version__,
        "source": row.source,
        "body": row.text if len(row.text) <= BODY_LIMIT else None,
    }


def _mended_values(row: AdoptedRow) -> dict[str, _Value]:
    values = _adopted_values(row)
    return {key: values[key] for key in ("name", "checksum", "source", "body")}


def _literal(escaping: EscapingProtocol, value: _Value) -> bytes:
    if value is None:
        return b"NULL"
    if isinstance(value, int):
        return b"%d" % value
    if isinstance(value, list):
        return b"ARRAY[%b]::text[]" % b", ".join(_literal(escaping, item) for item in value)
    return bytes(escaping.escape_literal(value if isinstance(value, bytes) else value.encode()))


@lru_cache
def _split_query(query: str) -> tuple[tuple[bytes, str], ...]:
    """Split a query into texts, each with the name of the field behind the text, or with an empty name."""
    return tuple(
        (text.encode(), name or "") for text, name, _, _ in Formatter().parse(queries.load(__file__, "history")[query])
    )
