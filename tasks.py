"""The tasks: flags in, rooms called, results out. No rule lives here; each stands in the room that owns it."""

from __future__ import annotations

import atexit
import functools
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from ops import inventory, report, settings
from ops.errors import BackupFailed, ConfigurationError, HungUp, Interrupted, RatchetError, Terminated

if TYPE_CHECKING:
    from psycopg import Connection

    from ops.applier import Options
    from ops.backup import Listed
    from ops.events import Event
    from ops.history import Ledger
    from ops.migrations import Migration, Record
    from ops.progress import Outcome
    from ops.settings import Settings

# A run is short: the collector's passes over what was just imported cost a no-op a tenth of its time, and those at
# the end, which free what the end of the process frees anyway, a quarter.
gc.set_threshold(50_000)
atexit.register(gc.freeze)

# What libpq would read behind our back, such as PGHOSTADDR, reaches a run only through the inventory.
ENVIRON = dict(os.environ)
for _name in [name for name in os.environ if name.startswith("PG")]:
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
    "without_backup": "go without a backup for this reason, which the history keeps",
    "yes": "do not ask for the environment's name to be typed",
    "check": "exit 3 when anything is pending, 8 when files and history disagree",
    "backup": "the backup's id, as invoke backups lists it",
    "into": "the name of the new database to restore into",
    "remove": "delete its data too",
    "name": "what it does, in a few words",
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


def _targets(env: str | None, limit: str | None) -> tuple[inventory.Target, ...]:
    return inventory.load(INVENTORY, env or os.environ.get("OPS_ENV") or "dev", limit)


def _settings(target: inventory.Target, *, start: bool) -> Settings:
    """A target's settings; its embedded server, where it has one, is started or only looked for."""

    def local_server() -> dict[str, str]:
        from ops import embedded

        server = embedded.server(HERE, target.environment, make=start)
        if not start:
            return dict(embedded.attach(server))
        if embedded.start(server, str(settings.single(target, "pg_dbname", ENVIRON))):
            report.talk(f"started PostgreSQL for {target.environment}; invoke down --env={target.environment} stops it")
        return server.parameters()

    given = settings.resolve(target, TEMPLATES, ENVIRON, local_server)
    for name in given.secrets:  # no program that we start has to be told
        os.environ.pop(name, None)
    return given


def _ledger(given: Settings) -> Ledger:
    from ops.history import Ledger

    return Ledger(given.variables.history_schema, given.variables.history_table)


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
    from ops import migrations, progress

    files = migrations.read(Path(sql))
    for given in [_settings(target, start=not dry_run) for target in _targets(env, limit)]:
        outcome = progress.Outcome(given.environment, given.target, os.urandom(6).hex())
        with _outcome(outcome, json, dry_run):
            options = _options(given, outcome.run_id, to, without_backup)
            with closing(_run(given, files, options)) as events:
                plan = next(events)
                outcome.take(plan)
                if not json:
                    report.planned(outcome, only=dry_run)
                if not dry_run:
                    _consent(given, outcome, yes)
                    progress.draw(events, outcome, quiet=json)
        if not json and not dry_run:
            report.finished(outcome)


def _run(given: Settings, files: Sequence[Migration], options: Options) -> Generator[Event, None, None]:
    from ops import applier, backup

    needed = backup.needed(given.variables.backup_policy, options.waiver)
    take = functools.partial(_take_backup, given) if needed else None
    if needed:
        given.render("pgpass", masked=True)  # what is wrong with it is told before anything is connected to
    return applier.migrate(functools.partial(_connect, given), _ledger(given), files, take, options)


def _options(given: Settings, run_id: str, to: str | None, waiver: str | None) -> Options:
    from ops.applier import Options

    variables = given.variables
    return Options(
        run_id=run_id,
        to=to,
        waiver=waiver,
        wait=variables.migration_timeout,
        lock_timeout=variables.lock_timeout,
        statement_timeout=variables.migration_timeout,
        batch_size=variables.migration_batch_size,
        pinned_identifier=variables.pg_system_identifier,
    )


