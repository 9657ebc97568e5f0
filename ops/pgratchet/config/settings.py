"""Renders the settings of a target: variables, the libpq service file, and files for other programs.

An undefined variable is an error, and so is an empty value written by a template. A secret is fetched only for a
connection, and shown as a mask everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pgratchet.config import origins, validation
from pgratchet.config.escaping import EmptyValue, NamedValue, addresses_of
from pgratchet.config.inventory import InventoryTarget
from pgratchet.config.repository import Repository
from pgratchet.config.secrets import MASK, SECRET_VARIABLES, run_password_command
from pgratchet.config.templates import (
    EnvironmentReader,
    SecretNameReader,
    TemplateRenderer,
    is_template,
    similar_template,
    template_names,
)
from pgratchet.config.url import variables_from_url
from pgratchet.database.identity import OtherNames
from pgratchet.database.target import Origins, Target, program_environment
from pgratchet.errors import ConfigurationError, combine_mistakes
from pgratchet.variables import Group, HistoryVariables, StorageVariables, Variables, as_dict, names, replaced

FORMATS = {
    "pg_service.conf": "pg_service.conf.j2",
    "pgpass": "pgpass.j2",
    "database.env": "database.env.j2",
}
"""The files that `invoke render` can write, and the template of each."""

_APPLICATION_VARIABLES = ("app_user", "app_password")
_STORES = {"s3": "aws", "gs": "gcloud"}
"""The program of a cloud, by the scheme of its object store."""
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
    variables with the password or the URL. `origins` says where values come from, by their variables.
    """

    templates: Path
    embedded: bool
    secret_variables: frozenset[str] = frozenset()
    origins: Mapping[str, str] = field(default_factory=dict)

    def password(self) -> str:
        """The password from the environment or the password command, or an empty text without either."""
        if self.variables.password_command:
            return run_password_command(self.variables, program_environment(self.secret_variables))
        return self.variables.pg_password

    def pgpass(self, *, masked: bool = False) -> str:
        return self.render("pgpass", masked=masked)

    def hidden_variables(self) -> frozenset[str]:
        return self.secret_variables

    def connection_origins(self) -> Origins:
        return origins.of_connection(self.variables, self.origins)

    @property
    def location(self) -> str:
        return f"{self.connection['dbname']} on the bundled server" if self.embedded else super().location

    def parameters(self) -> dict[str, str]:
        if self.variables.reach == "ssh":
            raise ConfigurationError(
                f"{self.environment}: {self.target} can be connected to only from its own host",
                detail="It has reach: ssh, and this task would connect from this machine.",
                hint="Use reach: tunnel for it, which connects from this machine.",
            )
        return Target.parameters(self)

    def render(self, name: str, *, masked: bool) -> str:
        """The text of a file in FORMATS, with the secret or with a mask."""
        if name == "pg_service.conf":
            return self.service_file
        values: dict[str, object] = {key: NamedValue.of(f"pg_{key}", value) for key, value in self.connection.items()}
        context = {"host": EmptyValue.of("pg_host"), **values, "target": self.target, "environment": self.environment}
        is_application = name == "database.env" and bool(self.variables.app_user) and not self.embedded
        context |= self._application_login(masked) if is_application else {"password": self._shown_password(masked)}
        if name == "database.env" and self.variables.pg_direct_host:  # the application connects through the pooler
            context |= {"host": self.variables.pg_host or EmptyValue.of("pg_host"), "port": self.variables.pg_port}
        context["addresses"] = addresses_of(str(context["host"]), str(context["port"]))
        return TemplateRenderer(self.templates, {}).render(FORMATS[name], context)

    def _shown_password(self, masked: bool) -> str:
        """The password, a mask, or an empty text when there is none."""
        variables = self.variables
        if not variables.password_command and not variables.pg_password:
            return ""
        if masked:
            return MASK
        source = "password_command" if variables.password_command else "pg_password"
        return NamedValue.of(source, self.password())

    def _application_login(self, masked: bool) -> dict[str, object]:
        user, password = self.variables.app_user, self.variables.app_password
        shown = MASK if masked and password else NamedValue.of("app_password", password)
        return {"user": NamedValue.of("app_user", user), "password": shown}


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
    secrets = frozenset(reader.secret_names | other_reader.secret_names)
    read = origins.variables_read((reader, other_reader))
    variables, named = _with_url(target, values, read, secrets)
    context = _connection_context(variables, tunnel, secrets)
    context |= {"target": target.name, "environment": target.environment}
    service = TemplateRenderer(templates, {"env": other_reader}).render(FORMATS["pg_service.conf"], context)
    others = OtherNames(target.other_environments, target.siblings)
    return RenderedTarget(
        target.environment,
        target.name,
        variables,
        _parse_service(service, target.name),
        service,
        others,
        templates,
        is_embedded,
        secrets,
        named,
    )


