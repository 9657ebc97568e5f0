"""Checks migrations before a merge: their order against the main branch, squawk's lint, and two runs on a scratch
server.

The main branch's files stand in for a history, because they may be applied somewhere. So `migrations.plan` decides as
in a run. Files added to main after this branch began count as merged.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import psycopg
from psycopg import sql

from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.checks.files import created_extensions
from pgratchet.checks.git import run_git
from pgratchet.database import connection as sessions
from pgratchet.database.history import History
from pgratchet.database.roles import temporary_roles
from pgratchet.database.target import program_environment
from pgratchet.errors import ConfigurationError, MigrationFailed, StoppedPartWay, combine_mistakes
from pgratchet.events import MigrationApplied
from pgratchet.formatting import format_count
from pgratchet.migrations import files as migrations
from pgratchet.migrations import repeatables
from pgratchet.migrations.files import Migration
from pgratchet.migrations.plan import Entry, HistoryRow, make_plan
from pgratchet.migrations.scripts import prepare_scripts
from pgratchet.schema.build import created_roles

_MAIN_BRANCHES = ("origin/HEAD", "origin/main", "origin/master", "main", "master")
"""The names tried for the main branch."""
_EXCLUDED_RULES = ("require-lock-timeout", "require-statement-timeout", "prefer-robust-stmts")
"""Rules of squawk that every run follows anyway: both timeouts are set, and a file is applied whole or not at all."""
_CONTRACT_RULES = ("ban-drop-column", "ban-drop-table")
"""Rules of squawk against what contract files are for."""
_OTHER_SERVER = (
    "Name a server that has what the migrations need: an environment of the inventory (`invoke ci --server=NAME`), a "
    "Docker image (`invoke ci --server=docker:IMAGE`), or a URL in the environment variable CI_DATABASE_URL."
)
_MISSING_FEATURE = ("0A000", "22023", "42704", "58P01")
"""SQLSTATEs of what a server lacks: a feature, a setting's value, an object, a file."""


@dataclass(frozen=True, slots=True)
class ScratchServer:
    """A server to try migrations on. `parameters` are libpq's; `description` is a phrase without secrets."""

    parameters: Mapping[str, str]
    description: str


@dataclass(frozen=True, slots=True)
class Branches:
    """The files on the main branch, and the files of the commit where this branch began. `main` is a branch name.

    `theirs` and `base` are the versioned files, `repeatables` the repeatable ones of that commit.
    """

    main: str
    theirs: tuple[Migration, ...]
    base: tuple[Migration, ...]
    repeatables: tuple[Migration, ...] = ()

    def is_changed(self, repeatable: Migration) -> bool:
        """Return whether this branch has added or changed a repeatable."""
        return (repeatable.name, repeatable.checksum) not in {(each.name, each.checksum) for each in self.repeatables}


def compare_branches(folder: Path, against: str | None) -> Branches | None:
    """The main branch's files in the folder. None when `against` is None and no main branch is found.

    ConfigurationError when `against` does not exist or has no commit in common with this branch.
    """
    for name in (against,) if against else _MAIN_BRANCHES:
        parsed = run_git(folder, "rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}")
        if parsed.returncode == 0:
            commit = parsed.stdout.decode().strip()
            merge_base = run_git(folder, "merge-base", commit, "HEAD")
            if merge_base.returncode:
                raise _incomparable(name, "In this clone it has no commit in common with this branch.")
            base = merge_base.stdout.decode().strip()
            theirs, ours = _files_at(folder, commit, base)
            return Branches(name, theirs, ours, _repeatables_at(folder, base))
    if against:
        raise _incomparable(against, f"Git says: {parsed.stderr.decode(errors='replace').strip()}.")
    return None


def _incomparable(name: str, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f'the files cannot be compared with "{name}"',
        detail=reason,
        hint="Fetch the branch with its history: `git fetch --unshallow origin`, or fetch-depth: 0 in a workflow.",
    )


