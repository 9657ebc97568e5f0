"""Settings: one target's variables and templates, rendered into what libpq and the applier take.

Owns rendering, the escaping rules of each output format, and secrets. Refuses to connect. Strict: an undefined
variable stops, and so does an empty value where a template writes one. A value that the format cannot carry is
refused, since a newline in a service file would be one more parameter (facts, section 4). A secret is fetched
when a connection needs it, and never before; it is shown as ******** everywhere.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from pgratchet.config import inventory
from pgratchet.database.target import Access
from pgratchet.errors import ConfigurationError, RatchetError, Unreachable, several

MASK = "********"
FORMATS = {
    "pg_service.conf": "pg_service.conf.j2",
    "pgpass": "pgpass.j2",
    "database.env": "database.env.j2",
}
"""What `invoke render` can write, and the template of each."""

_SECRETS = ("pg_password", "pg_url")
"""The variables that hold a secret once they are rendered."""

EmbeddedServer = Callable[[], Mapping[str, str]]
"""Gives host, port and user of the PostgreSQL that comes with the package, once it runs."""

Tunnel = Callable[[inventory.Variables, str, int], int]
"""Gives the port on this machine that leads to a host and port as a target's SSH host sees them."""


@dataclass(frozen=True, slots=True)
class Settings(Access):
    """One target, rendered here.

    `secrets` are the environment variables that its password or its URL was taken from.
    """

    templates: Path
    embedded: bool
    secrets: frozenset[str] = frozenset()

    def password(self) -> str:
        """The password, from the inventory's environment variable or its command; empty where there is none."""
        if self.variables.password_command:
            return _run_password_command(self.variables)
        return self.variables.pg_password

    def pgpass(self, *, masked: bool = False) -> str:
        return self.render("pgpass", masked=masked)

    def parameters(self) -> dict[str, str]:
        if self.variables.reach == "ssh":
            raise ConfigurationError(
                f"{self.environment}: {self.target} is worked on from its own host",
                detail="This would connect to it from here.",
                hint="Describe it with reach: tunnel for this, by which it is reached from here.",
            )
        return Access.parameters(self)

    def render(self, name: str, *, masked: bool) -> str:
        """One of FORMATS as text, with the secret or with a mask in its place."""
        if name == "pg_service.conf":
            return self.service_file
        secret = self.password() if not masked else MASK
        has_secret = bool(self.variables.password_command or self.variables.pg_password)
        context = {**self.connection, "password": secret if has_secret else "", **_identity(self)}
        if name == "database.env" and self.variables.pg_direct_host:  # the application's way is the pooler's
            context |= {"host": self.variables.pg_host, "port": str(self.variables.pg_port)}
        return _Templates(self.templates, {}).text(FORMATS[name], context)


def resolve(
    target: inventory.Target,
    templates: Path,
    environ: Mapping[str, str],
    embedded: EmbeddedServer,
    tunnel: Tunnel | None = None,
) -> Settings:
    """Render a target's variables and its service file; ConfigurationError names every mistake at once.

    A target that says `embedded: true` gets `embedded`'s server when none of the environment variables that
    its connection (the variables that begin with pg_) asks for is set. One that is reached by a tunnel is connected to
    through the port that `tunnel` gives; libpq goes on to verify the server by its own name.
    """
    asked, asked_elsewhere = _Environment(environ), _Environment(environ)
    values = _render_values(target, templates, asked, asked_elsewhere)
    uses_embedded = values.get("embedded") is True and values.get("reach", "local") == "local" and not asked.found
    if uses_embedded:
        values |= {f"pg_{key}": value for key, value in embedded().items()}
    variables = _typed(target, values)
    if variables.pg_url:
        variables = _typed(target, values | _from_url(variables.pg_url))
    hidden = (*_SECRETS, "password_command")
    context = {name: getattr(variables, name) for name in variables.__struct_fields__ if name not in hidden}
    if variables.pg_direct_host:
        context |= {"pg_host": variables.pg_direct_host, "pg_port": variables.pg_direct_port}
    context["pg_hostaddr"] = ""
    if variables.reach == "tunnel" and tunnel:
        port = tunnel(variables, str(context["pg_host"]), int(str(context["pg_port"])))
        context |= {"pg_hostaddr": "127.0.0.1", "pg_port": port}
    renderer = _Templates(templates, {"env": asked_elsewhere})
    service = renderer.text(
        FORMATS["pg_service.conf"], {**context, "target": target.name, "environment": target.environment}
    )
    connection = _read_service(service, target.name)
    secrets = frozenset(asked.secrets)
    return Settings(target.environment, target.name, variables, connection, service, templates, uses_embedded, secrets)


