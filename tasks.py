"""The tasks: flags in, rooms called, results out. No rule lives here; each stands in the room that owns it."""

from __future__ import annotations

import atexit
import functools
import gc
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

# A run is short, so how it starts counts. Invoke keeps Python from writing byte code, which is as well for one file of
# tasks, but would have every room compiled anew. The collector's passes over what is being imported cost a no-op a
# tenth of its time, and those at the end, which free what the end of the process frees anyway, a quarter.
sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)
gc.set_threshold(50_000)
atexit.register(gc.freeze)

sys.path.insert(0, str(Path(__file__).parent / "ops"))

from pgratchet.config import inventory, settings
from pgratchet.console import report
from pgratchet.console.result import RunResult
from pgratchet.database import target as access
from pgratchet.errors import ConfigurationError, HungUp, Interrupted, RatchetError, Terminated, Unreachable
from pgratchet.events import drain
from pgratchet.formatting import count_of
from pgratchet.migrations.files import Migration
from pgratchet.migrations.plan import HistoryRow
from pgratchet.operations import operations, wiring
from pgratchet.remote import dispatch

if TYPE_CHECKING:
    from pgratchet.adopt import adoption
    from pgratchet.backups.listing import BackupEntry
    from pgratchet.backups.manifest import Manifest
    from pgratchet.backups.restore import RestoreOptions
    from pgratchet.backups.store import Store
    from pgratchet.checks.ci import Branches
    from pgratchet.checks.doctor import Finding
    from pgratchet.config.settings import RenderedTarget
    from pgratchet.database.session import Session
    from pgratchet.database.target import Target
    from pgratchet.remote.client import RunInfo

# What libpq would read behind our back, such as PGHOSTADDR, reaches a run only through the inventory; so does where an
# object store is. Who is let in there may be told by the machine: that is how a cloud's own identities come.
ENVIRON = dict(os.environ)
for _name in [name for name in os.environ if re.match(r"PG|(AWS|GOOGLE|AZURE)_.*(ENDPOINT|BASE_URL)", name)]:
    del os.environ[_name]

_TERMINALS = [stream for stream in (1, 2) if os.isatty(stream)]

HERE = Path(os.path.relpath(Path(__file__).parent))
INVENTORY = HERE / "inventory"
TEMPLATES = HERE / "templates"

_HELP = {
    "env": "the environment, one of inventory/*.yml; else $OPS_ENV, else dev",
    "sql": "the folder of migrations",
    "limit": "only these targets: names or groups, with * and ?, separated by commas",
    "json": "print JSON for programs",
    "to": "the last migration to apply, by name or version",
    "dry_run": "show what would be applied, and change nothing",
    "from_": "the tool whose history is taken over; looked for where it is not said",
    "files": "the folder of the other tool's files; else its usual one",
    "history": "an SQLite file that holds the other tool's history",
    "baseline": "take the files up to this one for what an existing database is made of",
    "without_backup": "go without a backup for this reason, which the history keeps",
    "yes": "do not ask for the environment's name to be typed",
    "check": "exit 3 when anything is pending, 8 when files and history disagree",
    "backup": "the backup's id, as invoke backups lists it",
    "into": "restore into a new database of this name, beside the live one",
    "label": "a few words to know the backup by",
    "keep": "pin it: retention never deletes it",
    "leave_behind": "let replication slots and subscriptions stay with the old database",
    "accept_differences": "swap it in though it is not as the manifest says",
    "drop_old": "drop what restores have left beside the live database",
    "remove": "delete its data too",
    "run": "the run's id, as invoke runs lists it; else the newest",
    "name": "what it does, in a few words",
    "template": "another of templates/, such as k8s/migrate-job.yaml, ci/github.yml or ci/gitlab.yml",
    "against": "the branch to be merged into; else origin's default, main or master where there is one",
    "roles": "roles to make on the scratch server first, since a migration grants to them, separated by commas",
    "write": "write pg_service.conf, pgpass, or an env file, with secrets, mode 0600",
}


def _surface(body: Callable[..., None]) -> Callable[..., None]:
    """A task's outside: errors become three parts and an exit code, signals become 130, 143 and 129."""

    @functools.wraps(body)
    def run(*args: Any, **flags: Any) -> None:
        signal.signal(signal.SIGTERM, _terminate)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
            signal.signal(signal.SIGHUP, _hang_up)
        try:
            body(*args, **flags)
        except RatchetError as error:
            _fail(error, json=flags.get("json", False))
        except KeyboardInterrupt as stop:
            _fail(Interrupted(stop, hint="Run it again to go on."), json=False)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise Exit(code=141) from None
        except OSError as error:
            _fail(_unusable(error), json=flags.get("json", False))
        except UnicodeError as error:
            _fail(_unwritable(error), json=False)

    return run


