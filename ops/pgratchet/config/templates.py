"""Renders Jinja templates strictly: undefined variables, and values that the output format cannot hold, are errors.

`env()` in a template reads an environment variable. The readers record the names, so the variables with secrets can be
hidden from the programs started by a task.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import jinja2

from pgratchet.config.escaping import FILTERS, FINALIZERS, inventory_value, yaml_value
from pgratchet.config.secrets import MASK
from pgratchet.formatting import suggest
from pgratchet.resources import packaged_folder


def is_template(value: object) -> bool:
    """Return whether a value of the inventory has a template in it."""
    return isinstance(value, str) and any(opening in value for opening in ("{{", "{%", "{#"))


class EnvironmentReader:
    """The function env('NAME') or env('NAME', 'default') of templates.

    `names` are the variables read and set. `secret_names` are the variables read while `reads_secret` was true.
    `read_for` has the names by the `variable` of the inventory for which they were read.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.names: set[str] = set()
        self.secret_names: set[str] = set()
        self.read_for: dict[str, list[str]] = {}
        self.reads_secret = False
        self.variable = ""

    def __call__(self, name: str, default: str | None = None) -> str:
        value = self._environ.get(name, "")
        if value:
            self.names.add(name)
            self.read_for.setdefault(self.variable, []).append(name)
            if self.reads_secret:
                self.secret_names.add(name)
            return value
        if default is None:
            raise self._missing(name)
        return default

    def _missing(self, name: str) -> Exception:
        import difflib

        from pgratchet.config import template_errors

        near = difflib.get_close_matches(name, [each for each in self._environ if self._environ[each]], 1, 0.85)
        state = "empty" if name in self._environ else "not set"
        return template_errors.MissingVariableError(name, state, next(iter(set(near) - {name}), ""))


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


def template_text(templates: Path, name: str) -> str:
    """The source of a template of the project, or else of the package; empty when there is none."""
    paths = (folder / name for folder in template_folders(templates))
    return next((path.read_text("utf-8", errors="replace") for path in paths if path.is_file()), "")


def template_names(templates: Path) -> list[str]:
    """The names of the YAML templates of a project and of the package."""
    paths = ((folder, path) for folder in template_folders(templates) for path in folder.rglob("*.y*ml.j2"))
    return sorted({str(path.relative_to(folder).with_suffix("")) for folder, path in paths})


def similar_template(name: str, known: Collection[str]) -> str:
    """A question that names the template that was probably meant: by its name, or by its folder or file alone."""
    parts = {part: each for each in known for part in (each, each.partition("/")[0], Path(each).name, Path(each).stem)}
    unique = {part: each for part, each in parts.items() if part != "ci"}
    near = suggest(name.removesuffix(".j2"), unique).removeprefix(" Did you mean ").removesuffix("?")
    return f" Did you mean {unique[near]}?" if near else ""


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
        except Exception as error:
            from pgratchet.config import template_errors

            known = environment.list_templates()
            raise template_errors.explain(error, template, self._folder, context, known) from error

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
