"""The one way to a PostgreSQL session, and what is asked of a server before it is trusted with a migration.

Owns connecting, the translation of libpq's failures, and the judgement of where we are connected. Refuses to
know where the settings come from. Sessions are in autocommit and never prepare statements, so that nothing is
held open between commands and a file's text can travel as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psycopg
from psycopg import generators, pq

from pgratchet.environment import without_variables
from pgratchet.errors import ConfigurationError, MigrationFailed, Unreachable

OLDEST = 130000
"""The oldest server_version_num taken: 13, the first with pg_current_xact_id and its status."""


@dataclass(frozen=True, slots=True)
class Server:
    """What a session says of itself. `version` is server_version_num."""

    version: int
    database: str
    user: str
    system_identifier: str
    in_recovery: bool
    read_only: bool
    encoding: str
    pooled: bool

    @property
    def major(self) -> int:
        return self.version // 10000


_SERVER = """
SELECT current_setting('server_version_num'), current_database(), session_user, system_identifier,
       pg_is_in_recovery(), current_setting('transaction_read_only')::bool, current_setting('server_encoding'),
       pg_backend_pid()
FROM pg_control_system()
"""


def connect(parameters: Mapping[str, str], *, application_name: str = "pgratchet") -> psycopg.Connection:
    """Open a session from libpq parameters; Unreachable with the server's own words where it cannot be had."""
    settings = {"application_name": application_name, **parameters, "client_encoding": "UTF8"}
    try:
        with without_variables("PG"):  # libpq would take what the settings leave out from them
            return psycopg.connect(**settings, autocommit=True, prepare_threshold=None)  # type: ignore[arg-type]
    except psycopg.OperationalError as error:
        if "not currently accepting connections" in str(error):
            raise _closed(parameters, str(error)) from error
        raise Unreachable(
            f"cannot connect to {describe(parameters)}",
            detail=str(error).strip(),
            hint="Compare it with what `invoke render` shows for this environment.",
        ) from error
    except psycopg.ProgrammingError as error:
        raise ConfigurationError(
            f"libpq does not take the settings of {describe(parameters)}",
            detail=str(error).strip(),
            hint="Mend templates/pg_service.conf.j2 or the inventory; `invoke render` shows the result.",
        ) from error


def _closed(parameters: Mapping[str, str], told: str) -> Unreachable:
    """For want of an SQLSTATE, which libpq has not of a connection that fails, the server's words have to tell."""
    name = parameters.get("dbname", "").replace('"', '""')
    return Unreachable(
        f"{describe(parameters)} takes no connections",
        detail=told.strip(),
        hint="A restore that was broken off at its swap leaves it so, and as it was. Run `invoke restore` again; or, "
        f'to go on as before, in another database: ALTER DATABASE "{name}" ALLOW_CONNECTIONS true.',
    )


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn what the server says to our own statements, those of the history and the lock, into our errors."""
    try:
        yield
    except psycopg.Error as error:
        if error.sqlstate is None or error.sqlstate.startswith(("08", "57P")):
            raise Unreachable(
                "the connection was lost", detail=sentence(first_line(error)), hint="Run again when the server answers."
            ) from error
        raise MigrationFailed(
            f"the server refused what the history needs: {first_line(error)}",
            detail="\n".join(error_details(error)),
            hint="Give the role of this environment that right, such as CREATE on the database for the first run.",
        ) from error


def describe(parameters: Mapping[str, str]) -> str:
    """Where a connection goes, in a phrase without any secret."""
    host = parameters.get("host", "the local socket")
    port = parameters.get("port", "5432")
    return f'database "{parameters.get("dbname", "")}" on {host}, port {port}, as {parameters.get("user", "")}'


def parse_url(url: str) -> dict[str, str]:
    """The libpq parameters in a connection URL; ConfigurationError where libpq cannot read it."""
    try:
        return {key: str(value) for key, value in psycopg.conninfo.conninfo_to_dict(url).items() if value is not None}
    except psycopg.ProgrammingError:
        # libpq's message may quote the URL with its password: it is left out, and out of the chain.
        raise ConfigurationError(
            "the connection URL cannot be read",
            detail="It is not what libpq takes for a URL.",
            hint="Write postgresql://user:password@host:5432/database, with special characters percent-encoded.",
        ) from None


def inspect(connection: psycopg.Connection) -> Server:
    """Ask the server of a connection what it is."""
    return inspect_and_ask(connection, b"")[0]


def inspect_and_ask(connection: psycopg.Connection, query: bytes) -> tuple[Server, Answer]:
    """Ask the server what it is, and the query behind that, in one round trip; the query may fail."""
    answer = send(connection, b"%b;\n%b" % (_SERVER.encode(), query))
    if not answer.results:
        raise answer.error or psycopg.OperationalError("the server gave no answer")
    (version, database, user, identifier, recovery, read_only, encoding, pid), *_ = rows(answer.results[0])
    return Server(
        version=int(version or 0),
        database=database or "",
        user=user or "",
        system_identifier=identifier or "",
        in_recovery=recovery == "t",
        read_only=read_only == "t",
        encoding=encoding or "",
        # A pooler hands out a process id of its own: what the server says is another's (facts, 2a).
        pooled=int(pid or 0) != connection.info.backend_pid,
    ), answer


def database_size(connection: psycopg.Connection) -> int:
    """Bytes on the server's disk."""
    row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    return int(row[0]) if row else 0