def _fail(error: RatchetError, *, json: bool) -> None:
    _settle_down(error)
    if json and not error.printed:
        report.as_json({"error": error.as_json()})
    report.failure(error)
    raise Exit(code=error.status) from None


def _settle_down(error: RatchetError | None) -> None:
    """Once a signal has ended the run, another one is not to end the telling of it."""
    if isinstance(error, Interrupted):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


def _unusable(error: OSError) -> RatchetError:
    return ConfigurationError(
        f"cannot use {error.filename or 'a file'}",
        detail=f"{error.strerror}.",
        hint="See that it is there, that this user may read and write it, and that the disk has room.",
    )


def _unwritable(error: UnicodeError) -> RatchetError:
    return ConfigurationError(
        "a text cannot be written or read",
        detail=f"{error}.",
        hint="Give it in UTF-8, and run where the locale is UTF-8: PYTHONUTF8=1 makes it so.",
    )


def _terminate(_signal: int, _frame: object) -> None:
    raise Terminated


def _hang_up(_signal: int, _frame: object) -> None:
    for stream in _TERMINALS:  # they are gone, and to write to them would be an error in the place of this one
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    raise HungUp


def _task(*flags: str) -> Callable[[Callable[..., None]], Any]:
    def wrap(body: Callable[..., None]) -> Any:
        return task(help={flag: _HELP[flag] for flag in flags})(_surface(body))

    return wrap


def _targets(env: str | None, limit: str | None) -> tuple[inventory.InventoryTarget, ...]:
    return inventory.load(INVENTORY, env or os.environ.get("OPS_ENV") or "dev", limit)


def _settings(target: inventory.InventoryTarget, *, start: bool, connects: bool = True) -> RenderedTarget:
    """A target's settings; its embedded server, where it has one, is started or only looked for, and its tunnel, where
    it has one, is opened where the target is to be connected to."""

    def local_server() -> dict[str, str]:
        from pgratchet import embedded

        server = embedded.server(HERE, target.environment, make=start)
        if not start:
            return dict(embedded.attach(server))
        if embedded.start(server, settings.some(target, ["pg_dbname"], ENVIRON).pg_dbname):
            report.talk(f"started PostgreSQL for {target.environment}; invoke down --env={target.environment} stops it")
        return server.parameters()

    given = settings.render_target(target, TEMPLATES, ENVIRON, local_server, _tunnel if connects else None)
    for name in given.secrets:  # no program that we start has to be told
        os.environ.pop(name, None)
    return given


def _tunnel(variables: inventory.Variables, host: str, port: int) -> int:
    """A tunnel that lasts as long as this process."""
    from pgratchet.remote import tunnel

    opened = tunnel.open_tunnel(variables, host, port)
    there = opened.__enter__()
    atexit.register(opened.__exit__, None, None, None)  # behind its temporary folder's own, which has to be last
    return there


@_task("env", "sql", "to", "dry_run", "without_backup", "yes", "limit", "json")
def migrate(
    _: Context,
    env: str | None = None,
    sql: str = str(HERE / "sql"),
    to: str | None = None,
    dry_run: bool = False,
    without_backup: str | None = None,
    yes: bool = False,
    limit: str | None = None,
    json: bool = False,
) -> None:
    """Apply what is pending, behind a backup that was read back whole."""
    from pgratchet.console import progress
    from pgratchet.migrations import files as migrations

    files = migrations.read(Path(sql))
    for given in [_settings(target, start=not dry_run) for target in _targets(env, limit)]:
        outcome = RunResult(given.environment, given.target, os.urandom(6).hex())
        running = dispatch.migrate(given, files, outcome.run_id, to, without_backup, HERE)
        with _outcome(outcome, json, dry_run), closing(running) as events:
            outcome.take(next(events))
            if not json:
                report.planned(outcome, only=dry_run)
            if not dry_run:
                _consent(given, bool(outcome.plan), yes)
                progress.draw(events, outcome, quiet=json)
        if not json and not dry_run:
            report.finished(outcome)