def _connect(given: Settings) -> Connection:
    from ops.connection import connect

    return connect(given.parameters())


@contextmanager
def _connected(given: Settings) -> Iterator[Connection]:
    """A connection for the block, and our errors for what the server says in it."""
    from ops.connection import translated

    with translated(), closing(_connect(given)) as connection:
        yield connection


def _take_backup(given: Settings, connection: Connection, history: Sequence[Record]) -> Generator[Event, None, str]:
    """A backup of what the connection leads to, by libpq's programs and the same settings."""
    from ops import backup, embedded
    from ops import connection as sessions

    server = sessions.inspect(connection)
    sessions.refuse_other_cluster(server, given.variables.pg_system_identifier)
    sessions.refuse_pooled(server, "no backup can be taken")
    encrypted = connection.pgconn.ssl_in_use
    programs = backup.find_programs(server.version, tls=encrypted, embedded=embedded.programs)
    with given.client_environment() as environ:
        source = backup.Source(
            environment=given.environment,
            target=given.target,
            database=server.database,
            server_version=server.version,
            size=sessions.database_size(connection),
            environ=environ,
        )
        applied = {record.name: record.checksum for record in history if record.executed_at}
        manifest = yield from backup.take(source, HERE / given.variables.backup_dir, programs, applied)
    return manifest.backup_id


def _consent(given: Settings, outcome: Outcome, yes: bool) -> None:
    """Where the environment asks for it, its name typed by a person."""
    if not outcome.plan or yes or not given.variables.confirm:
        return
    if not report.ask(f'Type "{given.environment}" to go on: ', given.environment):
        raise ConfigurationError(
            f"{given.environment} was not confirmed",
            detail="Nothing was changed.",
            hint=f"Type {given.environment} when asked, or give --yes where no one can be asked.",
        )


@contextmanager
def _outcome(outcome: Outcome, json: bool, dry_run: bool) -> Iterator[None]:
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
    from ops import migrations

    files = migrations.read(Path(sql))
    pending = 0
    for target in _targets(env, limit):
        given = _settings(target, start=False)
        ledger = _ledger(given)
        with _connected(given) as connection:
            plan = migrations.plan(files, ledger.read(connection))
            if json:
                report.as_json({"env": target.environment, "target": target.name, **report.migrations(plan)})
            else:
                report.status(target.environment, target.name, plan)
            if check:
                migrations.check(plan, ledger.bodies(connection, plan.names("changed")))
        pending += len(plan.names("pending", "unfinished"))
    if check and pending:
        raise Exit(code=3)


@_task("env", "limit", "json")
def backup(_: Context, env: str | None = None, limit: str | None = None, json: bool = False) -> None:
    """Take a backup now, and read it back whole."""
    from ops import progress

    for target in _targets(env, limit):
        given = _settings(target, start=True)
        outcome = progress.Outcome(target.environment, target.name, os.urandom(6).hex())
        with _connected(given) as connection:
            progress.draw(_take_backup(given, connection, _ledger(given).read(connection)), outcome, quiet=json)
        report.backup_taken(outcome, json=json)


@_task("env", "limit", "json")
def backups(_: Context, env: str | None = None, limit: str | None = None, json: bool = False) -> None:
    """List the backups, newest first."""
    from ops import backup

    for target in _targets(env, limit):
        found = backup.find(_backup_folder(target), target.environment, target.name)
        if json:
            listed = report.backups_json(found)
            report.as_json({"env": target.environment, "target": target.name, "backups": listed})
        else:
            report.backups(target.environment, target.name, found)


