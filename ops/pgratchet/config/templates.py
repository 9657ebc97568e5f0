"""Renders Jinja templates strictly: undefined variables, and values that the output format cannot hold, are errors.

`env()` in a template reads an environment variable. The readers record the names, so the variables with secrets can be
hidden from the programs started by a task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import jinja2

from pgratchet.config.escaping import FILTERS, FINALIZERS, inventory_value, yaml_value
from pgratchet.config.secrets import MASK
from pgratchet.errors import ConfigurationError
from pgratchet.resources import packaged_folder


class EnvironmentReader:
    """The function env('NAME') or env('NAME', 'default') of templates.

    `names` are the variables read and set. `secret_names` are the variables read while `reads_secret` was true.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.names: set[str] = set()
        self.secret_names: set[str] = set()
        self.reads_secret = False

    def __call__(self, name: str, default: str | None = None) -> str:
        value = self._environ.get(name, "")
        if value:
            self.names.add(name)
            if self.reads_secret:
                self.secret_names.add(name)
            return value
        if default is None:
            raise jinja2.UndefinedError(f"the environment variable {name} is not set")
        return default


class SecretNameReader(EnvironmentReader):
    """A reader that returns a mask instead of a secret and records the variable's name.

    `secrets` maps the name of each secret to whether the variable is optional.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(environ)
        self.secrets: dict[str, bool] = {}

    def __call__(self, name: str, default: str | None = None) -> str:
        if not self.reads_secret:
            return super().__call__(name, default)
        self.secrets[name] = default is not None
        return MASK


def template_folders(folder: Path) -> list[Path]:
    """The folders of templates: the project's, then the package's. The project overrides packaged files."""
    return [folder, packaged_folder("templates")]


class TemplateRenderer:
    """Renders the templates of a project's folder. `names` are global names in every template."""

    def __init__(self, folder: Path, names: Mapping[str, object]) -> None:
        self._folder = folder
        self._names = names
        self._value_environment: jinja2.Environment | None = None  # cached: creating it takes longer than a value

    def render(self, template: str, context: Mapping[str, object]) -> str:
        """The text of a template file. ConfigurationError for a mistake in the template or its values."""
        environment = self._environment(FINALIZERS.get(template, yaml_value))
        try:
            return environment.get_template(template).render(context)
        except jinja2.TemplateNotFound as error:
            raise ConfigurationError(
                f"no template {self._folder / str(error.name)}", hint="Put it back from version control."
            ) from error
        except jinja2.TemplateSyntaxError as error:
            raise ConfigurationError(
                f"{self._folder / template}, line {error.lineno}: not a template",
                detail=f"{error.message}.",
                hint="Fix the template; nothing was connected to.",
            ) from error
        except Exception as error:
            raise ConfigurationError(
                f"{self._folder / template} cannot be rendered",
                detail=describe(error),
                hint="Give the variable a value in the inventory, or take it out of the template.",
            ) from error

    def render_value(self, text: str) -> str:
        """The text of a value in the inventory. An expression in the value can raise anything."""
        if self._value_environment is None:
            self._value_environment = self._environment(inventory_value)
        return self._value_environment.from_string(text).render()

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
        environment.filters |= FILTERS
        return environment


def describe(error: Exception) -> str:
    """An error of a template as a sentence."""
    return f"{str(error).rstrip('.') or type(error).__name__}."
