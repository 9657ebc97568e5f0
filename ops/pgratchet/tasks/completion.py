"""Completes the values of flags for the program `pgratchet`, from files of this machine alone.

Invoke completes tasks and flags. Its shell scripts call the program with `--complete -- COMMAND LINE`. Bash splits a
command line at `=`, so `--env=pr` arrives as three words there, and as one in zsh and fish.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from pgratchet.errors import RatchetError
from pgratchet.tasks.project import DEFAULTS


def complete_value(command_line: str, config: Any) -> list[str] | None:
    """Return the values that may stand at the end of a command line; None when no known flag is there.

    `config` is Invoke's configuration of the project.
    """
    try:
        words = shlex.split(command_line)
    except ValueError:  # an open quote
        return None
    flag, prefix = _last_flag(words)
    if flag not in _VALUES:
        return None
    return [prefix + value for value in find_values(flag, words, config)]


def find_values(flag: str, words: Sequence[str], config: Any) -> list[str]:
    """Return the values that a flag can have behind the words of a command line; none where they cannot be read."""
    configured, root = config.get("pgratchet", {}), Path(getattr(config, "_project_prefix", None) or ".")
    folders = {name: root / str(configured.get(name, default)) for name, default in DEFAULTS.items()}
    with suppress(RatchetError, OSError, UnicodeError):
        return _VALUES[flag](folders, _environment(words))
    return []


def _last_flag(words: Sequence[str]) -> tuple[str, str]:
    """The flag whose value is the end of the words, and what stands before the value in the same word."""
    last = words[-1] if words else ""
    if last.startswith("--") and "=" in last:
        flag = last.partition("=")[0]
        return flag, f"{flag}="
    before = [word for word in words[-3:] if word != "="]
    return next((word for word in reversed(before[-2:]) if word in _VALUES), ""), ""


def _environment(words: Sequence[str]) -> str:
    """The environment that the words name before the flag at their end, or dev."""
    joined = " ".join(words).replace(" = ", "=").split(" ")
    names = [word.removeprefix("--env=") for word in joined[:-1] if word.startswith("--env=")]
    names += [value for flag, value in pairwise(joined[:-1]) if flag in ("--env", "-e")]
    return names[-1] if names else os.environ.get("OPS_ENV") or "dev"


def _environments(folders: Mapping[str, Path], _: str) -> list[str]:
    from pgratchet.config.inventory import environments

    return list(environments(folders["inventory"]))


def _targets(folders: Mapping[str, Path], environment: str) -> list[str]:
    from pgratchet.config.inventory import load

    targets = load(folders["inventory"], environment)
    return sorted({name for target in targets for name in (target.name, *target.groups)})


def _backups(folders: Mapping[str, Path], environment: str) -> list[str]:
    """The backups in this machine's folder. A store or a host would have to be asked over the network."""
    from pgratchet.backups.manifest import NAME

    paths = (folders["backups"] / environment).glob(f"*/*/{NAME}")
    return sorted((path.parent.name for path in paths), reverse=True)


def _templates(folders: Mapping[str, Path], _: str) -> list[str]:
    from pgratchet.config.templates import template_names

    return template_names(folders["templates"])


def _tools(_folders: Mapping[str, Path], _: str) -> list[str]:
    from pgratchet.adopt.tools.registry import TOOLS

    return [tool.name for tool in TOOLS]


def _migrations(folders: Mapping[str, Path], _: str) -> list[str]:
    from pgratchet.migrations.files import read

    return [migration.name for migration in read(folders["sql"]) if not migration.is_repeatable]


_VALUES: Mapping[str, Callable[[Mapping[str, Path], str], list[str]]] = {
    "--env": _environments,
    "-e": _environments,
    "--server": _environments,
    "--limit": _targets,
    "-l": _targets,
    "--backup": _backups,
    "--template": _templates,
    "--from": _tools,
    "--to": _migrations,
    "--baseline": _migrations,
}