def some(target: inventory.Target, names: Sequence[str], environ: Mapping[str, str]) -> inventory.Variables:
    """Some of the variables, rendered and typed, for whoever does not connect; `names` are beginnings of theirs."""
    only = {name: value for name, value in target.variables.items() if name.startswith(tuple(names))}
    alone = inventory.Target(target.environment, target.name, target.groups, only)
    asked = _Environment(environ)
    return _typed(alone, {"pg_dbname": target.name} | _render_values(alone, Path(), asked, asked))


def format_of(path: Path) -> str:
    """Which of FORMATS a file is meant to hold, by its name."""
    for name in ("pg_service.conf", "pgpass"):
        if name.strip(".") in path.name:
            return name
    if path.name.endswith(".env") or path.name.startswith(".env"):
        return "database.env"
    raise ConfigurationError(
        f'"{path.name}" is no file that can be written',
        detail="The name says what goes in: pg_service.conf, pgpass, or a name that ends in .env.",
        hint="For instance `invoke render --write=.env`.",
    )


def together(path: Path, targets: Sequence[Settings]) -> str:
    """What a file of this name holds for the targets, secrets included. An env file can speak for one only."""
    name = format_of(path)
    if name == "database.env" and len(targets) > 1:
        raise ConfigurationError(
            f"{path} can hold the variables of one target, and there are {len(targets)}",
            detail="They are: " + ", ".join(each.target for each in targets) + ".",
            hint="Choose one with --limit=NAME.",
        )
    return "".join(each.render(name, masked=False) for each in targets)


@dataclass(frozen=True, slots=True)
class Described:
    """A target as the templates of other programs' files see it, with no secret in it.

    `given` are the environment variables that its settings read, with what is in them now; `secrets` those that hold a
    secret, by name, and whether a value may be missing.
    """

    name: str
    variables: inventory.Variables
    given: Mapping[str, str]
    secrets: Mapping[str, bool]


def template(name: str, targets: Sequence[inventory.Target], templates: Path, environ: Mapping[str, str]) -> str:
    """A YAML template, such as k8s/migrate-job.yaml, rendered for the targets of one environment.

    No secret need be there to be read: only its name goes in.
    """
    known = sorted(str(path.relative_to(templates).with_suffix("")) for path in templates.rglob("*.y*ml.j2"))
    if name not in known:
        raise ConfigurationError(
            f'there is no template "{name}"',
            detail=f"Those in {templates} are: {', '.join(known) or 'none'}.",
            hint="Give one of them, such as `invoke render --template=k8s/migrate-job.yaml`.",
        )
    described = [_described(target, templates, environ) for target in targets]
    context = {"environment": targets[0].environment, "targets": described}
    return _Templates(templates, {"env": _Environment(environ)}).text(f"{name}.j2", context)


def _described(target: inventory.Target, templates: Path, environ: Mapping[str, str]) -> Described:
    asked = _Unasked(environ)
    values = _render_values(target, templates, asked, asked, (*_SECRETS, "backup_store_options"))
    variables = _typed(target, values)
    given = {name: environ[name] for name in sorted(asked.found - set(asked.noted))}
    return Described(target.name, variables, given, asked.noted)


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
            loader=jinja2.FileSystemLoader(self._folder),
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


def _render_values(
    target: inventory.Target,
    templates: Path,
    connection: _Environment,
    others: _Environment,
    secrets: Collection[str] = _SECRETS,
) -> dict[str, Any]:
    """The target's variables with every template in them rendered; env() is all that they can use."""
    values: dict[str, Any] = {}
    mistakes: list[str] = []
    for_connection, for_others = (_Templates(templates, {"env": asked}) for asked in (connection, others))
    for name, value in target.variables.items():
        if name.startswith("ansible_"):
            continue
        try:
            connection.for_secret = name in secrets
            values[name] = _render_value(for_connection if name.startswith("pg_") else for_others, value)
        except Exception as error:  # noqa: BLE001  an expression in a value can raise anything
            mistakes.append(f"{target.environment}: {target.name}: {name}: {_reason(error)}")
    if mistakes:
        raise several(
            "the settings cannot be rendered",
            mistakes,
            "Set what is missing, or mend inventory/; nothing was connected to.",
        )
    return values


