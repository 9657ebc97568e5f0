"""Renders Jinja templates strictly, with the escaping rules of each output format."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

import jinja2

from pgratchet.errors import ConfigurationError
from pgratchet.resources import packaged_folder

MASK = "********"


class _Environment:
    """env('X') and env('X', 'default') for templates. `found` are the names that were asked for and are set.

    `secrets` are those of them that were asked for while it was told to be `for_secret`.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.found: set[str] = set()
        self.secrets: set[str] = set()
        self.for_secret = False

    def __call__(self, name: str, default: str | None = None) -> str:
        value = self._environ.get(name, "")
        if value:
            self.found.add(name)
            if self.for_secret:
                self.secrets.add(name)
            return value
        if default is None:
            raise jinja2.UndefinedError(f"the environment variable {name} is not set")
        return default


class _Unasked(_Environment):
    """One in which a secret is not looked for: `noted` are the names, and whether each has a default."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(environ)
        self.noted: dict[str, bool] = {}

    def __call__(self, name: str, default: str | None = None) -> str:
        if not self.for_secret:
            return super().__call__(name, default)
        self.noted[name] = default is not None
        return MASK


def template_folders(folder: Path) -> list[Path]:
    """Where templates are looked for: the project's folder, then the package. A project overrides file by file."""
    return [folder, packaged_folder("templates")]


class _Templates:
    """Strict Jinja: undefined is an error, and each format's own rule judges every value that is written."""

    def __init__(self, folder: Path, names: Mapping[str, object]) -> None:
        self._folder = folder
        self._names = names
        self._for_values: jinja2.Environment | None = None  # kept, since there are many and making one takes long

    def text(self, template: str, context: Mapping[str, object]) -> str:
        environment = self._environment(_FINALIZERS.get(template, _yaml_value))
        try:
            return environment.get_template(template).render(context)
        except jinja2.TemplateNotFound as error:
            raise ConfigurationError(
                f"no template {self._folder / template}", hint="Put it back from version control."
            ) from error
        except jinja2.TemplateSyntaxError as error:
            raise ConfigurationError(
                f"{self._folder / template}, line {error.lineno}: not a template",
                detail=f"{error.message}.",
                hint="Mend the template; nothing was connected to.",
            ) from error
        except Exception as error:
            raise ConfigurationError(
                f"{self._folder / template} cannot be rendered",
                detail=_reason(error),
                hint="Give the variable a value in the inventory, or take it out of the template.",
            ) from error

    def value(self, text: str, context: Mapping[str, object]) -> str:
        self._for_values = self._for_values or self._environment(_inventory_value)
        return self._for_values.from_string(text).render(context)

    def _environment(self, finalize: Callable[[object], object]) -> jinja2.Environment:
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(template_folders(self._folder)),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            finalize=finalize,
            autoescape=False,  # noqa: S701  no HTML: each format has its own finalizer
        )
        environment.globals.update(self._names)
        environment.filters |= _FILTERS
        return environment


def _reason(error: Exception) -> str:
    return f"{str(error).rstrip('.') or type(error).__name__}."


def _percent(value: object) -> str:
    """Percent-encoding for a URL; the mask stays as it is."""
    return MASK if value == MASK else quote(str(value), safe="")


def _inventory_value(value: object) -> object:
    """What an expression in the inventory gives: empty where it is meant to be, but never the word None."""
    if value is None:
        raise jinja2.TemplateRuntimeError("an expression in it gives none, which is no value")
    return value


def _service_value(value: object) -> str:
    """A value of a service file: no quoting exists there, so what would need it cannot be said."""
    text = str(value)
    _refuse_unwritable(value, text)
    if text != text.strip():
        raise jinja2.TemplateRuntimeError("a value begins or ends with a space, which a service file cannot hold")
    if len(text) > 900:
        raise jinja2.TemplateRuntimeError("a value is longer than the 900 characters that libpq reads")
    return text


def _pgpass_value(value: object) -> str:
    _refuse_unwritable(value, str(value))
    return str(value).replace("\\", "\\\\").replace(":", "\\:")


def _env_value(value: object) -> str:
    """A value of an env file, in single quotes, about which shells, Node and Docker Compose agree; python-dotenv, which
    makes one backslash of two there and puts variables in for ${X}, only where neither occurs (measured)."""
    text = str(value)
    _refuse_unwritable(value, text)
    for what, found in (("a single quote", "'"), ("two backslashes in a row", "\\\\"), ("a dollar and a brace", "${")):
        if found in text:
            raise jinja2.TemplateRuntimeError(f"a value holds {what}, which an env file cannot carry everywhere")
    if text.endswith("\\"):
        raise jinja2.TemplateRuntimeError("a value ends in a backslash, which an env file cannot carry everywhere")
    return text


def _yaml_value(value: object) -> str:
    """A whole value of a YAML file, as JSON, which YAML reads as it is meant whatever is in it.

    JSON lets stand some characters that YAML wants escaped, and writes others as two surrogates, which YAML does not
    put together: those are escaped, and these left as they are.
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
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


class _Expression(str):
    """What a workflow is to put a value in for."""

    __slots__ = ()


def _github_secret(name: object) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(name)):
        raise jinja2.TemplateRuntimeError("a secret has a name that GitHub does not take")
    return _Expression(f"${{{{ secrets.{name} }}}}")


def _shell(value: object) -> str:
    """One word of a shell's line."""
    return shlex.quote(str(value))


def _dollars(value: object) -> str:
    """A text in which Kubernetes and GitLab expand nothing: to both two dollars are one."""
    return str(value).replace("$", "$$")


def _label(value: object) -> str:
    """A name as Kubernetes takes it: letters of ASCII, digits and dashes, 52 of them, so that a pod's fits behind."""
    return re.sub(r"[^a-z0-9]+", "-", str(value).lower())[:52].strip("-") or "x"


def _refuse_unwritable(value: object, text: str) -> None:
    """Says what is wrong, never with the value: it may be a secret."""
    if isinstance(value, jinja2.Undefined):
        str(value)  # raises, naming the variable
    if value is None or text == "":
        raise jinja2.TemplateRuntimeError("an empty value is written: what is empty must be left out")
    if any(character in text for character in "\r\n\0"):
        raise jinja2.TemplateRuntimeError("a value holds a line end or NUL, and would be read as more than one")


_FILTERS: dict[str, Callable[[object], str]] = {
    "percent": _percent,
    "shell": _shell,
    "dollars": _dollars,
    "label": _label,
    "github_secret": _github_secret,
}


_FINALIZERS: dict[str, Callable[[object], str]] = {
    "pg_service.conf.j2": _service_value,
    "pgpass.j2": _pgpass_value,
    "database.env.j2": _env_value,
}
