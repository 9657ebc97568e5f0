"""Writes the files of `render`, and refuses to replace a file that pgratchet did not write.

The first line of a written file names pgratchet. Files of earlier versions are recognized by their form.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pgratchet.config.templates import template_text
from pgratchet.database.target import write_private
from pgratchet.errors import ConfigurationError
from pgratchet.formatting import format_count

if TYPE_CHECKING:
    from pgratchet.config.settings import RenderedTarget

MARK = "# Written by `pgratchet render`, which replaces the whole file."
_MARKED = re.compile(r"#.*\bpgratchet render\b")
_EARLIER = {
    "database.env": re.compile(r"# \S+: \S+\nDATABASE_URL='"),
    "yaml": re.compile(r"# A Job for each target of \S+: `"),
}
"""How files began that had no mark, by their format. Other formats are compared with the new text."""
_ENTRIES = {
    "database.env": re.compile(r"^[ \t]*(?:export[ \t]+)?([A-Za-z_][\w.-]*)[ \t]*=", re.MULTILINE),
    "pg_service.conf": re.compile(r"^\[([^\]\n]+)\]", re.MULTILINE),
    "pgpass": re.compile(r"^(?!#)((?:(?:\\.|[^:\\\n])*:){3}(?:\\.|[^:\\\n])*):", re.MULTILINE),
}
"""What a format's file consists of: variables, services, or logins without their passwords."""
_NOUNS = {"database.env": "variable", "pg_service.conf": "service", "pgpass": "login"}
_OTHER_NAMES = {
    "database.env": "Give another name, such as `invoke render --write=database.env`. With `env_file: database.env` in "
    "the inventory, pgratchet reads that file too",
    "pg_service.conf": "Give another name, such as `invoke render --write=database-pg_service.conf`",
    "pgpass": "Give another name, such as `invoke render --write=database.pgpass`",
}


def format_of(path: Path) -> str:
    """The format for a file's name: pg_service.conf, pgpass or database.env."""
    for name in ("pg_service.conf", "pgpass"):
        if name.strip(".") in path.name:
            return name
    if path.name.endswith(".env") or path.name.startswith(".env"):
        return "database.env"
    raise ConfigurationError(
        f'cannot write a file named "{path.name}"',
        detail="The name selects the format: pg_service.conf, pgpass, or a name that ends with .env.",
        hint="Give another name, such as `invoke render --write=.env`.",
    )


def path_to_write(name: str) -> Path:
    """The path that a flag names. ConfigurationError for the name of a folder."""
    path = Path(name)
    if name.endswith("/") or path.name in ("", "..") or path.is_dir():
        raise ConfigurationError(
            f"{name} is the name of a folder",
            detail="--write needs the name of a file. Nothing was written.",
            hint=f"Name a file in it, such as `invoke render --write={path / '.env'}`."
            if path.is_dir()
            else f"Write --write={path} without the slash.",
        )
    return path


def render_file(path: Path, targets: Sequence[RenderedTarget]) -> str:
    """The text of a file of this name for the targets, with secrets. An env file holds a single target."""
    name = format_of(path)
    if name == "database.env" and len(targets) > 1:
        raise ConfigurationError(
            f"{path} holds the variables of one target, but {len(targets)} are selected",
            detail="They are: " + ", ".join(target.target for target in targets) + ".",
            hint="Select one with --limit=NAME.",
        )
    return "".join(target.render(name, masked=False) for target in targets)


def write(path: Path, text: str, templates: Path, kind: str = "yaml") -> None:
    """Write a file with a mark in its first line. A kind in FORMATS has secrets, and gets mode 0600.

    ConfigurationError when the path cannot be written, or has a file that pgratchet did not write.
    """
    marked = text if _MARKED.match(text) else f"{MARK}\n{text}"
    try:
        if path.is_file():
            _require_own(path, marked, templates, kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "yaml":
            path.write_text(marked, encoding="utf-8")
        else:
            write_private(path, marked, replace=True)
    except OSError as error:
        raise _cannot_write(path, error) from None


def _require_own(path: Path, new: str, templates: Path, kind: str) -> None:
    old = path.read_bytes().decode("utf-8", errors="replace")
    if not old.strip() or old == new or old == new.removeprefix(f"{MARK}\n"):
        return
    pattern, earlier = _ENTRIES.get(kind), _EARLIER.get(kind)
    is_own = bool(_MARKED.match(old)) or bool(earlier and earlier.match(old))
    if pattern is None:
        if not is_own:
            raise _foreign(path, f"Its {format_count(len(old.splitlines()), 'line')} would be lost.", kind)
        return
    known = {*pattern.findall(new), *(pattern.findall(template_text(templates, "database.env.j2")))}
    lost = [name for name in dict.fromkeys(pattern.findall(old)) if name not in known]
    if is_own and (kind != "database.env" or not lost):
        return
    # Without a mark, an earlier version wrote services and logins: the same ones have nothing to lose.
    if lost or kind == "database.env":
        raise _foreign(path, _loss(lost, len(old.splitlines()), _NOUNS[kind]), kind, is_own=is_own)


def _loss(names: Sequence[str], lines: int, noun: str) -> str:
    """A sentence about what replacing a file would lose. A login is shown as in the file, without its password."""
    if not names:
        return f"Its {format_count(lines, 'line')} would be lost."
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return f"It has {format_count(lines, 'line')}. {format_count(len(names), noun)} would be lost: {shown}."


def _foreign(path: Path, loss: str, kind: str, *, is_own: bool = False) -> ConfigurationError:
    advice = _OTHER_NAMES.get(kind, "Give another name with --write=FILE")
    if path.name.startswith("database"):
        advice = advice.replace("database", "pgratchet")
    reason = "has lines that pgratchet did not write" if is_own else "exists, and pgratchet did not write it"
    return ConfigurationError(
        f"{path} {reason}",
        detail=f"{loss} Nothing was written.",
        hint=f"{advice}. If nothing in {path} is needed, delete it first.",
    )


def _cannot_write(path: Path, error: OSError) -> ConfigurationError:
    folder = path.parent
    return ConfigurationError(
        f"cannot write {path}",
        detail=f"{error.strerror or type(error).__name__}.",
        hint=f"Check that {folder} is a folder in which you may write, and that the disk is not full; or give another "
        "name with --write=FILE.",
    )
