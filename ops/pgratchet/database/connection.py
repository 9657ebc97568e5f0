"""Opens connections, and translates the errors of libpq and the server.

Connections are in autocommit mode and never prepare statements: no transaction stays open between commands, and a
file's text is sent unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psycopg

from pgratchet.environment import without_variables
from pgratchet.errors import ConfigurationError, MigrationFailed, RatchetError, Unreachable
from pgratchet.formatting import suggest

if TYPE_CHECKING:
    from pgratchet.database.target import Origins

_TOO_MANY = re.compile("too many (connections|clients)|connection slots")


def connect(
    parameters: Mapping[str, str], *, application_name: str = "pgratchet", origins: Origins | None = None
) -> psycopg.Connection:
    """Open a connection with libpq parameters; Unreachable with libpq's message when no connection can be made.

    `origins` says where the parameters come from, for the hint of an error.
    """
    settings = {"application_name": application_name, **parameters, "client_encoding": "UTF8"}
    try:
        with without_variables("PG"):  # libpq would take from them what the settings leave out
            return psycopg.connect(**settings, autocommit=True, prepare_threshold=None)  # type: ignore[arg-type]
    except psycopg.OperationalError as error:
        if "not currently accepting connections" in str(error):
            raise _no_connections_allowed(parameters, str(error)) from error
        if _TOO_MANY.search(str(error)):
            raise _too_many_connections(parameters, str(error)) from error
        raise _not_connected(str(error), settings, parameters, origins) from error
    except psycopg.ProgrammingError as error:
        raise ConfigurationError(
            f"libpq does not accept the settings of {describe(parameters)}",
            detail=str(error).strip(),
            hint="Fix templates/pg_service.conf.j2 or the inventory; `invoke render` shows the result.",
        ) from error


def _not_connected(
    message: str, settings: Mapping[str, str], parameters: Mapping[str, str], origins: Origins | None
) -> RatchetError:
    from pgratchet.database.connection_errors import Failure, explain
    from pgratchet.database.target import Origins

    failure = Failure(message, parameters, origins or Origins(), lambda: _similar_database(settings))
    return explain(failure, describe(parameters))


def _similar_database(settings: Mapping[str, str]) -> str:
    """A question that names the most similar database of the server, if this login may list them."""
    with suppress(psycopg.Error), without_variables("PG"):
        own = {**settings, "dbname": "postgres", "connect_timeout": "5"}
        with psycopg.connect(**own, autocommit=True, prepare_threshold=None) as connection:  # type: ignore[arg-type]
            rows = connection.execute("SELECT datname FROM pg_catalog.pg_database WHERE datallowconn").fetchall()
        return suggest(settings.get("dbname", ""), [row[0] for row in rows]).strip()
    return ""


def _no_connections_allowed(parameters: Mapping[str, str], message: str) -> Unreachable:
    # Recognized by the message: libpq reports no SQLSTATE for a connection that fails.
    from pgratchet.database.connection_errors import shorten

    name = parameters.get("dbname", "").replace('"', '""')
    return Unreachable(
        f"{describe(parameters)} accepts no connections",
        detail=shorten(message, parameters),
        hint="An interrupted restore can leave the database closed and unchanged. Run `invoke restore` again. To open "
        f'the database instead, run in another database: ALTER DATABASE "{name}" ALLOW_CONNECTIONS true.',
    )


def _too_many_connections(parameters: Mapping[str, str], message: str) -> Unreachable:
    from pgratchet.database.connection_errors import shorten

    return Unreachable(
        f"no connection is free for {describe(parameters)}",
        detail=shorten(message, parameters),
        hint="End sessions or raise the limit that the server names. A run with a backup needs at least 3 sessions.",
    )


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise errors of our own statements, for the history or the lock, as RatchetError."""
    try:
        yield
    except psycopg.Error as error:
        if error.sqlstate is None or error.sqlstate.startswith(("08", "57P", "25P03", "25P04")):
            raise Unreachable(
                "the connection was lost", detail=sentence(first_line(error)), hint="Run again when the server answers."
            ) from error
        raise MigrationFailed(
            f"the server refused to create or change the history: {first_line(error)}",
            detail="\n".join(error_details(error)),
            hint="Grant the right to the role of this environment; `invoke doctor` names the rights that it lacks. The "
            "first run needs CREATE on the database.",
        ) from error


def describe(parameters: Mapping[str, str]) -> str:
    """Describe a connection's destination in a phrase, without secrets."""
    host = parameters.get("host", "the local socket")
    port = parameters.get("port", "5432")
    return f'database "{parameters.get("dbname", "")}" on {host}, port {port}, as {parameters.get("user", "")}'


def parse_url(url: str, title: str = "the connection URL") -> dict[str, str]:
    """Parse a connection URL into libpq parameters; ConfigurationError when libpq cannot read the URL."""
    try:
        return {key: str(value) for key, value in psycopg.conninfo.conninfo_to_dict(url).items() if value is not None}
    except psycopg.ProgrammingError:
        # libpq's message can quote the URL with its password, so the message is left out here and in the traceback.
        raise ConfigurationError(
            f"{title} cannot be read",
            detail="It is not in the form of libpq's connection URLs.",
            hint="Write postgresql://user:password@host:5432/database, with special characters percent-encoded.",
        ) from None


def known_parameters() -> frozenset[str]:
    """The names of libpq's connection parameters."""
    return frozenset(option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults())


def first_line(error: psycopg.Error) -> str:
    """Return the primary message of the server or libpq, in a line."""
    return (error.diag.message_primary or str(error).strip() or type(error).__name__).splitlines()[0]


def sentence(text: str) -> str:
    """End a text with a full stop, unless another mark ends the text."""
    return text if text.endswith((".", "?", "!")) else text + "."


def error_details(error: psycopg.Error) -> list[str]:
    """Return the server's detail, context and hint, as sentences."""
    diagnostic = error.diag
    return [sentence(t) for t in (diagnostic.message_detail, diagnostic.context, diagnostic.message_hint) if t]
