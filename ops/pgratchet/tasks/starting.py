"""The task that prepares a repository for pgratchet. It is part of the program `pgratchet`, which needs no tasks.py."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from string import Template

from invoke.context import Context
from invoke.tasks import task

from pgratchet.console import output
from pgratchet.errors import ConfigurationError
from pgratchet.resources import STARTER, packaged_folder
from pgratchet.tasks.support import surface

EXAMPLES = ("hyperpage",)
_IGNORED = ("/backups/", "/.pgratchet/", ".env", "pgpass", ".venv/", "__pycache__/")
"""Lines for the repository's .gitignore: backups, secrets, the virtual environment and compiled Python files."""


@task(
    auto_shortflags=False,
    help={
        "folder": "the repository; it is created when it is missing",
        "example": f"write an example instead: {', '.join(EXAMPLES)}",
        "templates": "copy the packaged templates too, to change them",
    },
)
@surface
def init(_: Context, folder: str = ".", example: str | None = None, templates: bool = False) -> None:
    """Write tasks.py, inventory/ and sql/ for a new project."""
    root = Path(folder)
    if example and example not in EXAMPLES:
        raise ConfigurationError(
            f'there is no example "{example}"',
            detail=f"The examples are: {', '.join(EXAMPLES)}.",
            hint=f"Run `pgratchet init --example={EXAMPLES[0]}`, or omit the flag for an empty project.",
        )
    root.mkdir(parents=True, exist_ok=True)
    written = [*_write_example(root)] if example else [*_write_project(root)]
    if templates:
        written += _copy(packaged_folder("templates"), root / "templates")
    lines = "added lines to" if (root / ".gitignore").exists() else "wrote"
    _report(root, written, [f"{lines} {path}" for path in _ignore(root / ".gitignore")])


def _write_project(root: Path) -> Iterator[Path]:
    name = re.sub(r"[^a-z0-9_]+", "_", root.resolve().name.lower()).strip("_") or "app"
    name = name if name[0].isalpha() else f"app_{name}"
    yield from _write(root / "tasks.py", (STARTER / "tasks.py.txt").read_text("utf-8"))
    for path in sorted((STARTER / "inventory").rglob("*.yml")):
        target = root / "inventory" / path.relative_to(STARTER / "inventory")
        yield from _write(target, Template(path.read_text("utf-8")).safe_substitute(name=name[:50]))
    yield from _write(root / "sql" / ".gitkeep", "")


def _write_example(root: Path) -> Iterator[Path]:
    yield from _write(root / "tasks.py", (STARTER / "tasks.py.txt").read_text("utf-8"))
    for name in ("inventory", "sql"):
        yield from _copy(packaged_folder(name), root / name)


def _copy(source: Path, target: Path) -> Iterator[Path]:
    """Copy a folder's files, except those that exist already; yields the files that were written."""
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        if path.is_file() and path.suffix != ".pyc" and not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            yield copy


def _write(path: Path, text: str) -> Iterator[Path]:
    """Write a file, unless it exists already."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        yield path


def _ignore(path: Path) -> Iterator[Path]:
    """Add the lines that .gitignore does not have yet."""
    text = path.read_text("utf-8") if path.exists() else ""
    lines = [line for line in _IGNORED if line not in text.splitlines()]
    if lines:
        separator = "" if not text or text.endswith("\n") else "\n"
        path.write_text(text + separator + "\n".join(lines) + "\n", encoding="utf-8")
        yield path


def _report(root: Path, written: list[Path], further: list[str]) -> None:
    """Say what was written; `further` are lines about files that may have existed."""
    for line in (*(f"wrote {path}" for path in written), *further):
        output.write(line)
    if not written and not further:
        output.write("nothing to write: every file exists already")
    tasks = root / "tasks.py"
    if tasks not in written and "pgratchet" not in tasks.read_text("utf-8", errors="replace"):
        output.say(
            f"{tasks} exists and was left as it is. Add this, where `your_task` stands for its own tasks:\n"
            "  import pgratchet\n"
            "  from invoke import Collection\n"
            "  ns = Collection(your_task)    # if it has no ns yet\n"
            '  ns.add_collection(pgratchet.ns, name="db")    # then: invoke db.migrate'
        )
    step = "" if root.resolve() == Path.cwd() else f"cd {shlex.quote(str(root))} && "
    output.say(f"next: {step}pgratchet new 'create users', write the SQL, pgratchet migrate")
