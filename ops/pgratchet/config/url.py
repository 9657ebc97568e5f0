"""Converts a connection URL to inventory variables. No error contains the URL, because it may have a password."""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import unquote

from pgratchet.errors import ConfigurationError
from pgratchet.variables import Variables, names

_SCHEMA = (
    "Set the schema with ALTER ROLE ... SET search_path, or write it in the migrations. "
    "The variable history_schema sets the schema of the history table."
)
_DRIVER = "It configures an application's driver or connection pool, and libpq does not know it."
_TLS = "Use the parameter sslmode, or the variable pg_sslmode."
_TIMEOUT = "Use the variables migration_timeout, lock_timeout and pg_connect_timeout."
_TEMPLATE = "Write it in templates/pg_service.conf.j2."
_ADVICE = {
    **dict.fromkeys(("schema", "currentschema", "search_path", "searchpath", "schema_search_path"), _SCHEMA),
    **dict.fromkeys(("ssl", "sslaccept", "sslidentity", "sslfactory", "tls", "uselibpqcompat", "ssl_mode"), _TLS),
    **dict.fromkeys(
        ("statement_timeout", "query_timeout", "lock_timeout", "timeout", "sockettimeout", "logintimeout"), _TIMEOUT
    ),
    **dict.fromkeys(("connecttimeout", "connection_timeout", "connectiontimeoutmillis"), _TIMEOUT),
    **dict.fromkeys(("username", "database", "db"), "Use the parameters user and dbname."),
    **dict.fromkeys(("passfile", "service"), "Use the variables pg_password or password_command."),
}
"""The advice for parameters of popular drivers and ORMs, by lower-case name."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,40}")


def variables_from_url(url: str, source: str = "") -> dict[str, str]:
    """The variables that a connection URL sets. ConfigurationError for a URL parameter without a variable.

    `source` names the environment variable with the URL, if it comes from one.
    """
    variables = {f"pg_{key}": value for key, value in parameters_from_url(url, source).items()}
    known = names(Variables)
    unknown = sorted(name.removeprefix("pg_") for name in variables if name not in known)
    if unknown:
        raise _unusable(source, {name: _ADVICE.get(name, _TEMPLATE) for name in unknown})
    return variables


def parameters_from_url(url: str, source: str = "") -> dict[str, str]:
    """The libpq parameters in a connection URL. ConfigurationError names the parameters that libpq does not know."""
    from pgratchet.database.connection import known_parameters, parse_url

    if mistake := _unreadable(url):
        raise ConfigurationError(f"{_title(source)} cannot be read", detail=mistake[0], hint=mistake[1])
    libpq_names = known_parameters()
    foreign = [name for name in _parameter_names(url) if name not in libpq_names]
    if foreign:
        raise _unusable(source, {name: _foreign_advice(name, libpq_names) for name in foreign})
    return parse_url(url, _title(source))


def _title(source: str) -> str:
    return f"the connection URL in {source}" if source else "the connection URL"


def _foreign_advice(name: str, libpq_names: Collection[str]) -> str:
    """Advice for a parameter that libpq does not know: a typing error, or a parameter of another library."""
    import difflib

    near = difflib.get_close_matches(name.lower(), libpq_names, n=1, cutoff=0.85)
    return _ADVICE.get(name.lower()) or (f"libpq does not know it. Did you mean {near[0]}?" if near else _DRIVER)


def _unusable(source: str, advice: dict[str, str]) -> ConfigurationError:
    return ConfigurationError(
        f"{_title(source)} has parameters that cannot be used: {', '.join(advice)}",
        detail="\n".join(f"{name}: {text}" for name, text in advice.items()),
        hint="Correct or remove them in this URL. Keep the application's own URL in another environment variable.",
    )


def _parameter_names(url: str) -> list[str]:
    """The names in a URL's query, where libpq looks for it: behind the user and password, if any.

    A name that libpq cannot know is left out when it may be a part of a secret: of a password with an unencoded &.
    """
    if not url.startswith(("postgresql://", "postgres://")):
        return []
    rest = url.partition("://")[2]
    user = re.match(r"[^@/]*@", rest)
    query = rest[user.end() if user else 0 :].partition("?")[2]
    # libpq itself reads ssl=true as sslmode=require.
    pairs = [pair.partition("=") for pair in query.split("&") if pair != "ssl=true"]
    present = [unquote(name) for name, equals, _ in pairs if equals and _NAME.fullmatch(unquote(name))]
    has_secret = any("password" in name.lower() for name in present)
    return [name for name in dict.fromkeys(present) if not has_secret or name.lower() in _ADVICE]


def _unreadable(url: str) -> tuple[str, str] | None:
    """The mistake in a URL, and a hint. libpq would read a part of a password as host or port."""
    # Other libraries have jdbc:postgresql:// and postgresql+psycopg2://.
    scheme = re.match(r"(?:[A-Za-z][A-Za-z0-9+.-]{0,30}:)?[A-Za-z][A-Za-z0-9+.-]{0,30}(?=://)", url)
    if scheme and scheme[0] not in ("postgresql", "postgres"):
        example = "postgresql://user:password@host:5432/database"
        return f"It begins with {scheme[0]}://.", f"Begin it with postgresql://, as in {example}."
    authority = url.partition("?")[0].partition("://")[2]
    user, _, rest = authority.partition("@")
    # libpq takes a ? before the first @ for a part of the password too.
    user_with_query, _, host = url.partition("://")[2].partition("@")
    if "@" in rest or ("/" in user and rest) or ("/" not in user_with_query and "@" in re.split("[/?]", host)[0]):
        return (
            "It has an unencoded @ or / in the user or the password.",
            "Percent-encode special characters in it: %40 for @, %2F for /, %3A for a colon.",
        )
    return None
