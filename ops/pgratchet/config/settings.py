"""Settings: one target's variables and templates, rendered into what libpq and the applier take.

Owns rendering, the escaping rules of each output format, and secrets. Refuses to connect. Strict: an undefined
variable stops, and so does an empty value where a template writes one. A value that the format cannot carry is
refused, since a newline in a service file would be one more parameter (facts, section 4). A secret is fetched
when a connection needs it, and never before; it is shown as ******** everywhere.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from pgratchet.config import inventory, validation
from pgratchet.config.templates import MASK, _Environment, _reason, _Templates, _Unasked, template_folders
from pgratchet.database.target import Target
from pgratchet.errors import ConfigurationError, RatchetError, Unreachable, combine_mistakes
from pgratchet.variables import Variables

FORMATS = {
    "pg_service.conf": "pg_service.conf.j2",
    "pgpass": "pgpass.j2",
    "database.env": "database.env.j2",
}
"""What `invoke render` can write, and the template of each."""

_SECRETS = ("pg_password", "pg_url")
"""The variables that hold a secret once they are rendered."""

_Group = TypeVar("_Group")
EmbeddedServer = Callable[[], Mapping[str, str]]
"""Gives host, port and user of the PostgreSQL that comes with the package, once it runs."""

Tunnel = Callable[[Variables, str, int, frozenset[str]], int]
"""Gives the port on this machine that leads to a host and port as a target's SSH host sees them."""


@dataclass(frozen=True)
class RenderedTarget(Target):
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

    def hidden_variables(self) -> frozenset[str]:
        return self.secrets

    def parameters(self) -> dict[str, str]:
        if self.variables.reach == "ssh":
            raise ConfigurationError(
                f"{self.environment}: {self.target} is worked on from its own host",
                detail="This would connect to it from here.",
                hint="Describe it with reach: tunnel for this, by which it is reached from here.",
            )
        return Target.parameters(self)

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


def render_target(
    target: inventory.InventoryTarget,
    templates: Path,
    environ: Mapping[str, str],
    embedded: EmbeddedServer,
    tunnel: Tunnel | None = None,
) -> RenderedTarget:
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
    variables = _typed(target, values, Variables)
    if variables.pg_url:
        variables = _typed(target, values | _from_url(variables.pg_url), Variables)
    hidden = (*_SECRETS, "password_command")
    context = {each.name: getattr(variables, each.name) for each in fields(variables) if each.name not in hidden}
    if variables.pg_direct_host:
        context |= {"pg_host": variables.pg_direct_host, "pg_port": variables.pg_direct_port}
    context["pg_hostaddr"] = ""
    if variables.reach == "tunnel" and tunnel:
        secrets = frozenset(asked.secrets)
        port = tunnel(variables, str(context["pg_host"]), int(str(context["pg_port"])), secrets)
        context |= {"pg_hostaddr": "127.0.0.1", "pg_port": port}
    renderer = _Templates(templates, {"env": asked_elsewhere})
    service = renderer.text(
        FORMATS["pg_service.conf"], {**context, "target": target.name, "environment": target.environment}
    )
    connection = _read_service(service, target.name)
    secrets = frozenset(asked.secrets)
    return RenderedTarget(
        target.environment, target.name, variables, connection, service, templates, uses_embedded, secrets
    )


def group_of(target: inventory.InventoryTarget, kind: type[_Group], environ: Mapping[str, str]) -> _Group:
    """One group of the target's variables, rendered, for work that does not connect."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    only = {name: value for name, value in target.variables.items() if name in names}
    alone = inventory.InventoryTarget(target.environment, target.name, target.groups, only)
    values = _Environment(environ)
    return _typed(alone, _render_values(alone, Path(), values, values), kind)


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


def render_file(path: Path, targets: Sequence[RenderedTarget]) -> str:
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
class TargetDescription:
    """A target as the templates of other programs' files see it, with no secret in it.

    `given` are the environment variables that its settings read, with what is in them now; `secrets` those that hold a
    secret, by name, and whether a value may be missing.
    """

    name: str
    variables: Variables
    given: Mapping[str, str]
    secrets: Mapping[str, bool]


def render_template(
    name: str, targets: Sequence[inventory.InventoryTarget], templates: Path, environ: Mapping[str, str]
) -> str:
    """A YAML template, such as k8s/migrate-job.yaml, rendered for the targets of one environment.

    No secret need be there to be read: only its name goes in.
    """
    known = sorted(
        {
            str(path.relative_to(folder).with_suffix(""))
            for folder in template_folders(templates)
            for path in folder.rglob("*.y*ml.j2")
        }
    )
    if name not in known:
        raise ConfigurationError(
            f'there is no template "{name}"',
            detail=f"Those in {templates} and in the package are: {', '.join(known) or 'none'}.",
            hint="Give one of them, such as `invoke render --template=k8s/migrate-job.yaml`.",
        )
    described = [_described(target, templates, environ) for target in targets]
    context = {"environment": targets[0].environment, "targets": described}
    return _Templates(templates, {"env": _Environment(environ)}).text(f"{name}.j2", context)


def _described(target: inventory.InventoryTarget, templates: Path, environ: Mapping[str, str]) -> TargetDescription:
    asked = _Unasked(environ)
    values = _render_values(target, templates, asked, asked, (*_SECRETS, "backup_store_options"))
    variables = _typed(target, values, Variables)
    given = {name: environ[name] for name in sorted(asked.found - set(asked.noted))}
    return TargetDescription(target.name, variables, given, asked.noted)


def _render_values(
    target: inventory.InventoryTarget,
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
        raise combine_mistakes(
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


def _typed(target: inventory.InventoryTarget, values: Mapping[str, Any], kind: type[_Group]) -> _Group:
    mistakes = [f"{target.environment}: {target.name}: {m}" for m in validation.mistakes(values, kind)]
    if mistakes:
        raise combine_mistakes(
            "the settings cannot be used", mistakes, "Fix inventory/ or the environment variables it names."
        )
    return validation.convert(values, kind)


def _from_url(url: str) -> dict[str, str]:
    """The variables that a connection URL sets. Options that no variable stands for are refused, not dropped."""
    from pgratchet.database.connection import parse_url

    _refuse_unencoded(url)
    given = {f"pg_{key}": value for key, value in parse_url(url).items()}
    unknown = sorted(key.removeprefix("pg_") for key in given if key not in {field.name for field in fields(Variables)})
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


def _identity(settings: RenderedTarget) -> dict[str, str]:
    return {"target": settings.target, "environment": settings.environment}


def _run_password_command(variables: Variables) -> str:
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
