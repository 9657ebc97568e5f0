"""What a team's files are held to before they are merged: order against main, lint, two runs on a scratch server.

Owns the questions to git and to squawk, and the rules that follow from what is on main being applied somewhere by now.
Refuses to know the database of any environment. Main's files stand in for a history, so that `migrations.plan` decides
here as it does in a run; what main has gained since the branch began counts as merged, since it will be.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from psycopg import sql

from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.database import connection as sessions
from pgratchet.database.history import History
from pgratchet.errors import ConfigurationError, MigrationFailed, several
from pgratchet.events import MigrationApplied
from pgratchet.migrations import files as migrations
from pgratchet.migrations.files import Migration
from pgratchet.migrations.plan import HistoryRow, make_plan
from pgratchet.migrations.scripts import prepare

USUAL = ("origin/HEAD", "origin/main", "origin/master", "main", "master")
"""Where main is looked for, unless it is said."""
MOOT = ("require-lock-timeout", "require-statement-timeout", "prefer-robust-stmts")
"""Rules of squawk that a run keeps by itself: it sets both timeouts, and a file is applied whole or not at all."""


@dataclass(frozen=True, slots=True)
class Branches:
    """The files on main, and those where this branch left it; `main` is its name."""

    main: str
    theirs: tuple[Migration, ...]
    base: tuple[Migration, ...]


def compare_branches(folder: Path, against: str | None) -> Branches | None:
    """Main's files in the folder; None where no main was named and none is found.

    ConfigurationError where the one that is named is not there, or has no commit in common with this branch.
    """
    for name in (against,) if against else USUAL:
        found = _git(folder, "rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}")
        if found.returncode == 0:
            commit = found.stdout.decode().strip()
            base = _git(folder, "merge-base", commit, "HEAD")
            if base.returncode:
                raise _unknown(name, "It has no commit in common with this branch, as far as this clone goes.")
            return Branches(name, *_files(folder, commit, base.stdout.decode().strip()))
    if against:
        raise _unknown(against, f"Git says: {found.stderr.decode(errors='replace').strip()}.")
    return None


def _unknown(name: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f'the files cannot be compared with "{name}"',
        detail=why,
        hint="Fetch it, with its history: `git fetch --unshallow origin`, or fetch-depth: 0 in a workflow.",
    )


def _git(folder: Path, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, input=given, capture_output=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, b"", str(error).encode())


def _said(folder: Path, *arguments: str, given: bytes = b"") -> bytes:
    """What git prints, where it has to go well."""
    done = _git(folder, *arguments, given=given)
    if done.returncode:
        raise ConfigurationError(
            f"git {arguments[0]} failed",
            detail=done.stderr.decode(errors="replace").strip(),
            hint="Run it by hand in the folder of migrations.",
        )
    return done.stdout


def _files(folder: Path, *commits: str) -> tuple[tuple[Migration, ...], ...]:
    """The migrations in the folder at each commit; each text is read once."""
    listed = [_listing(folder, commit) for commit in commits]
    wanted = sorted({each for names in listed for each in names.values()})
    text = dict(zip(wanted, _texts(folder, wanted), strict=True))
    return tuple(migrations.from_contents((name, text[each]) for name, each in names.items()) for names in listed)


def _listing(folder: Path, commit: str) -> dict[str, str]:
    """The names of the files in the folder itself, and git's id of each."""
    entries = _said(folder, "ls-tree", "-z", commit).split(b"\0")
    found = {}
    for about, tab, name in (entry.partition(b"\t") for entry in entries):
        if tab and about.split()[1] == b"blob":
            found[os.fsdecode(name)] = about.split()[2].decode()
    return {name: each for name, each in found.items() if name.endswith(".sql")}


def _texts(folder: Path, ids: Sequence[str]) -> Iterator[bytes]:
    """What `git cat-file --batch` says: of each a line with its size, and so many bytes."""
    said, at = _said(folder, "cat-file", "--batch", given="".join(f"{each}\n" for each in ids).encode()), 0
    for _ in ids:
        head = said.index(b"\n", at)
        size = int(said[at:head].split()[-1])
        yield said[head + 1 : head + 1 + size]
        at = head + size + 2


def merged(mine: Sequence[Migration], theirs: Sequence[Migration], base: Sequence[Migration]) -> tuple[Migration, ...]:
    """The files as they will be: by name, what this branch changed, and else what main has."""
    ours, main, before = ({each.name: each for each in files} for files in (mine, theirs, base))
    found = []
    for name in {**ours, **main}:
        changed = _checksum(ours.get(name)) != _checksum(before.get(name))
        if each := (ours if changed else main).get(name):
            found.append(each)
    return tuple(sorted(found, key=lambda each: (each.version, each.name)))