def _consent(given: RenderedTarget, changes: bool, yes: bool) -> None:
    """Where anything changes, and the environment asks for it, its name typed by a person."""
    if changes and given.variables.confirm:
        _agreed(given.environment, yes)


def _agreed(environment: str, yes: bool) -> None:
    """Raises unless a person types the environment's name, or has said yes before."""
    if not yes and not report.ask(f'Type "{environment}" to go on: ', environment):
        raise ConfigurationError(
            f"{environment} was not confirmed",
            detail="Nothing was changed.",
            hint=f"Type {environment} when asked, or give --yes where no one can be asked.",
        )


@contextmanager
def _outcome(outcome: RunResult, json: bool, dry_run: bool) -> Iterator[None]:
    """Prints the JSON of a run, also of one that fails."""
    started = time.monotonic()
    try:
        yield
    except RatchetError as error:
        outcome.error = error
        raise
    except KeyboardInterrupt as stop:
        outcome.error = Interrupted(stop, detail="Nothing was under way.", hint="Run it again to go on.")
        raise outcome.error from None
    finally:
        _settle_down(outcome.error)
        if outcome.error:
            outcome.error.printed = json
        outcome.duration_ms = round((time.monotonic() - started) * 1000)
        if json:
            report.as_json(outcome.as_json(plan=dry_run))


@_task("env", "sql", "limit", "check", "json")
def status(
    _: Context,
    env: str | None = None,
    sql: str = str(HERE / "sql"),
    limit: str | None = None,
    check: bool = False,
    json: bool = False,
) -> None:
    """Show what is applied and what is pending; writes nothing."""
    from pgratchet.migrations import files as migrations
    from pgratchet.migrations.plan import make_plan, require_agreement

    files = migrations.read(Path(sql))
    pending = 0
    for target in _targets(env, limit):
        given = _settings(target, start=False)
        plan = make_plan(files, drain(dispatch.perform(given, operations.ReadHistory(), tuple[HistoryRow, ...], HERE)))
        if json:
            report.as_json({"env": target.environment, "target": target.name, **report.migrations(plan)})
        else:
            report.status(target.environment, target.name, plan)
        if check:
            changed = plan.names("changed")
            require_agreement(plan, _bodies(given, changed) if changed else {})
        pending += plan.left
    if check and pending:
        raise Exit(code=3)


@_task("env", "sql", "limit", "json")
def doctor(
    _: Context, env: str | None = None, sql: str = str(HERE / "sql"), limit: str | None = None, json: bool = False
) -> None:
    """Show what stands in the way of a migration, before it does."""
    status = 0
    for target in _targets(env, limit):
        found: list[Finding] = []
        code = _examine(target, Path(sql), found)
        if json:
            shape = {"env": target.environment, "target": target.name, "findings": [asdict(each) for each in found]}
            report.as_json(shape)
        else:
            report.doctor(target.environment, target.name, found)
        status = max(status, code)
    if status:
        raise Exit(code=status)


def _examine(target: inventory.InventoryTarget, sql: Path, found: list[Finding]) -> int:
    """Gather what is found about a target; returns the exit code that it comes to."""
    from pgratchet.checks import doctor

    files, told = _files(sql)
    pending = files
    try:
        given = _settings(target, start=False)
        with doctor.collecting(told, "history", past=(Unreachable,)):
            history = drain(dispatch.perform(given, operations.ReadHistory(), tuple[HistoryRow, ...], HERE))
            told += doctor.agreement(files, history)
            pending = doctor.pending(files, history)
        job = operations.Examine(doctor.extensions(pending))
        found += drain(dispatch.perform(given, job, tuple[doctor.Finding, ...], HERE))
    except RatchetError as error:
        found.append(doctor.finding_of(error, "login" if isinstance(error, Unreachable) else "settings"))
        return error.exit_code
    finally:
        found += told
    return 2 if any(each.severity == "problem" for each in found) else 0


def _files(sql: Path) -> tuple[tuple[Migration, ...], list[Finding]]:
    """The migrations of a folder, or none of them and what is wrong there."""
    from pgratchet.checks import doctor
    from pgratchet.migrations import files as migrations

    told: list[Finding] = []
    files = tuple[Migration, ...]()
    with doctor.collecting(told, "files"):
        files = migrations.read(sql)
    return files, told