def _with_url(
    target: InventoryTarget, values: dict[str, Any], read: Mapping[str, Sequence[str]], secrets: Collection[str]
) -> tuple[Variables, dict[str, str]]:
    """The variables, with those that `pg_url` sets, and where each comes from."""
    hidden = origins.secret_values(read, secrets, values)
    variables = _validated(target, values, Variables, origins.all_named(target, read, ()), hidden)
    if not variables.pg_url:
        return variables, origins.all_named(target, read, ())
    parts = variables_from_url(variables.pg_url, origins.named(target, read.get("pg_url", ())))
    named = origins.all_named(target, read, parts)
    if "pg_url" in target.places:
        target = replace(target, places={**target.places, **dict.fromkeys(parts, target.places["pg_url"])})
    hidden = (hidden - set(parts)) | origins.secret_parts(parts)
    return _validated(target, values | parts, Variables, named, hidden), named


def without_application(target: InventoryTarget) -> InventoryTarget:
    """The target without the application's login, whose password need not exist where migrations run."""
    variables = {name: value for name, value in target.variables.items() if name not in _APPLICATION_VARIABLES}
    return replace(target, variables=variables)


def for_restore(target: RenderedTarget, privileged: RenderedTarget) -> RenderedTarget:
    """A target with the connection of `restore_environment`, whose role may do more.

    Raises ConfigurationError unless both lead to the same database, and work from the same machine.
    """
    compared = ("reach", "ssh_host", "pg_dbname", "pg_host", "pg_port", "pg_direct_host", "pg_direct_port")
    unlike = [name for name in compared if getattr(target.variables, name) != getattr(privileged.variables, name)]
    if unlike:
        first = unlike[0]
        values = (getattr(each.variables, first) for each in (target, privileged))
        raise ConfigurationError(
            f"{privileged.environment} cannot be the restore_environment of {target.environment}: {first} differs",
            detail="{} and {}. A restore would change another database.".format(*(repr(value) for value in values)),
            hint="Let them differ in pg_user and in the password or certificate only.",
        )
    storage = {name: getattr(target.variables, name) for name in (*names(StorageVariables), *names(HistoryVariables))}
    variables = replaced(privileged.variables, **storage)
    lines = privileged.service_file.split("\n")
    lines[lines.index(f"[{privileged.target}]")] = f"[{target.target}]"
    return replace(
        privileged,
        environment=target.environment,
        target=target.target,
        others=target.others,
        variables=variables,
        service_file="\n".join(lines),
    )


def _connection_context(variables: Variables, tunnel: Tunnel | None, secrets: frozenset[str]) -> dict[str, object]:
    """The variables for the service file's template: no secrets, and the address to connect to from here."""
    hidden = (*SECRET_VARIABLES, "app_user", "password_command")
    values = {name: value for name, value in as_dict(variables).items() if name not in hidden}
    context = {
        name: EmptyValue.of(name) if value == "" else NamedValue.of(name, value) if isinstance(value, str) else value
        for name, value in values.items()
    }
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
    partial = replace(target, variables=variables)
    reader = EnvironmentReader(environ)
    values = _render_values(partial, Path(), reader, reader)
    read = reader.read_for
    hidden = origins.secret_values(read, (), values)
    return _validated(partial, values, kind, origins.all_named(target, read, ()), hidden)


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


def render_template(
    name: str,
    targets: Sequence[InventoryTarget],
    templates: Path,
    environ: Mapping[str, str],
    repository: Repository | None = None,
) -> str:
    """Render a YAML template, such as k8s/migrate-job.yaml, for the targets of an environment.

    Secrets are not read: the template receives the names of their variables.
    """
    known = template_names(templates)
    if name not in known:
        raise ConfigurationError(
            f'there is no template "{name}"',
            detail=f"The templates in {templates} and in the package are: {', '.join(known) or 'none'}."
            f"{similar_template(name, known)}",
            hint="Choose one of them, such as `invoke render --template=k8s/migrate-job.yaml`.",
        )
    descriptions = [_describe(without_application(target), templates, environ) for target in targets]
    context = {
        "environment": targets[0].environment,
        "targets": descriptions,
        "project": repository or Repository(),
        "stores": _cloud_programs(descriptions),
    }
    return TemplateRenderer(templates, {"env": EnvironmentReader(environ)}).render(f"{name}.j2", context)