def refuse_other_cluster(server: Server, pinned_identifier: str) -> None:
    """Raise where nothing at all may be done: on another cluster than the one that is pinned, where one is."""
    if pinned_identifier and server.system_identifier != pinned_identifier:
        raise ConfigurationError(
            f'database "{server.database}" is not on the server that this environment is pinned to',
            detail=f"Its system identifier is {server.system_identifier}; the inventory says {pinned_identifier}.",
            hint="Make sure where pg_host leads. Change pg_system_identifier only when the server was really replaced.",
        )


def refuse_unfit(server: Server, pinned_identifier: str = "") -> None:
    """Raise where no migration may run: wrong cluster, standby, read-only session, too old."""
    refuse_other_cluster(server, pinned_identifier)
    where = f'database "{server.database}"'
    if server.version < OLDEST:
        raise ConfigurationError(
            f"the server is PostgreSQL {server.major}",
            detail="It has not what exactly-once needs; the oldest that does is 13.",
            hint="Upgrade the server.",
        )
    if server.in_recovery:
        raise ConfigurationError(
            f"{where} is on a standby",
            detail="A standby replays its primary and takes no changes.",
            hint="Point the inventory at the primary, or set pg_target_session_attrs to read-write.",
        )
    if server.read_only:
        raise ConfigurationError(
            f"{where} is read-only",
            detail="The setting default_transaction_read_only is on for this server, database or role.",
            hint="Use a role that may write, or lift the setting with those who made it.",
        )
    if server.encoding == "SQL_ASCII":
        raise ConfigurationError(
            f"{where} has the encoding SQL_ASCII",
            detail="The server would store the bytes of a migration unchecked and unconverted.",
            hint="Recreate the database with the encoding UTF8.",
        )