def _bodies(given: RenderedTarget, names: tuple[str, ...]) -> dict[str, str]:
    return drain(dispatch.perform(given, operations.ReadTexts(names), dict[str, str], HERE))


def _keeping(target: inventory.InventoryTarget) -> inventory.Variables:
    """What says where the backups of a target lie; for that, nothing of its connection need be known."""
    return settings.some(target, ["backup_", "reach", "ssh_"], ENVIRON)


def _kept(target: inventory.InventoryTarget) -> Store:
    return dispatch.backup_store(target.environment, target.name, _keeping(target), HERE)


def _chosen(
    env: str | None, limit: str | None, backup_id: str | None
) -> tuple[inventory.InventoryTarget, Store, BackupEntry]:
    """A backup by its id, or the newest one, of the environment's targets."""
    kept = [(target, _kept(target)) for target in _targets(env, limit)]
    index, listed = wiring.chosen(kept, backup_id)
    target, store = kept[index]
    if listed.manifest:
        wiring.refuse_foreign(listed.manifest, target)
    return target, store, listed


@_task("env", "label", "keep", "limit", "json")
def backup(
    _: Context,
    env: str | None = None,
    label: str | None = None,
    keep: bool = False,
    limit: str | None = None,
    json: bool = False,
) -> None:
    """Take a backup now, and read it back whole."""
    from pgratchet.console import progress

    for target in _targets(env, limit):
        given = _settings(target, start=True)
        outcome = RunResult(target.environment, target.name, os.urandom(6).hex())
        taken = dispatch.backup(given, operations.TakeBackup(label, keep), outcome.run_id, HERE)
        progress.draw(taken, outcome, quiet=json)
        report.backup_taken(outcome, json=json)


@_task("env", "limit", "json")
def backups(_: Context, env: str | None = None, limit: str | None = None, json: bool = False) -> None:
    """List the backups, newest first, and the last drills."""
    from pgratchet.backups import drill, listing

    for target in _targets(env, limit):
        kept = _kept(target)
        found, drills = listing.list_backups(kept), drill.read_records(kept)
        if json:
            listed = report.backups_json(found, drills, kept.where)
            report.as_json({"env": target.environment, "target": target.name, **listed})
        else:
            report.backups(target.environment, target.name, found, drills)


@_task("env", "backup", "limit")
def verify(_: Context, backup: str | None = None, env: str | None = None, limit: str | None = None) -> None:
    """Read a backup back whole, against its manifest."""
    from pgratchet.backups import listing
    from pgratchet.console import progress

    target, _store, listed = _chosen(env, limit, backup)
    made, variables = listing.require_manifest(listed), _keeping(target)
    reading = dispatch.verify(target.environment, target.name, variables, made, HERE)
    progress.draw(reading, RunResult(target.environment, target.name, ""))
    report.verified(made, closed=bool(made.recipients) and not variables.backup_identity)


@_task("backup", "into", "env", "leave_behind", "accept_differences", "drop_old", "yes", "limit", "json")
def restore(
    _: Context,
    backup: str | None = None,
    into: str | None = None,
    env: str | None = None,
    leave_behind: bool = False,
    accept_differences: bool = False,
    drop_old: bool = False,
    yes: bool = False,
    limit: str | None = None,
    json: bool = False,
) -> None:
    """Swap a backup in, keeping the old database; with --into beside it."""
    if drop_old and backup is None:
        _drop_old(env, limit, yes)
        return
    from pgratchet.backups import listing
    from pgratchet.console import progress

    if backup is None:
        raise ConfigurationError(
            "no backup was named",
            detail="A restore is of one backup, and which one is for you to say.",
            hint="Give --backup=ID; `invoke backups` lists them.",
        )
    target, _store, listed = _chosen(env, limit, backup)
    given = _settings(target, start=True)
    made = listing.require_manifest(listed)
    wishes = wiring.wishes(given.variables, into, leave_behind=leave_behind, accept=accept_differences)
    _foreseen(given, made, wishes, yes)
    outcome = RunResult(target.environment, target.name, os.urandom(6).hex(), made.backup_id)
    job = operations.Restore(made.backup_id, into, leave_behind, accept_differences)
    started = time.monotonic()
    progress.draw(dispatch.restore(given, job, outcome.run_id, made, HERE), outcome, quiet=json)
    outcome.duration_ms = round((time.monotonic() - started) * 1000)
    report.restored(outcome, json=json)
    if drop_old and outcome.kept:
        drain(dispatch.perform(given, operations.DropKeptDatabases((outcome.kept,)), type(None), HERE))


