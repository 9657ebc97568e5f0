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
from urllib.parse import quote

import jinja2

from pgratchet.config.secrets import MASK

_SERVICE_VALUE_LIMIT = 900
"""Characters of a value in a service file. libpq refuses lines of 1023 bytes (parseServiceFile in fe-connect.c)."""


def _percent_encode(value: object) -> str:
    """Percent-encoding for a URL. A mask stays unchanged."""
    return MASK if value == MASK else quote(str(value), safe="")


def inventory_value(value: object) -> object:
    """The result of an expression in the inventory. An empty text is valid, None is not."""
    if value is None:
        raise jinja2.TemplateRuntimeError("an expression in it gives none, which is no value")
    return value


def _service_value(value: object) -> str:
    """A value of a service file. The format has no quoting."""
    text = str(value)
    _require_single_line(value, text)
    if text != text.strip():
        raise jinja2.TemplateRuntimeError("a value begins or ends with a space, which a service file cannot hold")
    if len(text) > _SERVICE_VALUE_LIMIT:
        raise jinja2.TemplateRuntimeError("a value is longer than the 900 characters that libpq reads")
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
            raise jinja2.TemplateRuntimeError(f"a value holds {description}, which an env file cannot carry everywhere")
    if text.endswith("\\"):
        raise jinja2.TemplateRuntimeError("a value ends in a backslash, which an env file cannot carry everywhere")
    return text


def yaml_value(value: object) -> str:
    """A whole value of a YAML file, written as JSON. All JSON is YAML, with two exceptions.

    YAML does not accept some unescaped characters of JSON, so unprintable characters are escaped. YAML does not join
    JSON's surrogate pairs, so all other characters are written unchanged.
    """
    if isinstance(value, jinja2.Undefined):
        str(value)  # raises, naming the variable
    if value is None:
        raise jinja2.TemplateRuntimeError("an expression gives none, which is no value")
    if isinstance(value, _Expression):
        return value
    text = json.dumps(value, ensure_ascii=False)
    if "${{" in text:
        raise jinja2.TemplateRuntimeError("a value holds ${{, which a workflow would take for an expression")
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


class _Expression(str):
    """An expression evaluated by a GitHub workflow."""

    __slots__ = ()


def _github_secret(name: object) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(name)):
        raise jinja2.TemplateRuntimeError("a secret has a name that GitHub does not take")
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
    if isinstance(value, jinja2.Undefined):
        str(value)  # raises, naming the variable
    if value is None or text == "":
        raise jinja2.TemplateRuntimeError("an empty value is written: what is empty must be left out")
    if any(character in text for character in "\r\n\0"):
        raise jinja2.TemplateRuntimeError("a value holds a line end or NUL, and would be read as more than one")


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
