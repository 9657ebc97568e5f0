"""Wraps the body of a task: errors become three parts and an exit code, signals cancel what is running.

Signal handlers are installed while a task runs and put back when it ends, unless a signal has ended it: another signal
would then cut the exit short (tests/acceptance/test_migrate_signals.py).
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from invoke.exceptions import Exit
from invoke.tasks import task as invoke_task

from pgratchet.console import commands, output
from pgratchet.errors import ConfigurationError, HungUp, Interrupted, RatchetError, Terminated
from pgratchet.tasks.project import Project

if TYPE_CHECKING:
    from invoke.context import Context
    from invoke.tasks import Task

    from pgratchet.console.result import RunResult

HELP = {
    "env": "the environment, one of inventory/*.yml; else $OPS_ENV, else dev",
    "sql": "the folder of migrations",
    "limit": "only these targets: names or groups, with * and ?, separated by commas",
    "json": "print JSON for programs",
    "to": "the last migration to apply, by name or version",
    "dry_run": "show what would be applied, and change nothing",
    "from_": "the other tool; detected when left out",
    "files": "the folder of the other tool's files; else its usual one",
    "history": "an SQLite file that holds the other tool's history",
    "baseline": "mark the files up to this one as applied: the existing database has what they make",
    "without_backup": "go without a backup for this reason, which the history keeps",
    "yes": "do not ask for the environment's name to be typed",
    "check": "exit 3 when anything is pending, 8 when files and history disagree",
    "backup": "the backup's id, as invoke backups lists it",
    "into": "restore into a new database of this name, beside the live one",
    "label": "a few words to know the backup by",
    "keep": "pin it: retention never deletes it",
    "leave_behind": "let replication slots and subscriptions stay with the old database",
    "accept_differences": "swap it in although it differs from the manifest",
    "drop_old": "drop the databases that restores kept beside the live one",
    "remove": "delete its data too",
    "run": "the run's id, as invoke runs lists it; else the newest",
    "name": "what it does, in a few words",
    "template": "another template, such as k8s/migrate-job.yaml, ci/github.yml or ci/gitlab.yml",
    "against": "the branch to be merged into; else origin's default, main or master where there is one",
    "roles": "roles to create on the scratch server first, since a migration grants to them, separated by commas",
    "write": "write pg_service.conf, pgpass, or an env file, with secrets, mode 0600",
}
"""The help text of each flag, the same in every task that has the flag."""

Body = Callable[..., None]


def task(*flags: str) -> Callable[[Body], Task[Body]]:
    """Make an Invoke task of a function that takes a Project and these flags."""

    def wrap(body: Body) -> Task[Body]:
        wrapped: Task[Body] = invoke_task(help={flag: HELP[flag] for flag in flags})(surface(_with_project(body)))
        return wrapped

    return wrap


def _with_project(body: Body) -> Body:
    """The body with Invoke's context replaced by the project; what the body opens is closed when it ends."""

    @functools.wraps(body)
    def run(context: Context, *args: Any, **flags: Any) -> None:
        project = Project.of(context)
        with _closing(project):
            body(project, *args, **flags)

    return run


def surface(body: Body) -> Body:
    """The body with its errors as three parts and an exit code, and with signals that cancel it."""

    @functools.wraps(body)
    def run(context: Context, *args: Any, **flags: Any) -> None:
        json = bool(flags.get("json", False))
        with commands.called_as(body.__name__, sys.argv), _signal_handlers():
            try:
                body(context, *args, **flags)
            except RatchetError as error:
                _fail(error, json=json)
            except KeyboardInterrupt as stop:
                _fail(Interrupted(stop, hint="Run it again to go on."), json=False)
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise Exit(code=141) from None
            except (ImportError, OSError) as error:
                _fail(_missing_libpq(error) if isinstance(error, ImportError) else _unusable_file(error), json=json)
            except UnicodeError as error:
                _fail(_unusable_text(error), json=False)

    return run


@contextmanager
def _closing(project: Project) -> Iterator[None]:
    """Close tunnels and SSH connections when the task ends."""
    with ExitStack() as stack:
        stack.enter_context(project.open_until_end)
        yield
        if host := sys.modules.get("pgratchet.remote.host"):  # imported only by tasks that used a host
            host.close_connections()


def _fail(error: RatchetError, *, json: bool) -> None:
    ignore_signals_after(error)
    if json and not error.printed:
        output.write_json({"error": commands.typed_error(error)})
    output.show_error(error)
    raise Exit(code=error.status) from None


def ignore_signals_after(error: RatchetError | None) -> None:
    """Once a signal has ended a run, another signal must not cut its report short."""
    if isinstance(error, Interrupted):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


def _unusable_file(error: OSError) -> RatchetError:
    return ConfigurationError(
        f"cannot use {error.filename or 'a file'}",
        detail=f"{error.strerror}.",
        hint="See that it is there, that this user may read and write it, and that the disk has room.",
    )


def _missing_libpq(error: ImportError) -> RatchetError:
    if "libpq" not in str(error):
        raise error
    return ConfigurationError(
        "libpq is not installed",
        detail="The psycopg that is installed has no libpq of its own, and the system has none.",
        hint="Run `pip install 'psycopg[binary]'`, which brings libpq, or install libpq5 (Debian, Ubuntu) or libpq.",
    )


def _unusable_text(error: UnicodeError) -> RatchetError:
    return ConfigurationError(
        "a text cannot be written or read",
        detail=f"{error}.",
        hint="Give it in UTF-8, and run where the locale is UTF-8: PYTHONUTF8=1 makes it so.",
    )


@contextmanager
def _signal_handlers() -> Iterator[None]:
    """Raise Terminated for SIGTERM and HungUp for SIGHUP inside the block, unless SIGHUP is ignored as under nohup."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    terminals = [stream for stream in (1, 2) if os.isatty(stream)]

    def terminate(_signal: int, _frame: object) -> None:
        raise Terminated

    def hang_up(_signal: int, _frame: object) -> None:
        for stream in terminals:  # they are closed; writing to them would raise another error in place of this one
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        raise HungUp

    signal.signal(signal.SIGTERM, terminate)
    if before[signal.SIGHUP] != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, hang_up)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) != signal.SIG_IGN:  # else a signal has ended the task, and the process ends
            for number, handler in before.items():
                signal.signal(number, handler)


def consent(environment: str, yes: bool) -> None:
    """Ask a person to type the environment's name, unless --yes was given; ConfigurationError when it is not typed."""
    if not yes and not output.confirm(f'Type "{environment}" to go on: ', environment):
        raise ConfigurationError(
            f"{environment} was not confirmed",
            detail="Nothing was changed.",
            hint=f"Type {environment} when asked, or give --yes where no one can be asked.",
        )


@contextmanager
def reported(result: RunResult, *, json: bool, dry_run: bool) -> Iterator[None]:
    """Print the JSON of a run, also of a run that fails."""
    started = time.monotonic()
    try:
        yield
    except RatchetError as error:
        result.error = error
        raise
    except KeyboardInterrupt as stop:
        result.error = Interrupted(stop, detail="Nothing was under way.", hint="Run it again to go on.")
        raise result.error from None
    finally:
        ignore_signals_after(result.error)
        if result.error:
            result.error.printed = json
        result.duration_ms = round((time.monotonic() - started) * 1000)
        if json:
            output.write_json(result.as_json(plan=dry_run))