def _cloud_programs(targets: Sequence[TargetDescription]) -> list[str]:
    """The clouds that a run logs in to, for passwords or backups: aws and gcloud."""
    programs = {Path(word).name for target in targets for word in target.variables.password_command[:1]}
    programs |= {_STORES.get(target.variables.backup_store.partition("://")[0], "") for target in targets}
    return sorted(programs & set(_STORES.values()))


def _describe(target: InventoryTarget, templates: Path, environ: Mapping[str, str]) -> TargetDescription:
    reader = SecretNameReader(environ)
    values = _render_values(target, templates, reader, reader, (*SECRET_VARIABLES, "backup_store_options"))
    read = origins.all_named(target, reader.read_for, ())
    hidden = origins.secret_values(reader.read_for, reader.secrets, values)
    variables = _validated(target, values, Variables, read, hidden)
    names = sorted(reader.names - set(reader.secrets))
    shown = {name: NamedValue.of(name, environ[name]) for name in names}
    return TargetDescription(target.name, variables, shown, reader.secrets)


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
        if not validation.is_known(name):
            continue
        try:
            for reader in (connection_reader, other_reader):
                reader.reads_secret, reader.variable = name in secrets, name
            rendered = _render_value(connection if name.startswith("pg_") else other, value)
            values[name] = validation.normalized(name, rendered)
        except Exception as error:  # noqa: BLE001  an expression in a value can raise anything
            from pgratchet.config.template_errors import describe_value

            mistakes.append(f"{target.label(name)}: {name}: {describe_value(error)}")
    if mistakes:
        raise combine_mistakes(
            "the settings cannot be rendered",
            mistakes,
            "Set the missing variables, or fix inventory/. No connection was made.",
        )
    return values


def _render_value(renderer: TemplateRenderer, value: object) -> object:
    if is_template(value):
        return renderer.render_value(str(value))
    if isinstance(value, list):
        return [_render_value(renderer, item) for item in value]
    if isinstance(value, dict):
        return {key: _render_value(renderer, item) for key, item in value.items()}
    return value


def _validated(
    target: InventoryTarget,
    values: Mapping[str, Any],
    kind: type[_Group],
    origin_of: Mapping[str, str],
    hidden: Collection[str] = (),
) -> _Group:
    """A group of variables from rendered values. A ConfigurationError names every mistake."""
    mistakes = [
        f"{target.label(mistake.variable)}: {origins.explained(mistake, origin_of.get(mistake.variable))}"
        for mistake in validation.mistakes(values, kind, hidden)
    ]
    if mistakes:
        raise combine_mistakes(
            "the settings cannot be used", mistakes, "Fix inventory/ or the environment variables it names."
        )
    return validation.convert(values, kind)


def _parse_service(text: str, target: str) -> dict[str, str]:
    """The parameters of a rendered service file: a single section, name=value on each line, # for comments."""
    # As libpq does: other characters that end a line elsewhere are part of a value.
    lines = [line for line in text.split("\n") if line.strip() and not line.startswith("#")]
    pairs = [line.partition("=") for line in lines[1:]]
    names = [name for name, _, _ in pairs]
    wrong = [name for name, equals, _ in pairs if not equals or not name.isidentifier()]
    if not lines or lines[0] != f"[{target}]" or wrong or len(set(names)) < len(names):
        raise ConfigurationError(
            "templates/pg_service.conf.j2 does not render to one service",
            detail=f'It must begin with "[{target}]" and have lines of name=value below it, each name once.',
            hint="Fix the template. psql and pg_dump read the same text.",
        )
    if refused := {"password", "passfile", "service", "servicefile"} & set(names):
        raise ConfigurationError(
            f"templates/pg_service.conf.j2 has the parameter {min(refused)}",
            detail="`invoke render` shows the service file, so it must not have secrets or refer to other files.",
            hint="Remove it. The password comes from pg_password or password_command, and is written to pgpass.",
        )
    return {name: value for name, _, value in pairs}
