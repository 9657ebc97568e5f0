"""Checks that migrations can be squashed: that git has them, and that a dump of a database has what they do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pgratchet.checks.git import run_git
from pgratchet.errors import ConfigurationError, combine_mistakes
from pgratchet.migrations.classify import changes_cluster
from pgratchet.migrations.files import Migration
from pgratchet.migrations.lexer import split_statements
from pgratchet.migrations.positions import location_at
from pgratchet.migrations.scripts import prepare_scripts


def require_squashable(files: Sequence[Migration]) -> None:
    """Raise ConfigurationError for files that cannot run, and for statements about more than the database."""
    prepare_scripts(files, {file.name for file in files if file.is_repeatable})
    mistakes = []
    for file in files:
        text = file.text()
        for statement in split_statements(text):
            head = statement.head
            if changes_cluster(statement):
                mistakes.append(f"{location_at(file, text, statement.start)}: {head[0]} {head[1]}")
    if mistakes:
        raise combine_mistakes(
            "the migrations cannot be squashed",
            mistakes,
            "A dump of the schema does not have these. Squash up to an earlier file with --to=NAME, or create roles "
            "outside the migrations.",
        )


def require_committed(folder: Path, files: Sequence[Migration]) -> None:
    """Raise ConfigurationError unless git has the present text of all files, which are going to be deleted."""
    names = [Path(file.path).name for file in files]
    tracked = run_git(folder, "ls-files", "-z", "--", *names)
    changed = run_git(folder, "status", "--porcelain", "-z", "--", *names)
    if tracked.returncode or changed.returncode:
        raise ConfigurationError(
            "the migrations are not in a git repository",
            detail="The replaced files are deleted, so git has to have them. Nothing was written.",
            hint="Commit the files, or look at the result with --dry-run.",
        )
    missing = sorted(set(names) - {Path(name).name for name in _split(tracked.stdout)})
    dirty = sorted(Path(entry[3:]).name for entry in _split(changed.stdout))
    if missing or dirty:
        raise ConfigurationError(
            "git does not have the present text of all files",
            detail=f"Not committed: {', '.join(dict.fromkeys([*missing, *dirty]))}. Nothing was written.",
            hint="Commit them, and run `invoke squash` again.",
        )


def _split(listing: bytes) -> list[str]:
    return [os.fsdecode(entry) for entry in listing.split(b"\0") if entry]
