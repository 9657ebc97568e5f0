"""Converts a connection URL to inventory variables."""

from __future__ import annotations

import re

from pgratchet.errors import ConfigurationError
from pgratchet.variables import Variables, names


def variables_from_url(url: str) -> dict[str, str]:
    """The variables that a connection URL sets. ConfigurationError for a URL parameter without a variable."""
    from pgratchet.database.connection import parse_url

    _require_encoded(url)
    variables = {f"pg_{key}": value for key, value in parse_url(url).items()}
    known = names(Variables)
    unknown = sorted(name.removeprefix("pg_") for name in variables if name not in known)
    if unknown:
        raise ConfigurationError(
            f"the connection URL has parameters that cannot be used: {', '.join(unknown)}",
            detail="Only parameters that the inventory has a variable for reach a connection.",
            hint="Take them out of the URL, and write them into templates/pg_service.conf.j2 where they are needed.",
        )
    return variables


def _require_encoded(url: str) -> None:
    """Refuse an unencoded @ or / in the password. libpq would read a part of the password as host or port."""
    authority = url.partition("?")[0].partition("://")[2]
    user, _, rest = authority.partition("@")
    # libpq takes a ? before the first @ for a part of the password too.
    user_with_query, _, host = url.partition("://")[2].partition("@")
    if "@" in rest or ("/" in user and rest) or ("/" not in user_with_query and "@" in re.split("[/?]", host)[0]):
        raise ConfigurationError(
            "the connection URL cannot be read",
            detail="It has an @ or a / that belongs to the user or password and is not encoded.",
            hint="Percent-encode special characters in it: %40 for @, %2F for /, %3A for a colon.",
        )