def _foreseen(given: RenderedTarget, made: Manifest, wishes: RestoreOptions, yes: bool) -> None:
    """What a restore will meet and undo, told and agreed to, or refused."""
    from pgratchet.backups import manifest, restore

    look = operations.PreviewRestore(manifest.dumps(made).decode())
    outlook = drain(dispatch.perform(given, look, restore.RestorePreview, HERE))
    restore.require_restorable(outlook, made, wishes)
    if wishes.into is None:
        report.losing(made, given.connection["dbname"], outlook)
        _agreed(given.environment, yes)


def _drop_old(env: str | None, limit: str | None, yes: bool) -> None:
    """Drop what restores left beside the live database."""
    for target in _targets(env, limit):
        given = _settings(target, start=False)
        names = drain(dispatch.perform(given, operations.ListKeptDatabases(), tuple[str, ...], HERE))
        for name in names:
            report.talk(f'to be dropped: "{name}"')
        if names:
            _agreed(target.environment, yes)
            drain(dispatch.perform(given, operations.DropKeptDatabases(names), type(None), HERE))
        report.data(f"{target.environment}: {target.name}: {count_of(len(names), 'database')} dropped")


@_task("env", "backup", "limit", "json")
def drill(
    _: Context, env: str | None = None, backup: str | None = None, limit: str | None = None, json: bool = False
) -> None:
    """Prove on a scratch server that the newest backup restores."""
    from pgratchet.backups import drill as drilling
    from pgratchet.backups import listing, verification
    from pgratchet.backups.restore import BackupArchive
    from pgratchet.console import progress
    from pgratchet.database.history import History

    target, store, listed = _chosen(env, limit, backup)
    variables = settings.some(target, ["backup_", "drill_", "history_"], ENVIRON)
    made, identity = listing.require_manifest(listed), wiring.identity(variables)
    named = variables.drill_environment
    where = _settings(_targets(named, None)[0], start=True) if named else None
    ledger = History(variables.history_schema, variables.history_table)
    with wiring.scratch(where, ledger, made) as (site, programs):
        archived = BackupArchive(made, verification.open_content(made, store, identity), programs)
        reading = verification.verify(listed, store, programs, identity)
        running = drilling.run(site, archived, reading, jobs=variables.backup_jobs, ours=where is None)
        record = progress.draw(running, RunResult(target.environment, target.name, ""), quiet=json)
    drilling.write_record(store, record)
    report.drilled(target.environment, target.name, record, json=json)
    drilling.require_good(record)


@_task("env", "run", "limit")
def attach(_: Context, env: str | None = None, run: str | None = None, limit: str | None = None) -> None:
    """Follow a run on a host again: the newest, or one that is named."""
    from pgratchet.console import progress
    from pgratchet.remote import client

    target, given, about = _run_of(env, limit, run)
    outcome = RunResult(target.environment, target.name, about.run_id, plan=about.names)
    started = time.monotonic()
    progress.draw(client.attach(given, about), outcome)
    outcome.duration_ms = round((time.monotonic() - started) * 1000)
    report.followed(outcome, about)


@_task("env", "limit", "json")
def runs(_: Context, env: str | None = None, limit: str | None = None, json: bool = False) -> None:
    """List what runs and ran on the targets' hosts, newest first."""
    from pgratchet.remote import client

    for target in _targets(env, limit):
        found = client.list_runs(_on_host(target))
        if json:
            report.as_json({"env": target.environment, "target": target.name, "runs": [asdict(each) for each in found]})
        else:
            report.runs(target.environment, target.name, found)


@_task("env", "run", "limit")
def cancel(_: Context, env: str | None = None, run: str | None = None, limit: str | None = None) -> None:
    """End a run on a host: statement cancelled, lock released."""
    from pgratchet.remote import client

    target, given, about = _run_of(env, limit, run)
    ended = client.cancel(given, about.run_id)
    where = f"{target.environment}: {target.name}: {about.run_id}"
    report.data(f"{where}: {'told to end' if ended else 'it was over already'}")


def _on_host(target: inventory.InventoryTarget) -> Target:
    """A target on another host, as far as its runs are concerned."""
    return dispatch.host_target(target.environment, target.name, _keeping(target))


