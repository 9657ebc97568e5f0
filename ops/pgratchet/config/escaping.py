"""Writes values into the formats of templates, escaped as each format needs.

A value that a format cannot hold stops the rendering. A line end in a service file, for example, would begin another
parameter (https://www.postgresql.org/docs/current/libpq-pgservice.html). No error contains the value, because the value
may be a secret.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

import jinja2
from typing_extensions import Self

from pgratchet.config.secrets import MASK

_SERVICE_VALUE_LIMIT = 900
"""Bytes of a value in a service file. libpq refuses lines of 1023 bytes (parseServiceFile in fe-connect.c)."""


class EmptyValue(str):
    """An empty value of a variable. It is false in a template's conditions, and an error when it is written."""

    __slots__ = ("variable",)
    variable: str

    @classmethod
    def of(cls, variable: str) -> EmptyValue:
        value = cls()
        value.variable = variable
        return value


class NamedValue(str):
    """A value with the name of its variable, which an error names when the format cannot express the value."""

    __slots__ = ("variable",)
    variable: str

    @classmethod
    def of(cls, variable: str, value: object) -> Self:
        named = cls(value)
        named.variable = variable
        return named


@dataclass(frozen=True, slots=True)
class Address:
    """One server of a list in `pg_host`. `host` is empty for libpq's default socket."""

    host: str
    port: str

    def __str__(self) -> str:
        """The address as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def addresses_of(hosts: str, ports: str) -> list[Address]:
    """The servers of libpq's parameters host and port, which are lists; one port may be for all hosts."""
    names, numbers = hosts.split(","), ports.split(",")
    pairs = [(name, numbers[index] if len(numbers) > 1 else ports) for index, name in enumerate(names)]
    return [Address(NamedValue.of("pg_host", name), NamedValue.of("pg_port", port)) for name, port in pairs]


class UnwritableValueError(jinja2.TemplateRuntimeError):
    """A format cannot express the value of a variable. The reason is a sentence without the value."""

    def __init__(self, variable: str, reason: str) -> None:
        super().__init__(f"{variable}: {reason}")
        self.variable = variable
        self.reason = reason


def _unwritable(value: object, problem: str) -> jinja2.TemplateRuntimeError:
    """The error for a value that a format cannot express. `problem` goes on behind "a value" or "its value"."""
    if isinstance(value, NamedValue):
        return UnwritableValueError(value.variable, f"Its value {problem}.")
    return jinja2.TemplateRuntimeError(f"a value {problem}")


class EmptyVariableError(jinja2.TemplateRuntimeError):
    """A template writes a variable that is empty."""

    def __init__(self, variable: str) -> None:
        super().__init__(f"{variable} is empty")
        self.variable = variable


def _percent_encode(value: object) -> str:
    """Percent-encoding for a URL. A mask stays unchanged."""
    _require_value(value)
    return MASK if value == MASK else quote(str(value), safe="")


def inventory_value(value: object) -> object:
    """The result of an expression in the inventory. An empty text is valid, None is not."""
    if value is None:
        raise jinja2.TemplateRuntimeError("an expression in it gives none")
    return value


def _service_value(value: object) -> str:
    """A value of a service file. The format has no quoting."""
    text = str(value)
    _require_single_line(value, text)
    if text != text.strip():
        raise _unwritable(value, "begins or ends with a space, which a service file cannot express")
    if len(text.encode(errors="surrogateescape")) > _SERVICE_VALUE_LIMIT:
        raise _unwritable(value, "is longer than 900 bytes, which libpq does not read")
    return text


def _pgpass_value(value: object) -> str:
    _require_single_line(value, str(value))
    return str(value).replace("\\", "\\\\").replace(":", "\\:")


def _env_file_value(value: object) -> str:
    """A value of an env file, between single quotes.

    Shells, Node.js and Docker Compose read single quotes alike. python-dotenv does only without double backslashes and
    without ${X} in the value (tests/acceptance/test_render.py::test_an_env_file_is_read_back_unchanged).
    """
    text = str(value)
    _require_single_line(value, text)
    for description, part in (
        ("a single quote", "'"),
        ("two backslashes in a row", "\\\\"),
        ("a dollar and a brace", "${"),
    ):
        if part in text:
            raise _unwritable(value, f"has {description}, which not every reader of env files accepts")
    if text.endswith("\\"):
        raise _unwritable(value, "ends with a backslash, which not every reader of env files accepts")
    return text


def yaml_value(value: object) -> str:
    """A whole value of a YAML file, written as JSON. All JSON is YAML, with two exceptions.

    YAML does not accept some unescaped characters of JSON, so unprintable characters are escaped. YAML does not join
    JSON's surrogate pairs, so all other characters are written unchanged.
    """
    if isinstance(value, jinja2.Undefined):
        str(value)  # raises, naming the variable
    if value is None:
        raise jinja2.TemplateRuntimeError("an expression gives none")
    if isinstance(value, _Expression):
        return value
    text = json.dumps(value, ensure_ascii=False)
    if "${{" in text:
        raise _unwritable(value, "has ${{ in it, which a workflow would evaluate as an expression")
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


class _Expression(str):
    """An expression evaluated by a GitHub workflow."""

    __slots__ = ()


def _github_secret(name: object) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(name)):
        raise jinja2.TemplateRuntimeError("a secret has a name that GitHub does not accept")
    return _Expression(f"${{{{ secrets.{name} }}}}")


def _shell_word(value: object) -> str:
    return shlex.quote(str(value))


def _double_dollars(value: object) -> str:
    """A text without expansions in Kubernetes and GitLab. Both read two dollars as a dollar."""
    return str(value).replace("$", "$$")


def _kubernetes_name(value: object) -> str:
    """A Kubernetes name: ASCII letters, digits and dashes, at most 52, because Kubernetes adds a suffix for pods."""
    return re.sub(r"[^a-z0-9]+", "-", str(value).lower())[:52].strip("-") or "x"


def _require_single_line(value: object, text: str) -> None:
    _require_value(value)
    if value is None or text == "":
        raise jinja2.TemplateRuntimeError("it writes an empty value, which must be left out")
    if any(character in text for character in "\r\n\0"):
        raise _unwritable(value, "has a line end or a NUL in it, which the format cannot express")


def _require_value(value: object) -> None:
    if isinstance(value, jinja2.Undefined):
        str(value)  # raises, naming the variable
    if isinstance(value, EmptyValue):
        raise EmptyVariableError(value.variable)


FILTERS: dict[str, Callable[[object], str]] = {
    "percent": _percent_encode,
    "shell": _shell_word,
    "dollars": _double_dollars,
    "label": _kubernetes_name,
    "github_secret": _github_secret,
}
"""The filters of all templates, by name."""

FINALIZERS: dict[str, Callable[[object], str]] = {
    "pg_service.conf.j2": _service_value,
    "pgpass.j2": _pgpass_value,
    "database.env.j2": _env_file_value,
}
"""How each template writes a value. All other templates are YAML."""