def _checksum(file: Migration | None) -> str | None:
    return file.checksum if file else None


def check_order(
    mine: Sequence[Migration], theirs: Sequence[Migration], base: Sequence[Migration]
) -> tuple[list[str], list[str]]:
    """The names that are new to main; and what is wrong: a file of main's changed or gone, a new one not newer."""
    moment = datetime.now(timezone.utc)
    history = [HistoryRow(each.name, each.checksum, moment, None) for each in theirs]
    plan = make_plan(merged(mine, theirs, base), history)
    newest = max(theirs, key=lambda each: each.version).name if theirs else ""
    again = {each.checksum: each.name for each in mine if each.name not in {other.name for other in theirs}}
    mistakes = []
    for entry in plan.disagreements():
        if entry.state == "changed":
            mistakes.append(f"{entry.name}: changed, and main has it: it may be applied. Make a new migration instead.")
        elif entry.state == "missing" and entry.record:
            twin = again.get(entry.record.checksum)
            gone = f"renamed to {twin}" if twin else "deleted"
            mistakes.append(f"{entry.name}: {gone}, and main has it: it may be applied. Put it back.")
        elif entry.state == "out-of-order":
            mistakes.append(f"{entry.name}: new, but not newer than main's {newest}. Give it a newer version.")
    return list(plan.names("pending", "out-of-order")), mistakes


def lint(files: Sequence[Migration]) -> list[str]:
    """What squawk finds in the files, each with its place. A file without a transaction is told to it as such."""
    program = shutil.which("squawk", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    if program is None:
        raise ConfigurationError(
            "squawk is not installed, so the SQL cannot be linted",
            detail="It finds what locks a table for long, or breaks the application that runs meanwhile.",
            hint="Install it with `pip install '.[ci]'`, or `pip install squawk-cli`.",
        )
    scripts = prepare(files)
    whole = [each.migration.path for each in scripts if each.directives.transactional]
    steps = [each.migration.path for each in scripts if not each.directives.transactional]
    return [*_squawk(program, whole, "--assume-in-transaction"), *_squawk(program, steps)]


def _squawk(program: str, paths: Sequence[str], *options: str) -> Iterator[str]:
    if not paths:
        return
    command = [program, "--reporter=json", f"--exclude={','.join(MOOT)}", *options, "--", *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    try:
        found = json.loads(done.stdout or "[]")
    except ValueError:
        found = None
    if found is None or (done.returncode and not found):
        raise ConfigurationError(
            "squawk failed",
            detail=(done.stderr or done.stdout).strip()[-500:],
            hint="Run it by hand, and look at .squawk.toml where there is one.",
        )
    for each in found:
        place = f"{each['file']}, line {each['line'] + 1}, column {each['column'] + 1}"
        told = " ".join(part for part in (each["message"], each.get("help")) if part)
        yield f"{place}: {each['rule_name']}: {told}"


def require_clean(mistakes: Sequence[str]) -> None:
    """ConfigurationError with all of them, where there are any."""
    if mistakes:
        raise several(
            "the migrations are not fit to be merged",
            list(mistakes),
            "Mend each; `-- squawk-ignore RULE` above a statement takes a finding of squawk's for known.",
        )


def apply_twice(parameters: Mapping[str, str], files: Sequence[Migration], roles: Iterable[str]) -> int:
    """Apply all files to a new database of a scratch server, and again, which has to find nothing to do; how many."""
    with sessions.translate_errors(), closing(sessions.connect({**parameters, "dbname": "postgres"})) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_DATABASE)))
        for role in roles:
            connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    to = {**parameters, "dbname": _DATABASE}
    first, second = (_applied(to, files, run) for run in ("first", "second"))
    with sessions.translate_errors(), closing(sessions.connect(to)) as connection:
        plan = make_plan(files, History().read(connection))
    if second or len(plan.names("applied")) != len(files):
        raise MigrationFailed(
            "a second run does not find all applied",
            detail=f"It applied {', '.join(second) or 'nothing'}; {len(plan.names('applied'))} of {len(files)} are.",
            hint="See which file changes the history, the table ratchet.migrations.",
        )
    return len(first)


_DATABASE = "scratch"


def _applied(to: Mapping[str, str], files: Sequence[Migration], run: str) -> list[str]:
    running = applier.migrate(lambda: sessions.connect(to), History(), files, None, MigrateOptions(run))
    return [event.name for event in running if isinstance(event, MigrationApplied)]
