"""Finds out where a project lies in its git repository and what it is installed from, for workflows of CI systems."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pgratchet.config.inventory import InventoryTarget
from pgratchet.database.target import program_environment
from pgratchet.version import __version__

_LISTS = ("constraints.txt", "requirements.txt")
_PERSONAL = ("gopass", "keepassxc-cli", "keyring", "lpass", "pass", "secret-tool", "security")
"""Password stores of a person, which a runner does not have."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A project as a workflow sees it. Paths are relative to the top of the repository.

    `folder` is empty at the top. `install` is a shell command, and `command` precedes the name of a task.
    """

    folder: str = ""
    sql: str = "sql"
    install: str = "python -m pip install --require-hashes -r constraints.txt"
    command: str = "invoke "


def locate(root: Path, sql: str, command: str) -> Repository:
    """Locate a project with the folder `sql` for migrations. Outside of a repository its folder is the top."""
    prefix = _git(root, "--show-prefix").rstrip("/")
    up = _git(root, "--show-cdup")
    folder = PurePosixPath(os.path.normpath(f"{prefix or '.'}/{sql}")).as_posix()
    return Repository(prefix, folder, _install(root, up), command)


def _git(root: Path, option: str) -> str:
    command = ["git", "-C", str(root), "rev-parse", option]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=20, env=program_environment())
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return os.fsdecode(done.stdout).removesuffix("\n") if done.returncode == 0 else ""


def _install(root: Path, up: str) -> str:
    """The command to install from the project's list of packages, or from that of the repository; else by version."""
    is_clone = (root / "ops" / "pgratchet").is_dir()
    for name in (*_LISTS, *(f"{up}{name}" for name in _LISTS if up)):
        text = (root / name).read_text("utf-8", errors="replace") if (root / name).is_file() else ""
        if text and (is_clone or re.search(r"(?m)^pgratchet\b", text)):
            hashes = "--require-hashes " if "--hash=" in text else ""
            return f"python -m pip install {hashes}-r {name}"
    return f"python -m pip install 'pgratchet[embedded]=={__version__}'"


def keeps_backups_here(target: InventoryTarget) -> bool:
    """Return whether a target's backups go to a folder of the machine that runs the task."""
    variables = target.variables
    is_kept_elsewhere = variables.get("backup_store") or variables.get("backup_command")
    is_on_host = variables.get("reach") == "ssh" and variables.get("backup_at") != "here"
    return not (is_kept_elsewhere or is_on_host or variables.get("backup_policy") == "never")


def is_runner(environ: Mapping[str, str]) -> bool:
    """Return whether these are the environment variables of a CI system's runner."""
    return any(environ.get(name, "").lower() not in ("", "0", "false") for name in ("CI", "GITHUB_ACTIONS"))


def backup_warnings(targets: Sequence[InventoryTarget]) -> Iterator[str]:
    """Sentences about backups that would be lost with the runner that takes them."""
    for target in targets:
        if keeps_backups_here(target):
            name = f"{target.environment}: {target.name}"
            yield (
                f"{name}: its backups go to a folder of the runner, and are lost with it. Set backup_store or "
                "backup_command in the inventory."
            )


def runner_warnings(targets: Sequence[InventoryTarget]) -> Iterator[str]:
    """Sentences about password commands that do not work on a runner as they are."""
    for target in targets:
        words = target.variables.get("password_command")
        program = Path(str(words[0])).name if isinstance(words, list) and words else ""
        name = f"{target.environment}: {target.name}"
        if program in _PERSONAL:
            yield (
                f"{name}: the password_command runs {program}, the password store of a person, which a runner does not "
                "have. Use pg_password: \"{{ env('NAME') }}\" with a secret of the CI system, or another store."
            )
        elif program:
            yield f"{name}: the password_command runs {program}, so the runner needs this program and a login for it."
