"""Renders the settings of a target: variables, the libpq service file, and files for other programs.

An undefined variable is an error, and so is an empty value written by a template. A secret is fetched only for a
connection, and shown as a mask everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pgratchet.config import validation
from pgratchet.config.inventory import InventoryTarget
from pgratchet.config.secrets import MASK, SECRET_VARIABLES, run_password_command
from pgratchet.config.templates import (
    EnvironmentReader,
    SecretNameReader,
    TemplateRenderer,
    describe,
    template_folders,
)
from pgratchet.config.url import variables_from_url
from pgratchet.database.target import Target, program_environment
from pgratchet.errors import ConfigurationError, combine_mistakes
from pgratchet.variables import Group, Variables, as_dict, names

FORMATS = {
    "pg_service.conf": "pg_service.conf.j2",
    "pgpass": "pgpass.j2",
    "database.env": "database.env.j2",
}
"""The files that `invoke render` can write, and the template of each."""

_Group = TypeVar("_Group", bound=Group)
EmbeddedServer = Callable[[], Mapping[str, str]]
"""Returns host, port and user of the bundled PostgreSQL, which then runs."""

Tunnel = Callable[[Variables, str, int, frozenset[str]], int]
"""Returns a port on this machine that leads to a host and port as seen from the target's SSH host.

The last argument has the names of environment variables that are hidden from the SSH client.
"""


@dataclass(frozen=True)
class RenderedTarget(Target):
    """A target whose settings were rendered on this machine.

    `embedded` is true if the target uses the bundled PostgreSQL. `secret_variables` are the names of the environment
    variables with the password or the URL.
    """

    templates: Path
    embedded: bool
    secret_variables: frozenset[str] = frozenset()

    def password(self) -> str:
        """The password from the environment or the password command, or an empty text without either."""
        if self.variables.password_command:
            return run_password_command(self.variables, program_environment(self.secret_variables))
        return self.variables.pg_password

    def pgpass(self, *, masked: bool = False) -> str:
        return self.render("pgpass", masked=masked)

    def hidden_variables(self) -> frozenset[str]:
        return self.secret_variables

    def parameters(self) -> dict[str, str]:
        if self.variables.reach == "ssh":
            raise ConfigurationError(
                f"{self.environment}: {self.target} is worked on from its own host",
                detail="This would connect to it from here.",
                hint="Describe it with reach: tunnel for this, by which it is reached from here.",
            )
        return Target.parameters(self)

    def render(self, name: str, *, masked: bool) -> str:
        """The text of a file in FORMATS, with the secret or with a mask."""
        if name == "pg_service.conf":
            return self.service_file
        password = self.password() if not masked else MASK
        has_password = bool(self.variables.password_command or self.variables.pg_password)
        context = {
            **self.connection,
            "password": password if has_password else "",
            "target": self.target,
            "environment": self.environment,
        }
        if name == "database.env" and self.variables.pg_direct_host:  # the application connects through the pooler
            context |= {"host": self.variables.pg_host, "port": str(self.variables.pg_port)}
        return TemplateRenderer(self.templates, {}).render(FORMATS[name], context)


def render_target(
    target: InventoryTarget,
    templates: Path,
    environ: Mapping[str, str],
    embedded: EmbeddedServer,
    tunnel: Tunnel | None = None,
) -> RenderedTarget:
    """Render a target's variables and service file. A ConfigurationError names every mistake.

    A target with `embedded: true` uses the server of `embedded` unless its pg_ variables read an environment variable
    that is set. A target with `reach: tunnel` is connected to through the port of `tunnel`, while libpq verifies the
    server's own name.
    """
    reader, other_reader = EnvironmentReader(environ), EnvironmentReader(environ)
    values = _render_values(target, templates, reader, other_reader)
    is_embedded = values.get("embedded") is True and values.get("reach", "local") == "local" and not reader.names
    if is_embedded:
        values |= {f"pg_{key}": value for key, value in embedded().items()}
    variables = _validated(target, values, Variables)
    if variables.pg_url:
        variables = _validated(target, values | variables_from_url(variables.pg_url), Variables)
    secrets = frozenset(reader.secret_names)
    context = _connection_context(variables, tunnel, secrets)
    context |= {"target": target.name, "environment": target.environment}
    service = TemplateRenderer(templates, {"env": other_reader}).render(FORMATS["pg_service.conf"], context)
    return RenderedTarget(
        target.environment,
        target.name,
        variables,
        _parse_service(service, target.name),
        service,
        templates,
        is_embedded,
        secrets,
    )


def _connection_context(variables: Variables, tunnel: Tunnel | None, secrets: frozenset[str]) -> dict[str, object]:
    """The variables for the service file's template: no secrets, and the address to connect to from here."""
    hidden = (*SECRET_VARIABLES, "password_command")
    context = {name: value for name, value in as_dict(variables).items() if name not in hidden}
    if variables.pg_direct_host:
        context |= {"pg_host": variables.pg_direct_host, "pg_port": variables.pg_direct_port}
    context["pg_hostaddr"] = ""
    if variables.reach == "tunnel" and tunnel:
        port = tunnel(variables, str(context["pg_host"]), int(str(context["pg_port"])), secrets)
        context |= {"pg_hostaddr": "127.0.0.1", "pg_port": port}
    return context