def _git_output(folder: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    """The output of a git command; ConfigurationError when the command fails."""
    result = run_git(folder, *arguments, stdin=stdin)
    if result.returncode:
        raise ConfigurationError(
            f"git {arguments[0]} failed",
            detail=result.stderr.decode(errors="replace").strip(),
            hint="Run that command in the migrations folder to see why.",
        )
    return result.stdout


def _files_at(folder: Path, *commits: str) -> tuple[tuple[Migration, ...], ...]:
    """The migrations in the folder at each commit. Each blob is read once."""
    listings = [_blobs(folder, commit) for commit in commits]
    blobs = sorted({blob for listing in listings for blob in listing.values()})
    texts = dict(zip(blobs, _contents(folder, blobs), strict=True))
    return tuple(
        migrations.from_contents((name, texts[blob]) for name, blob in listing.items()) for listing in listings
    )


def _repeatables_at(folder: Path, commit: str) -> tuple[Migration, ...]:
    """The repeatables of the folder at a commit."""
    blobs = _blobs(folder, commit, f"{repeatables.FOLDER}/")
    texts = _contents(folder, list(blobs.values()))
    return migrations.repeatables_from_contents(zip(blobs, texts, strict=True))


def _blobs(folder: Path, commit: str, *paths: str) -> dict[str, str]:
    """The ids of the folder's .sql files at a commit, by file name, or by path from the folder below `paths`."""
    blobs = {}
    for entry in _git_output(folder, "ls-tree", "-z", commit, *paths).split(b"\0"):
        attributes, tab, name = entry.partition(b"\t")
        if tab and attributes.split()[1] == b"blob":
            blobs[os.fsdecode(name)] = attributes.split()[2].decode()
    return {name: blob for name, blob in blobs.items() if name.endswith(".sql")}


def _contents(folder: Path, blobs: Sequence[str]) -> Iterator[bytes]:
    """The content of each blob, from `git cat-file --batch`: a line with the size, the content and a line end."""
    output = _git_output(folder, "cat-file", "--batch", stdin="".join(f"{blob}\n" for blob in blobs).encode())
    position = 0
    for _ in blobs:
        head = output.index(b"\n", position)
        size = int(output[position:head].split()[-1])
        yield output[head + 1 : head + 1 + size]
        position = head + size + 2


def merged(mine: Sequence[Migration], theirs: Sequence[Migration], base: Sequence[Migration]) -> tuple[Migration, ...]:
    """The files after a merge: files changed here since `base` as they are here, all others as on main."""
    ours, main, before = ({file.name: file for file in files} for files in (mine, theirs, base))
    result = []
    for name in {**ours, **main}:
        is_changed = _checksum(ours.get(name)) != _checksum(before.get(name))
        if file := (ours if is_changed else main).get(name):
            result.append(file)
    return tuple(sorted(result, key=lambda file: (file.version, file.name)))


def _checksum(file: Migration | None) -> str | None:
    return file.checksum if file else None


def check_order(
    mine: Sequence[Migration], theirs: Sequence[Migration], base: Sequence[Migration]
) -> tuple[list[str], list[str]]:
    """The names of files new to main, and the mistakes.

    A mistake is a changed, renamed or deleted file of main, or a new file older than main's newest.
    """
    moment = datetime.now(timezone.utc)
    history = [HistoryRow(file.name, file.checksum, moment, None) for file in theirs]
    plan = make_plan(merged(mine, theirs, base), history)
    newest = max(theirs, key=lambda file: file.version).name if theirs else ""
    main_names = {file.name for file in theirs}
    new_names = {file.checksum: file.name for file in mine if file.name not in main_names}
    mistakes = [_mistake(entry, newest, new_names) for entry in plan.disagreements()]
    return list(plan.names("pending", "out-of-order")), [mistake for mistake in mistakes if mistake]


def _mistake(entry: Entry, newest: str, new_names: Mapping[str, str]) -> str:
    """The mistake in an entry of the plan, or an empty text. `new_names` are names of new files by checksum."""
    if entry.state == "changed":
        return f"{entry.name}: changed, and main has it: it may be applied. Make a new migration instead."
    if entry.state == "missing" and entry.row:
        new_name = new_names.get(entry.row.checksum)
        change = f"renamed to {new_name}" if new_name else "deleted"
        return f"{entry.name}: {change}, and main has it: it may be applied. Put it back."
    if entry.state == "half-squashed":
        return f"{entry.name}: replaces files of which main has other texts. Run `invoke squash` again on main's files."
    if entry.state == "out-of-order":
        return f"{entry.name}: new, but not newer than main's {newest}. Give it a newer version."
    return ""


def is_baseline(file: Migration, files: Sequence[Migration]) -> bool:
    """Return whether a file is the baseline: the schema of a database that existed before the files."""
    return file.name == files[0].name and file.name.partition("_")[2] == "baseline"


def lint(files: Sequence[Migration]) -> list[str]:
    """squawk's findings in the files, with their positions."""
    program = shutil.which("squawk", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    if program is None:
        raise ConfigurationError(
            "squawk is not installed, so the SQL cannot be linted",
            detail="It finds statements that lock tables for long or break a running application.",
            hint="Run `pip install 'pgratchet[ci]'`, or `pip install squawk-cli`.",
        )
    scripts = prepare_scripts(files)
    transactional = [script.migration.path for script in scripts if script.directives.transactional]
    others = [script.migration.path for script in scripts if not script.directives.transactional]
    contract = {script.migration.path for script in scripts if script.directives.phase == "contract"}
    findings = [*_squawk(program, transactional, "--assume-in-transaction"), *_squawk(program, others)]
    return [text for path, rule, text in findings if not (path in contract and rule in _CONTRACT_RULES)]


_ALONE = "Such a statement needs a file of its own with the line `-- migrate: no-transaction`."


def _squawk(program: str, paths: Sequence[str], *options: str) -> Iterator[tuple[str, str, str]]:
    """The path, the rule and the text of each finding."""
    if not paths:
        return
    # Not by squawk's --exclude, which would replace the excluded_rules of the team's .squawk.toml.
    command = [program, "--reporter=json", *options, "--", *paths]
    environ = program_environment()
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environ)
    try:
        findings = json.loads(result.stdout or "[]")
    except ValueError:
        findings = None
    if findings is None or (result.returncode and not findings):
        raise ConfigurationError(
            "squawk failed",
            detail=(result.stderr or result.stdout).strip()[-500:],
            hint="Run squawk by hand, and check .squawk.toml if there is one.",
        )
    for finding in (finding for finding in findings if finding["rule_name"] not in _EXCLUDED_RULES):
        position = f"{finding['file']}:{finding['line'] + 1}:{finding['column'] + 1}"
        alone = _ALONE if "concurrent" in finding["rule_name"] else ""
        message = " ".join(part for part in (finding["message"], finding.get("help"), alone) if part)
        yield finding["file"], finding["rule_name"], f"{position}: {finding['rule_name']}: {message}"


def require_clean(mistakes: Sequence[str]) -> None:
    """Raise a ConfigurationError with all mistakes."""
    if mistakes:
        raise combine_mistakes(
            "the migrations cannot be merged",
            list(mistakes),
            "Fix each. To accept a finding of squawk, write `-- squawk-ignore RULE` above the statement.",
        )


def apply_twice(server: ScratchServer, files: Sequence[Migration], roles: Iterable[str]) -> int:
    """Apply all files to a new database of a scratch server, twice. Returns how many the first run applied.

    The database, and the roles that were missing, are dropped afterwards. ConfigurationError when the server lacks an
    extension, MigrationFailed when the second run finds anything to do.
    """
    with sessions.translate_errors(), closing(sessions.connect(server.parameters)) as connection:
        _require_extensions(connection, server, files)
        with _scratch_database(connection, roles, files) as name:
            scratch = {**server.parameters, "dbname": name}
            try:
                first, second = (_apply(scratch, files, run_id) for run_id in ("first", "second"))
            except (MigrationFailed, StoppedPartWay) as error:
                error.rerun_with("ci")
                _advise(error, server)
                raise
            with closing(sessions.connect(scratch)) as session:
                plan = make_plan(files, History().read(session))
    applied = len(plan.names("applied")) + len(plan.repeatables.names("up to date"))
    if second or applied != len(files):
        raise MigrationFailed(
            "the second run on the scratch server did not find every migration applied",
            detail=f"It applied {', '.join(second) or 'nothing'}; {applied} of {len(files)} are recorded as applied.",
            hint="Find the file that changes the table ratchet.migrations, and remove that statement.",
        )
    return len(first)


def apply_once(server: ScratchServer, files: Sequence[Migration], roles: Iterable[str]) -> None:
    """Apply files to a new database of a scratch server, and drop it. Raises the error of the file that fails."""
    connecting = closing(sessions.connect(server.parameters))
    with sessions.translate_errors(), connecting as connection, _scratch_database(connection, roles, files) as name:
        _apply({**server.parameters, "dbname": name}, files, "once")


@contextmanager
def database_with(
    server: ScratchServer, files: Sequence[Migration], later: Sequence[Migration], roles: Iterable[str]
) -> Iterator[Callable[[], psycopg.Connection]]:
    """A new database of the server that has run the files; a function that connects to it, for the block.

    `later` are files that the block runs, whose roles are dropped with the others.
    Its tables are empty, and the live ones are not: where an index can be used, the planner uses it.
    """
    connecting = closing(sessions.connect(server.parameters))
    with (
        sessions.translate_errors(),
        connecting as connection,
        _scratch_database(connection, roles, [*files, *later]) as name,
    ):
        parameters = {**server.parameters, "dbname": name}
        _apply(parameters, files, "base")
        yield lambda: sessions.connect({**parameters, "options": "-c enable_seqscan=off"})


def _require_extensions(connection: psycopg.Connection, server: ScratchServer, files: Sequence[Migration]) -> None:
    """Raise ConfigurationError for extensions that the files create and the server lacks."""
    names = list(created_extensions(files))
    query = "SELECT name FROM unnest(%s::text[]) AS name WHERE name NOT IN (SELECT name FROM pg_available_extensions)"
    missing = [name for (name,) in connection.execute(query, (names,))] if names else []
    if missing:
        raise ConfigurationError(
            f"the scratch server lacks {format_count(len(missing), 'extension')} of the migrations",
            detail=f"The server is {server.description}. It lacks {', '.join(missing)}.",
            hint=_OTHER_SERVER,
        )


def _advise(error: MigrationFailed | StoppedPartWay, server: ScratchServer) -> None:
    """Name the inventory when a role is missing, and another server when the server seems to lack a feature."""
    if error.advise_inventory_roles() or not error.location or error.location.sqlstate not in _MISSING_FEATURE:
        return
    error.detail = f"{error.detail}\nThe scratch server is {server.description}.".strip()
    error.hint = f"{error.hint}\n{_OTHER_SERVER}"


@contextmanager
def _scratch_database(
    connection: psycopg.Connection, roles: Iterable[str], files: Sequence[Migration]
) -> Iterator[str]:
    """A new database with these roles for the block. What was created is dropped at its end, also roles by files."""
    name = f"pgratchet_ci_{os.urandom(6).hex()}"
    present = {role for (role,) in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
    new_roles = {role.decode() for role in created_roles(files)} - present
    identifier = sql.Identifier(name)
    with temporary_roles(connection, roles):
        try:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(identifier))
            yield name
        finally:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(identifier))
            for role in new_roles:
                connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


def _apply(parameters: Mapping[str, str], files: Sequence[Migration], run_id: str) -> list[str]:
    options = MigrateOptions(run_id, not_empty=True)  # the server's template may bring tables
    stream = applier.migrate(lambda: sessions.connect(parameters), History(), files, None, options)
    return [event.name for event in stream if isinstance(event, MigrationApplied)]
