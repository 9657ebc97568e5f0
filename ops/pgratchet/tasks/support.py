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
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from invoke.exceptions import Exit
from invoke.tasks import Task
from invoke.tasks import task as invoke_task

from pgratchet.console import commands, output
from pgratchet.errors import ConfigurationError, HungUp, Interrupted, RatchetError, Terminated
from pgratchet.tasks.flags import HELP, SHORT_FLAGS, require_values
from pgratchet.tasks.project import Project

if TYPE_CHECKING:
    from pathlib import Path

    from invoke.context import Context

    from pgratchet.console.result import RunResult
    from pgratchet.migrations.files import Migration
    from pgratchet.tasks.combinations import Combinations

Body = Callable[..., None]
_AGAIN = "Run the same command again to continue."


class _Task(Task[Body]):
    """A task whose flags have the letters of SHORT_FLAGS. Invoke would take any letter that is free in the task."""

    def arg_opts(self, name: str, default: str, taken_names: set[str]) -> dict[str, Any]:
        options = super().arg_opts(name, default, taken_names)
        options["names"] += SHORT_FLAGS.get(name, ())
        return options


def task(
    *flags: str,
    optional: tuple[str, ...] = (),
    combinations: Combinations | None = None,
    help_texts: Mapping[str, str] = MappingProxyType({}),
) -> Callable[[Body], Task[Body]]:
    """Make an Invoke task of a function that takes a Project and these flags.

    The flags `optional` can be given without a value, and then are True. `combinations` are those that are allowed.
    `help_texts` has the text of flags that mean something else in this task than in others.
    """

    def wrap(body: Body) -> Task[Body]:
        help_of = {flag: help_texts.get(flag) or HELP[flag] for flag in flags}
        make = invoke_task(klass=_Task, auto_shortflags=False, help=help_of, optional=optional)
        wrapped: Task[Body] = make(surface(_with_project(body, combinations)))
        return wrapped

    return wrap


def _with_project(body: Body, combinations: Combinations | None) -> Body:
    """The body with Invoke's context replaced by the project; what the body opens is closed when it ends."""

    @functools.wraps(body)
    def run(context: Context, *args: Any, **flags: Any) -> None:
        if combinations:
            combinations.require(flags)
        project = Project.of(context)
        with _closing(project):
            body(project, *args, **flags)

    return run


def _require_real_run(context: Context) -> None:
    """Raise ConfigurationError under Invoke's own flag --dry, with which a task would do all its work."""
    if context.config.run.dry:
        raise ConfigurationError(
            "--dry is a flag of Invoke, and no task of pgratchet obeys it",
            detail="Nothing was done.",
            hint="`invoke migrate --dry-run` shows what would be applied.",
        )


def surface(body: Body) -> Body:
    """The body with its errors as three parts and an exit code, and with signals that cancel it."""

    @functools.wraps(body)
    def run(context: Context, *args: Any, **flags: Any) -> None:
        json = bool(flags.get("json", False))
        with commands.called_as(body.__name__, sys.argv, flags.get("env")), _signal_handlers():
            try:
                _require_real_run(context)
                require_values(flags)
                body(context, *args, **flags)
            except RatchetError as error:
                _fail(error, json=json)
            except KeyboardInterrupt as stop:
                _fail(Interrupted(stop, hint=_AGAIN), json=False)
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
        hint="Check that it exists, that this user may read and write it, and that the disk is not full.",
    )


def _missing_libpq(error: ImportError) -> RatchetError:
    if "libpq" not in str(error):
        raise error
    return ConfigurationError(
        "libpq is not installed",
        detail="The installed psycopg contains no libpq, and the system has none.",
        hint="Run `pip install 'psycopg[binary]'`, which contains libpq, or install the package libpq5.",
    )


def _unusable_text(error: UnicodeError) -> RatchetError:
    return ConfigurationError(
        "a text cannot be encoded or decoded",
        detail=f"{error}.",
        hint="Use UTF-8 for the text and the locale; PYTHONUTF8=1 makes Python use UTF-8.",
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


def read_migrations(project: Project, folder: Path) -> tuple[Migration, ...]:
    """Read the migrations of a folder, and tell the user what else is in it that is not read."""
    from pgratchet.migrations.files import read

    project.require_migrations(folder)
    files = read(folder)
    if names := unread_entries(project, folder):
        output.say(f"not read in {folder}: {', '.join(names)}")
    return files


def unread_entries(project: Project, folder: Path) -> tuple[str, ...]:
    """The names of what is neither read from a migrations folder nor a mistake, without the project's own folders."""
    from pgratchet.migrations.other_files import named_entries

    return named_entries(folder, {(project.root / name).resolve() for name in project.folders.values()})


def consent(environment: str, yes: bool) -> None:
    """Ask a person to type the environment's name, unless --yes was given; ConfigurationError when it is not typed."""
    if yes:
        return
    typed = output.ask(f'Type "{environment}" to go on: ')
    if typed == environment:
        return
    answer = f'you typed "{typed}"' if typed else "you typed nothing"
    if typed is None:
        answer = "there is no terminal to ask at"
    raise ConfigurationError(
        f"{environment} was not confirmed: {answer}",
        detail="Nothing was changed.",
        hint=f"Type {environment} when asked. Use --yes where there is no terminal.",
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
        result.error = Interrupted(stop, detail=result.applied_so_far or "Nothing had been started.", hint=_AGAIN)
        raise result.error from None
    finally:
        ignore_signals_after(result.error)
        if result.error:
            result.error.printed = json
        result.duration_ms = round((time.monotonic() - started) * 1000)
        if json:
            output.write_json(result.as_json(plan=dry_run))