def group_of(target: InventoryTarget, kind: type[_Group], environ: Mapping[str, str]) -> _Group:
    """A group of the target's variables, rendered without the others, for work that does not connect."""
    variables = {name: value for name, value in target.variables.items() if name in names(kind)}
    partial = InventoryTarget(target.environment, target.name, target.groups, variables)
    reader = EnvironmentReader(environ)
    return _validated(partial, _render_values(partial, Path(), reader, reader), kind)


def format_of(path: Path) -> str:
    """The name in FORMATS for a file's name."""
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


def render_file(path: Path, targets: Sequence[RenderedTarget]) -> str:
    """The text of a file of this name for the targets, with secrets. An env file holds a single target."""
    name = format_of(path)
    if name == "database.env" and len(targets) > 1:
        raise ConfigurationError(
            f"{path} can hold the variables of one target, and there are {len(targets)}",
            detail="They are: " + ", ".join(target.target for target in targets) + ".",
            hint="Choose one with --limit=NAME.",
        )
    return "".join(target.render(name, masked=False) for target in targets)


@dataclass(frozen=True, slots=True)
class TargetDescription:
    """A target as templates for other programs see it, without secrets.

    `environ` are the environment variables read by the settings, with values. `secrets` maps names of environment
    variables with secrets to whether the variable is optional.
    """

    name: str
    variables: Variables
    environ: Mapping[str, str]
    secrets: Mapping[str, bool]


def render_template(name: str, targets: Sequence[InventoryTarget], templates: Path, environ: Mapping[str, str]) -> str:
    """Render a YAML template, such as k8s/migrate-job.yaml, for the targets of an environment.

    Secrets are not read: the template receives the names of their variables.
    """
    paths = ((folder, path) for folder in template_folders(templates) for path in folder.rglob("*.y*ml.j2"))
    known = sorted({str(path.relative_to(folder).with_suffix("")) for folder, path in paths})
    if name not in known:
        raise ConfigurationError(
            f'there is no template "{name}"',
            detail=f"Those in {templates} and in the package are: {', '.join(known) or 'none'}.",
            hint="Give one of them, such as `invoke render --template=k8s/migrate-job.yaml`.",
        )
    descriptions = [_describe(target, templates, environ) for target in targets]
    context = {"environment": targets[0].environment, "targets": descriptions}
    return TemplateRenderer(templates, {"env": EnvironmentReader(environ)}).render(f"{name}.j2", context)


def _describe(target: InventoryTarget, templates: Path, environ: Mapping[str, str]) -> TargetDescription:
    reader = SecretNameReader(environ)
    values = _render_values(target, templates, reader, reader, (*SECRET_VARIABLES, "backup_store_options"))
    variables = _validated(target, values, Variables)
    names = sorted(reader.names - set(reader.secrets))
    return TargetDescription(target.name, variables, {name: environ[name] for name in names}, reader.secrets)


def _render_values(
    target: InventoryTarget,
    templates: Path,
    connection_reader: EnvironmentReader,
    other_reader: EnvironmentReader,
    secrets: Collection[str] = SECRET_VARIABLES,
) -> dict[str, Any]:
    """The target's variables with the templates in them rendered. A template may use env() only.

    Variables whose names begin with pg_ use `connection_reader`.
    """
    values: dict[str, Any] = {}
    mistakes: list[str] = []
    connection, other = (TemplateRenderer(templates, {"env": reader}) for reader in (connection_reader, other_reader))
    for name, value in target.variables.items():
        if name.startswith("ansible_"):
            continue
        try:
            connection_reader.reads_secret = name in secrets
            values[name] = _render_value(connection if name.startswith("pg_") else other, value)
        except Exception as error:  # noqa: BLE001  an expression in a value can raise anything
            mistakes.append(f"{target.environment}: {target.name}: {name}: {describe(error)}")
    if mistakes:
        raise combine_mistakes(
            "the settings cannot be rendered",
            mistakes,
            "Set what is missing, or fix inventory/; nothing was connected to.",
        )
    return values


def _render_value(renderer: TemplateRenderer, value: object) -> object:
    if isinstance(value, str) and "{{" in value:
        return renderer.render_value(value)
    if isinstance(value, list):
        return [_render_value(renderer, item) for item in value]
    if isinstance(value, dict):
        return {key: _render_value(renderer, item) for key, item in value.items()}
    return value


def _validated(target: InventoryTarget, values: Mapping[str, Any], kind: type[_Group]) -> _Group:
    """A group of variables from rendered values. A ConfigurationError names every mistake."""
    mistakes = [f"{target.environment}: {target.name}: {mistake}" for mistake in validation.mistakes(values, kind)]
    if mistakes:
        raise combine_mistakes(
            "the settings cannot be used", mistakes, "Fix inventory/ or the environment variables it names."
        )
    return validation.convert(values, kind)


def _parse_service(text: str, target: str) -> dict[str, str]:
    """The parameters of a rendered service file: a single section, name=value on each line, # for comments."""
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
    if refused := {"password", "passfile", "service", "servicefile"} & set(names):
        raise ConfigurationError(
            f"templates/pg_service.conf.j2 has the parameter {min(refused)}",
            detail="The service file is shown by `invoke render`, and speaks for one target alone.",
            hint="Leave it out: the password comes from pg_password or password_command, and goes into pgpass.",
        )
    return {name: value for name, _, value in pairs}