def _run_of(env: str | None, limit: str | None, run: str | None) -> tuple[inventory.InventoryTarget, Target, RunInfo]:
    """The run of that id on the host of one of the targets, or the newest."""
    from pgratchet.remote import client

    for target in _targets(env, limit):
        given = _on_host(target)
        for about in client.list_runs(given):
            if run in (None, about.run_id):
                return target, given, about
    raise ConfigurationError(
        f"there is no run{f' {run}' if run else ''}",
        detail="The hosts keep the last hundred, for thirty days.",
        hint="`invoke runs` lists them; `invoke status` asks the database.",
    )


@_task("env", "sql", "from_", "files", "history", "baseline", "dry_run", "yes", "limit", "json")
def adopt(
    _: Context,
    env: str | None = None,
    sql: str = str(HERE / "sql"),
    from_: str | None = None,
    files: str | None = None,
    history: str | None = None,
    baseline: str | None = None,
    dry_run: bool = False,
    yes: bool = False,
    limit: str | None = None,
    json: bool = False,
) -> None:
    """Take over another tool's history, or a database without one."""
    from pgratchet.adopt import adoption

    wishes = adoption.AdoptionOptions(
        Path(sql), from_, Path(files) if files else None, Path(history) if history else None
    )
    for target in _targets(env, limit):
        given = _settings(target, start=not dry_run)
        with wiring.session(given) as session:
            if baseline is not None:
                marked = _baseline(given, session, Path(sql), baseline, yes=yes, dry_run=dry_run)
                report.baselined(given.environment, given.target, marked, done=not dry_run, json=json)
            else:
                _take_over(given, session, wishes, yes=yes, dry_run=dry_run, json=json)


def _take_over(
    given: RenderedTarget, session: Session, wishes: adoption.AdoptionOptions, *, yes: bool, dry_run: bool, json: bool
) -> None:
    """Take over what is there to be, once it was shown and agreed to."""
    from pgratchet.adopt import adoption

    past = session.open()
    found = adoption.preview(session, past, wishes)
    where = (given.environment, given.target)
    if not json:
        report.adoption(*where, found)
    try:
        adoption.require_adoptable(found, past, wishes.sql)
        if not dry_run:
            _consent(given, not found.is_there, yes)
            drain(adoption.write(session, found, wishes, os.urandom(6).hex()))
    except RatchetError as error:
        error.printed = json
        if json:
            report.adoption_json(*where, found, done=False, error=error)
        raise
    if json:
        report.adoption_json(*where, found, done=not dry_run)
    elif not dry_run:
        report.adopted(*where, found)


def _baseline(
    given: RenderedTarget, session: Session, sql: Path, name: str, *, yes: bool, dry_run: bool
) -> tuple[str, ...]:
    """The names of the files up to that one, marked as adopted where the database is what they make."""
    from pgratchet.adopt import baseline
    from pgratchet.migrations import files as migrations

    files = migrations.read(sql)
    marked = baseline.select(session.open(), files, name)
    if marked:
        site, dump = wiring.site(given), wiring.schema_dump(given, session)
        told = baseline.differences(site, given.connection["dbname"], dump, files, name)
        baseline.require_equal(told, yes=yes)
        report.talk("\n".join(["in spite of the differences:", *told]) if told else "the schemas are the same")
    if not dry_run:
        _consent(given, bool(marked), yes)
        drain(baseline.mark(session, files, name, os.urandom(6).hex()))
    return tuple(each.name for each in marked)


@_task("name", "sql")
def new(_: Context, name: str, sql: str = str(HERE / "sql")) -> None:
    """Write an empty migration, named by the time in UTC."""
    from pgratchet.migrations import files

    report.data(str(files.create(Path(sql), name, datetime.now(timezone.utc))))


@_task("env", "limit")
def rollback(_: Context, env: str | None = None, limit: str | None = None) -> None:
    """Explain why there is none, and name the backup instead."""
    from pgratchet.backups import listing

    target = _targets(env, limit)[0]
    newest = next((each.manifest for each in listing.list_backups(_kept(target)) if each.manifest), None)
    raise report.no_rollback(target.environment, target.name, newest)


