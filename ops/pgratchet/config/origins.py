"""Names where a target's values come from: environment variables, the env file or the inventory. It shows no value."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pgratchet.config.inventory import InventoryTarget
from pgratchet.config.templates import EnvironmentReader
from pgratchet.database.target import Origins
from pgratchet.variables import Variables

_SECRET_NAME = re.compile(r"PASS|SECRET|TOKEN|KEY|_URL$|^URL$|URI|DSN|CREDENTIAL", re.IGNORECASE)

_PLAIN = re.compile(
    r"[+-]?\d{0,12}(\.\d+)?|\d{1,12}(\.\d+)? ?(ms|[smhdw]|secs?|mins?|seconds?|minutes?|hours?|days?|weeks?|[kmgt]?i?b)"
    r"|[a-z_-]{1,11}",
    re.IGNORECASE,
)
"""Numbers, also with a unit, and short words: they are shown when they are not what a variable accepts."""


def variables_read(readers: Sequence[EnvironmentReader]) -> dict[str, list[str]]:
    """The environment variables that were read, by the variable of the inventory."""
    return {name: variables for reader in readers for name, variables in reader.read_for.items()}


def named(target: InventoryTarget, environment_variables: Sequence[str]) -> str:
    """Environment variables in words, with the env file for those that only it sets."""
    file = target.variables.get("env_file")
    texts = [name if name in os.environ or not file else f"{name} in {file}" for name in environment_variables]
    return " and ".join(dict.fromkeys(texts))


def all_named(target: InventoryTarget, read: Mapping[str, Sequence[str]], from_url: Collection[str]) -> dict[str, str]:
    """The origin of each variable in words. `from_url` are the variables that the target's pg_url has set."""
    origins = {name: named(target, variables) for name, variables in read.items()}
    url = origins.get("pg_url", "pg_url")
    return origins | dict.fromkeys(from_url, f"the URL in {url}" if url == "pg_url" else url)


def secret_values(read: Mapping[str, Sequence[str]], secrets: Collection[str], values: Mapping[str, Any]) -> set[str]:
    """The variables whose values may be secrets: by the environment variables that they read, or by their form.

    A password may have got into the wrong environment variable.
    """
    return {
        name
        for name, used in read.items()
        if any(each in secrets or _SECRET_NAME.search(each) for each in used)
        or not _PLAIN.fullmatch(str(values.get(name, "")))
    }


def secret_parts(from_url: Mapping[str, str]) -> set[str]:
    """The variables of a URL whose values may be a part of its password, as the port in postgresql://user:password."""
    plain = {name for name, value in from_url.items() if _PLAIN.fullmatch(value)}
    return set(from_url) - plain | ({"pg_port"} if not from_url.get("pg_port", "").isdigit() else set())


def of_connection(variables: Variables, origin_of: Mapping[str, str]) -> Origins:
    """The origins of a target's address and password, for the hints of failed connections."""
    if variables.password_command:
        password = f"the password_command, which runs {variables.password_command[0]}"
    else:
        password = origin_of.get("pg_password", "pg_password in the inventory") if variables.pg_password else ""
    host, user, database = (
        origin_of.get(name, f"{name} in the inventory") for name in ("pg_host", "pg_user", "pg_dbname")
    )
    server = origin_of.get("pg_host", "") if variables.embedded else ""
    return Origins(password, host, user, database, server)


def explained(mistake: str, origin: Any) -> str:
    """A mistake with the origin of the value."""
    return f"{mistake} The value comes from {origin}." if origin else mistake
