"""Opens connections, and translates the errors of libpq and the server.

Connections are in autocommit mode and never prepare statements: no transaction stays open between commands, and a
file's text is sent unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg

from pgratchet.environment import without_variables
from pgratchet.errors import ConfigurationError, MigrationFailed, Unreachable


def connect(parameters: Mapping[str, str], *, application_name: str = "pgratchet") -> psycopg.Connection:
    """Open a connection with libpq parameters; Unreachable with libpq's message when no connection can be made."""
    settings = {"application_name": application_name, **parameters, "client_encoding": "UTF8"}
    try:
        with without_variables("PG"):  # libpq would take from them what the settings leave out
            return psycopg.connect(**settings, autocommit=True, prepare_threshold=None)  # type: ignore[arg-type]
    except psycopg.OperationalError as error:
        if "not currently accepting connections" in str(error):
            raise _no_connections_allowed(parameters, str(error)) from error
        raise Unreachable(
            f"cannot connect to {describe(parameters)}",
            detail=str(error).strip(),
            hint="Compare it with what `invoke render` shows for this environment.",
        ) from error
    except psycopg.ProgrammingError as error:
        raise ConfigurationError(
            f"libpq does not take the settings of {describe(parameters)}",
            detail=str(error).strip(),
            hint="Fix templates/pg_service.conf.j2 or the inventory; `invoke render` shows the result.",
        ) from error


def _no_connections_allowed(parameters: Mapping[str, str], message: str) -> Unreachable:
    # Recognized by the message: libpq reports no SQLSTATE for a connection that fails.
    name = parameters.get("dbname", "").replace('"', '""')
    return Unreachable(
        f"{describe(parameters)} takes no connections",
        detail=message.strip(),
        hint="A restore that was broken off at its swap leaves it so, and as it was. Run `invoke restore` again; or, "
        f'to go on as before, in another database: ALTER DATABASE "{name}" ALLOW_CONNECTIONS true.',
    )


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise errors of our own statements, for the history or the lock, as RatchetError."""
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
    """Describe a connection's destination in a phrase, without secrets."""
    host = parameters.get("host", "the local socket")
    port = parameters.get("port", "5432")
    return f'database "{parameters.get("dbname", "")}" on {host}, port {port}, as {parameters.get("user", "")}'


def parse_url(url: str) -> dict[str, str]:
    """Parse a connection URL into libpq parameters; ConfigurationError when libpq cannot read the URL."""
    try:
        return {key: str(value) for key, value in psycopg.conninfo.conninfo_to_dict(url).items() if value is not None}
    except psycopg.ProgrammingError:
        # libpq's message can quote the URL with its password, so the message is left out here and in the traceback.
        raise ConfigurationError(
            "the connection URL cannot be read",
            detail="It is not what libpq takes for a URL.",
            hint="Write postgresql://user:password@host:5432/database, with special characters percent-encoded.",
        ) from None


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