@_task("env", "limit", "write", "template")
def render(
    _: Context,
    env: str | None = None,
    limit: str | None = None,
    write: str | None = None,
    template: str | None = None,
) -> None:
    """Show settings or a template as rendered, or write them."""
    targets = _targets(env, limit)
    if template is not None:
        text = settings.render_template(template, targets, TEMPLATES, ENVIRON)
        if write is None:
            report.data(text.rstrip())
        else:
            Path(write).write_text(text, encoding="utf-8")
            report.talk(f"wrote {write}")
        return
    given = [_settings(target, start=False, connects=False) for target in targets]
    if write is None:
        for each in given:
            report.data(each.render("pg_service.conf", masked=True).rstrip())
            report.data(each.render("database.env", masked=True).rstrip())
    else:
        access.write_private(Path(write), settings.render_file(Path(write), given), replace=True)
        report.talk(f"wrote {write}, readable by you alone")


@_task("env")
def up(_: Context, env: str | None = None) -> None:
    """Start the PostgreSQL that comes along; say how to connect."""
    for target in _targets(env, None):
        given = _settings(target, start=True)
        report.connection(given.environment, given.target, given.render("database.env", masked=True), given.embedded)


@_task("env", "remove")
def down(_: Context, env: str | None = None, remove: bool = False) -> None:
    """Stop that PostgreSQL; its data stays unless --remove is given."""
    from pgratchet import embedded

    name = _targets(env, None)[0].environment
    server = embedded.server(HERE, name)
    stopped = embedded.stop(server)
    if remove:
        embedded.remove(server)
    report.talk(
        f"{name}: {'stopped' if stopped else 'it was not running'}; its data {'is gone' if remove else 'stays'}"
    )


@task(help={"fast": "only the tests that need no server"})
def test(c: Context, fast: bool = False) -> None:
    """Run the tests."""
    _check(c, "pytest tests/unit" if fast else "pytest -n 2 --dist loadgroup --no-loadscope-reorder")


@task
def lint(c: Context) -> None:
    """Check style and types."""
    _check(c, "ruff check .")
    _check(c, "ruff format --check .")
    _check(c, "mypy")


@task(
    help={
        "quick": "fewer rounds of smaller cases, about 5 minutes",
        "only": "one case, by its name in the output",
        "chart": "where the chart goes; without it a whole run writes docs/benchmark.svg, and another none",
        "install": "fetch the other tools into .pgratchet/bench, and end",
    }
)
def bench(
    c: Context, quick: bool = False, only: str | None = None, chart: str | None = None, install: bool = False
) -> None:
    """Time it beside psql, bare floors and other tools."""
    from shlex import quote

    flags = ["--quick"] * quick + ["--install"] * install
    flags += [f"--{name}={quote(value)}" for name, value in (("only", only), ("chart", chart)) if value]
    _check(c, " ".join(("tests.bench", *flags)))


@task(lint, test)
def check(_: Context) -> None:
    """Run every check of the project itself."""


@_task("sql", "against", "roles")
def ci(_: Context, sql: str = str(HERE / "sql"), against: str | None = None, roles: str = "") -> None:
    """Check the migrations before they are merged into main."""
    from pgratchet import embedded
    from pgratchet.checks import ci as checks
    from pgratchet.migrations import files as migrations
    from pgratchet.migrations import scripts

    files = migrations.read(Path(sql))
    scripts.prepare(files)
    new, mistakes = _new(files, checks.compare_branches(Path(sql), against))
    found = checks.lint([each for each in files if new is None or each.name in new])
    if new is None and found:
        report.talk(f"squawk finds {count_of(len(found), 'thing')}, counted only: which files are new is not known")
    checks.require_clean([*mistakes, *(found if new is not None else ())])
    with embedded.scratch() as server:
        applied = checks.apply_twice(server.parameters(), files, filter(None, roles.split(",")))
    report.data(f"{count_of(applied, 'migration')} applied on a scratch server; a second run had nothing to do")


def _new(files: tuple[Migration, ...], branches: Branches | None) -> tuple[list[str] | None, list[str]]:
    """The names that main has not, None where main is not known; and what is wrong with the order."""
    from pgratchet.checks import ci

    if branches is None:
        report.talk("not compared with main: there is none in this clone; --against=BRANCH names it")
        return None, []
    new, mistakes = ci.check_order(files, branches.theirs, branches.base)
    report.data(f"{count_of(len(files), 'migration')}, {len(new)} of them new to {branches.main}")
    return new, mistakes


def _check(c: Context, command: str) -> None:
    with c.cd(str(HERE)):
        done = c.run(f"{sys.executable} -m {command}", pty=sys.stdout.isatty(), warn=True, in_stream=False)
    if done is None or done.exited:
        raise Exit(code=1)
