"""Reads the project's env file, and finds out whether git would commit a file with secrets."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pgratchet.config.inventory import InventoryTarget
from pgratchet.database.target import program_environment
from pgratchet.errors import ConfigurationError

if TYPE_CHECKING:
    from dotenv.parser import Binding


def with_file(root: Path, target: InventoryTarget, environ: Mapping[str, str]) -> Mapping[str, str]:
    """The environment variables, and those of the target's `env_file` that are not set. The file may be missing.

    The path is relative to the project. ConfigurationError when the file cannot be read.
    """
    values = {each.key: each.value for each in _bindings(root, target) if each.key and each.value is not None}
    return {**values, **environ}


def unread_lines(root: Path, target: InventoryTarget) -> Iterator[str]:
    """A sentence for each part of the target's `env_file` that is not in its format, without its text."""
    for each in _bindings(root, target):
        if each.error:
            text = each.original.string
            first = each.original.line + len(text) - len(text.lstrip("\n"))
            last = first + text.strip().count("\n")
            place = f"{root / str(target.variables['env_file'])}:{first}: "
            if last == first:
                yield f"{place}not in the form NAME=VALUE, so this line is left out."
            else:
                yield f"{place}a quote is not closed, so the lines {first} to {last} are left out."


def _bindings(root: Path, target: InventoryTarget) -> list[Binding]:
    """The parts of the file as python-dotenv reads them: variables, comments, and parts that it cannot read."""
    name = str(target.variables.get("env_file") or "")
    path = root / name
    if not name or not path.exists():
        return []
    try:
        return _parse(path, path.stat().st_mtime_ns)
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(
            f"the env_file {path} cannot be read",
            detail=f"{getattr(error, 'strerror', None) or 'It is not in UTF-8'}.",
            hint=f"Make it a file in UTF-8 that you may read, or remove env_file from {target.name} in the inventory.",
        ) from None


@lru_cache
def _parse(path: Path, _modified: int) -> list[Binding]:
    from dotenv.parser import parse_stream

    with path.open(encoding="utf-8") as file:
        return list(parse_stream(file))


def is_committable(path: Path) -> bool:
    """Return whether git has the file, or would add it: it lies in a repository and is not ignored."""
    command = ["git", "-C", str(path.resolve().parent), "check-ignore", "--quiet", "--", path.name]
    try:
        result = subprocess.run(command, capture_output=True, check=False, timeout=20, env=program_environment())
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.returncode == 1  # 128 outside a repository