def _render_value(renderer: _Templates, value: object) -> object:
    if isinstance(value, str) and "{{" in value:
        return renderer.value(value, {})
    if isinstance(value, list):
        return [_render_value(renderer, each) for each in value]
    if isinstance(value, dict):
        return {key: _render_value(renderer, each) for key, each in value.items()}
    return value


def _typed(target: inventory.Target, values: Mapping[str, Any]) -> inventory.Variables:
    mistakes = [f"{target.environment}: {target.name}: {m}" for m in inventory.judge(values, rendered=True)]
    if mistakes:
        raise several("the settings cannot be used", mistakes, "Mend inventory/ or the environment variables it names.")
    return inventory.convert(values)


def _from_url(url: str) -> dict[str, str]:
    """The variables that a connection URL sets. Options that no variable stands for are refused, not dropped."""
    from pgratchet.database.connection import parse_url

    _refuse_unencoded(url)
    given = {f"pg_{key}": value for key, value in parse_url(url).items()}
    unknown = sorted(key.removeprefix("pg_") for key in given if key not in inventory.Variables.__struct_fields__)
    if unknown:
        raise ConfigurationError(
            f"the connection URL has parameters that cannot be used: {', '.join(unknown)}",
            detail="Only parameters that the inventory has a variable for reach a connection.",
            hint="Take them out of the URL, and write them into templates/pg_service.conf.j2 where they are needed.",
        )
    return given


def _refuse_unencoded(url: str) -> None:
    """An @ or / of a password that was not encoded would end up in the host or port, and be shown there."""
    authority = url.partition("?")[0].partition("://")[2]
    user, _, rest = authority.partition("@")
    # To libpq a ? in front of the first @ is part of the password too.
    whole, _, host = url.partition("://")[2].partition("@")
    if "@" in rest or ("/" in user and rest) or ("/" not in whole and "@" in re.split("[/?]", host)[0]):
        raise ConfigurationError(
            "the connection URL cannot be read",
            detail="It has an @ or a / that belongs to the user or password and is not encoded.",
            hint="Percent-encode special characters in it: %40 for @, %2F for /, %3A for a colon.",
        )


def _read_service(text: str, target: str) -> dict[str, str]:
    """The parameters of a rendered service file, as libpq reads them: one section, name=value, # for comments."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    pairs = [line.partition("=") for line in lines[1:]]
    names = [name for name, _, _ in pairs]
    wrong = [name for name, equals, _ in pairs if not equals or not name.isidentifier()]
    if not lines or lines[0] != f"[{target}]" or wrong or len(set(names)) < len(names):
        raise ConfigurationError(
            "templates/pg_service.conf.j2 does not render to one service",
            detail=f'It must begin with "[{target}]" and go on with lines of name=value, each name once.',
            hint="`invoke render` is strict about it because psql and pg_dump read the same text.",
        )
    if secret := {"password", "passfile", "service", "servicefile"} & set(names):
        raise ConfigurationError(
            f"templates/pg_service.conf.j2 has the parameter {min(secret)}",
            detail="The service file is shown by `invoke render`, and speaks for one target alone.",
            hint="Leave it out: the password comes from pg_password or password_command, and goes into pgpass.",
        )
    return {name: value for name, _, value in pairs}


def _identity(settings: Settings) -> dict[str, str]:
    return {"target": settings.target, "environment": settings.environment}


def _run_password_command(variables: inventory.Variables) -> str:
    """Run the argv without a shell; its output without the line end is the secret, and is never shown."""
    command = list(variables.password_command)
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=variables.password_timeout,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        late = f"No answer came within {variables.password_timeout} s."
        reason = (
            late
            if isinstance(error, subprocess.TimeoutExpired)
            else f"{command[0]} cannot be run: {getattr(error, 'strerror', error)}."
        )
        raise _no_password(command[0], reason) from None
    if done.returncode != 0:
        raise _no_password(
            command[0],
            f"It ended with status {done.returncode}.\n{done.stderr.decode(errors='replace').strip()}",
        )
    secret = done.stdout.decode(errors="replace").removesuffix("\n").removesuffix("\r")
    if not secret or any(character in secret for character in "\r\n\0\ufffd"):
        raise _no_password(command[0], "It must print one line in UTF-8, the password.")
    return secret


def _no_password(program: str, detail: str) -> RatchetError:
    return Unreachable(
        f"the password command {program} gave no password",
        detail=detail.strip(),
        hint="Run the password_command of the inventory by hand; log in to its store where that is needed.",
    )
