"""Explains the errors of templates: the file and line, the name that was probably meant, and what to change."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType

import jinja2

from pgratchet.config.escaping import EmptyVariableError, UnwritableValueError
from pgratchet.errors import ConfigurationError
from pgratchet.formatting import suggest
from pgratchet.variables import Variables, names

_UNDEFINED = re.compile(r"'(\w+)' is undefined|has no attribute '(\w+)'")
_FIX = "Fix the template. No connection was made."


class MissingVariableError(jinja2.UndefinedError):
    """A template reads an environment variable that is not set or empty, and gives no default."""

    def __init__(self, name: str, state: str, near: str) -> None:
        super().__init__(f"the environment variable {name} is {state}.{f' {near} is set.' if near else ''}")
        self.name = name


def explain(
    error: Exception, template: str, folder: Path, context: Mapping[str, object], known: Collection[str]
) -> ConfigurationError:
    """The error in three parts. `folder` has the project's templates, and `known` are the names of every template."""
    position = _position(error, template, folder)
    if isinstance(error, EmptyVariableError | UnwritableValueError):
        return _explain_value(error, position, context)
    if isinstance(error, jinja2.TemplateNotFound):
        return _explain_missing(error, template, folder, position, known)
    if isinstance(error, jinja2.TemplateSyntaxError):
        file = _shown(Path(error.filename), folder) if error.filename else f"{folder / template}"
        return ConfigurationError(f"{file}:{error.lineno}: not a template", detail=describe(error), hint=_FIX)
    hint = _FIX
    if isinstance(error, MissingVariableError):
        hint = f"Set {error.name}, or give a default in the template: {{{{ env('{error.name}', 'default') }}}}."
    detail = describe(error) + _suggestion(error, (*context, *names(Variables), "env"))
    return ConfigurationError(f"{position}: the template cannot be rendered", detail=detail, hint=hint)


def _explain_value(
    error: EmptyVariableError | UnwritableValueError, position: str, context: Mapping[str, object]
) -> ConfigurationError:
    place = "".join(f"{context[name]}: " for name in ("environment", "target") if name in context)
    if isinstance(error, EmptyVariableError):
        return ConfigurationError(
            f"{place}{error.variable} is missing",
            detail=f"The template {position} writes its value.",
            hint=f"Set {error.variable} in the inventory.",
        )
    return ConfigurationError(
        f"{place}the value of {error.variable} cannot be written",
        detail=f"{error.reason} The template is {position}.",
        hint=f"Change the value of {error.variable} where it comes from: the inventory, an environment "
        "variable, or the store that the password command reads.",
    )


def _explain_missing(
    error: jinja2.TemplateNotFound, template: str, folder: Path, position: str, known: Collection[str]
) -> ConfigurationError:
    name = str(error.name)
    if name == template:
        return ConfigurationError(f"no template {folder / name}", hint="Restore it from version control.")
    return ConfigurationError(
        f"no template {folder / name}",
        detail=f"{position} refers to it.{suggest(name, known)}",
        hint="Write this file, or fix the name in the template.",
    )


def describe(error: Exception) -> str:
    """An error of a template as a sentence."""
    return f"{str(error).rstrip('.') or type(error).__name__}."


def describe_value(error: Exception) -> str:
    """An error of a template in a value of the inventory, as a sentence."""
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"its template cannot be read: {describe(error)}"
    undefined = _UNDEFINED.search(str(error)) if isinstance(error, jinja2.UndefinedError) else None
    if not undefined or isinstance(error, MissingVariableError):
        return describe(error)
    name = undefined[1] or undefined[2]
    advice = f"env('{name}')" if re.fullmatch(r"[A-Z][A-Z0-9_]+", name) else "env('NAME')"
    return f"{describe(error)} A template in the inventory reads environment variables only: {{{{ {advice} }}}}."


def _suggestion(error: Exception, known: Collection[str]) -> str:
    undefined = _UNDEFINED.search(str(error)) if isinstance(error, jinja2.UndefinedError) else None
    return suggest(undefined[1] or undefined[2], known) if undefined else ""


def _position(error: Exception, template: str, folder: Path) -> str:
    """The file of a project, or the name of a packaged template, and the line where the error was raised."""
    # Jinja puts the templates' own lines into the traceback (jinja2.debug.rewrite_traceback_stack).
    frames = [(file, line) for file, line in _frames(error.__traceback__) if file.endswith(".j2")]
    if not frames:
        return f"{folder / template}"
    file, line = frames[-1]
    return f"{_shown(Path(file), folder)}:{line}"


def _frames(traceback: TracebackType | None) -> Iterator[tuple[str, int]]:
    while traceback is not None:
        yield traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
        traceback = traceback.tb_next


def _shown(path: Path, folder: Path) -> str:
    """The path of a project's template, or the name of a packaged one."""
    packaged = next((each for each in path.parents if each.name == "templates"), path.parent)
    return f"{path}" if path.is_relative_to(folder) else f"{path.relative_to(packaged)} of the package"
