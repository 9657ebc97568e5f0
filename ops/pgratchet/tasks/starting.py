"""The task that prepares a repository for pgratchet. It is part of the program `pgratchet`, which needs no tasks.py."""

from __future__ import annotations

import re
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
_IGNORED = ("/backups/", "/.pgratchet/", ".env")
"""Lines for the repository's .gitignore: backups and secrets."""


@task(
    help={
        "folder": "the repository; it is created when it is missing",
        "example": f"write an example instead: {', '.join(EXAMPLES)}",
        "templates": "copy the packaged templates too, to change them",
    },
)
@surface
def init(_: Context, folder: str = ".", example: str = "", templates: bool = False) -> None:
    """Write tasks.py, inventory/ and sql/ for a new project."""
    root = Path(folder)
    if example and example not in EXAMPLES:
        raise ConfigurationError(
            f'there is no example "{example}"',
            detail=f"The examples are: {', '.join(EXAMPLES)}.",
            hint=f"Run `pgratchet init --example={EXAMPLES[0]}`, or leave the flag out for an empty project.",
        )
    root.mkdir(parents=True, exist_ok=True)
    written = [*_write_example(root)] if example else [*_write_project(root)]
    if templates:
        written += _copy(packaged_folder("templates"), root / "templates")
    written += _ignore(root / ".gitignore")
    _report(root, written)


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


def _report(root: Path, written: list[Path]) -> None:
    for path in written:
        output.data(f"wrote {path}")
    if not written:
        output.data("nothing to write: every file exists already")
    tasks = root / "tasks.py"
    if tasks not in written and "pgratchet" not in tasks.read_text("utf-8", errors="replace"):
        output.talk(
            f"{tasks} exists and was left as it is. Add the tasks to its collection, for example:\n"
            "  import pgratchet\n"
            '  ns.add_collection(pgratchet.ns, name="db")    # then: invoke db.migrate'
        )
    output.talk("next: pgratchet new 'create users', write the SQL, pgratchet migrate")