def refuse_pooled(server: Server, what: str) -> None:
    """Raise where a connection pooler stands before the server, and `what` cannot be done through one."""
    if server.pooled:
        raise ConfigurationError(
            f'database "{server.database}" is reached through a connection pooler, where {what}',
            detail="A pooler in transaction mode gives each transaction another of the server's sessions, "
            "and what is set in a session stays behind for others.",
            hint="Give the server's own address as pg_direct_host and pg_direct_port; `invoke render` goes on "
            "to give the application the pooler's.",
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What a simple query of several statements came to.

    `results` are those of the statements that succeeded before the `error`; `lost` says that the connection
    broke, so that more of them may have succeeded than were heard of.
    """

    results: Sequence[pq.abc.PGresult]
    error: psycopg.Error | None
    lost: bool = False

    @property
    def answered(self) -> int:
        return len(self.results)

    @property
    def tables(self) -> list[pq.abc.PGresult]:
        """Those of the results that have columns."""
        return [result for result in self.results if result.nfields]


def send(connection: psycopg.Connection, text: bytes) -> Answer:
    """Send a text of several statements in one round trip, by the simple protocol, and keep every result.

    A cursor would drop the results before an error, which say which statement it was; hence one level lower.
    """
    try:
        with connection.lock:
            connection.pgconn.send_query(text)
            results = connection.wait(generators.execute(connection.pgconn))
    except psycopg.OperationalError as error:
        return Answer((), error, lost=True)
    except KeyboardInterrupt:
        _cancel(connection)
        raise
    return _answer(connection, results)


def copy(connection: psycopg.Connection, statement: bytes, data: memoryview) -> Answer:
    """Send a COPY ... FROM STDIN and its rows, a piece at a time, so that no second copy of them is made."""
    begun = send(connection, statement)
    if begun.error:
        return begun
    pgconn, wait = connection.pgconn, connection.wait
    try:
        with connection.lock:
            for at in range(0, len(data), _PIECE):
                wait(generators.copy_to(pgconn, data[at : at + _PIECE]))
            return Answer((wait(generators.copy_end(pgconn, None)),), None)
    except KeyboardInterrupt:
        _cancel(connection)
        raise
    except psycopg.Error as error:
        return Answer((), error, lost=pgconn.status != pq.ConnStatus.OK)


def _cancel(connection: psycopg.Connection) -> None:
    """End what is under way: a signal may come between sending and waiting, where psycopg does not see to it.

    A connection that cannot be had back is closed, which ends it too.
    """
    pgconn = connection.pgconn
    with suppress(psycopg.Error):
        if pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
            connection.cancel_safe(timeout=_CANCEL)
            connection.wait(generators.fetch_many(pgconn), timeout=_CANCEL)
        if pgconn.transaction_status == pq.TransactionStatus.ACTIVE:  # that was a COPY, which waits for its rows
            connection.wait(generators.copy_end(pgconn, b"interrupted"), timeout=_CANCEL)
    if pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
        pgconn.finish()


_CANCEL = 5.0
"""Seconds."""
_PIECE = 64_000
_GOOD = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK, pq.ExecStatus.EMPTY_QUERY)


def _answer(connection: psycopg.Connection, results: Sequence[pq.abc.PGresult]) -> Answer:
    good = [result for result in results if result.status in _GOOD]
    failed = [result for result in results if result.status == pq.ExecStatus.FATAL_ERROR]
    lost = connection.pgconn.status != pq.ConnStatus.OK
    if failed:
        return Answer(good, psycopg.errors.error_from_result(failed[0]), lost)
    return Answer(good, psycopg.OperationalError("the connection broke") if lost else None, lost)


def rows(result: pq.abc.PGresult) -> list[tuple[str | None, ...]]:
    """The rows of a result as the server's text."""
    columns = range(result.nfields)
    return [tuple(_text(result.get_value(n, c)) for c in columns) for n in range(result.ntuples)]


def _text(value: bytes | None) -> str | None:
    return None if value is None else bytes(value).decode()


def first_line(error: psycopg.Error) -> str:
    """What the server or libpq says in one line."""
    return (error.diag.message_primary or str(error).strip() or type(error).__name__).splitlines()[0]


def sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else text + "."


def error_details(error: psycopg.Error) -> list[str]:
    """What the server says beyond that line, as sentences."""
    diagnostic = error.diag
    return [sentence(t) for t in (diagnostic.message_detail, diagnostic.context, diagnostic.message_hint) if t]