@_task("env", "backup", "limit")
def verify(_: Context, backup: str, env: str | None = None, limit: str | None = None) -> None:
    """Read one backup back whole, against its manifest."""
    from ops import backup as backups
    from ops import progress

    target, listed = _find_backup(env, limit, backup)
    outcome = progress.Outcome(target.environment, target.name, "")
    version = listed.manifest.server_version if listed.manifest else 0
    programs = backups.find_programs(version, tls=False, embedded=_wheel())
    progress.draw(backups.verify(listed, programs), outcome)
    report.data(f"{backup} is good: every file is as its manifest says, and the archive reads to its end")


def _wheel() -> Callable[[], Path]:
    from ops.embedded import programs

    return programs


def _backup_folder(target: inventory.Target) -> Path:
    return HERE / str(settings.single(target, "backup_dir", ENVIRON))


def _find_backup(env: str | None, limit: str | None, backup_id: str) -> tuple[inventory.Target, Listed]:
    from ops import backup

    searched = _targets(env, limit)
    for target in searched:
        for listed in backup.find(_backup_folder(target), target.environment, target.name):
            if listed.path.name == backup_id:
                return target, listed
    raise BackupFailed(
        f'there is no backup "{backup_id}"',
        detail=f"Looked among those of {', '.join(f'{t.environment}: {t.name}' for t in searched)}.",
        hint=f"`invoke backups --env={searched[0].environment}` lists them.",
    )


@_task("backup", "into", "env", "limit")
def restore(_: Context, backup: str, into: str, env: str | None = None, limit: str | None = None) -> None:
    """Restore a backup into a new database, beside the live one."""
    from ops import backup as backups
    from ops import connection as sessions
    from ops import progress

    target, listed = _find_backup(env, limit, backup)
    given = _settings(target, start=True)
    with _connected(given) as connection, given.client_environment() as environ:
        server = sessions.inspect(connection)
        sessions.refuse_other_cluster(server, given.variables.pg_system_identifier)
        sessions.refuse_pooled(server, "nothing can be restored")
        programs = backups.find_programs(server.version, tls=connection.pgconn.ssl_in_use, embedded=_wheel())
        outcome = progress.Outcome(target.environment, target.name, "")
        progress.draw(backups.verify(listed, programs), outcome)
        with sessions.new_database(connection, into):
            backups.restore(listed, programs, environ, into)
    report.data(f'{backup} is in the database "{into}"; nothing else was changed')


@_task("name", "sql")
def new(_: Context, name: str, sql: str = str(HERE / "sql")) -> None:
    """Write an empty migration, named by the time in UTC."""
    from ops import migrations

    report.data(str(migrations.create(Path(sql), name, datetime.now(timezone.utc))))


@_task("env", "limit")
def rollback(_: Context, env: str | None = None, limit: str | None = None) -> None:
    """Explain why there is none, and name the backup instead."""
    from ops import backup

    target = _targets(env, limit)[0]
    newest = backup.newest(_backup_folder(target), target.environment, target.name)
    raise report.no_rollback(target.environment, target.name, newest)


@_task("env", "limit", "write")
def render(_: Context, env: str | None = None, limit: str | None = None, write: str | None = None) -> None:
    """Show the settings as rendered, or write them to a file."""
    given = [_settings(target, start=False) for target in _targets(env, limit)]
    if write is None:
        for each in given:
            report.data(each.render("pg_service.conf", masked=True).rstrip())
            report.data(each.render("database.env", masked=True).rstrip())
    else:
        settings.write_private(Path(write), settings.together(Path(write), given), replace=True)
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
    from ops import embedded

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
    _check(c, "pytest" + (" tests/unit" if fast else ""))


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
def ci(_: Context) -> None:
    """Run every check of the project."""


def _check(c: Context, command: str) -> None:
    with c.cd(str(HERE)):
        done = c.run(f"{sys.executable} -m {command}", pty=sys.stdout.isatty(), warn=True, in_stream=False)
    if done is None or done.exited:
        raise Exit(code=1)
