"""The console script `pgratchet`: the tasks without a tasks.py, for pipx, uvx and containers."""

from __future__ import annotations

import atexit
import gc
import inspect
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.collection import Collection
from invoke.config import Config
from invoke.exceptions import Exit, ParseError
from invoke.parser import Parser
from invoke.parser.argument import Argument
from invoke.parser.context import ParserContext
from invoke.program import Program

from pgratchet.version import __version__

if TYPE_CHECKING:
    from pgratchet.errors import RatchetError

_FLAGS = {
    "help": "print this, or with a task its flags",
    "list": "list the tasks",
    "version": "print the version",
    "config": "read this file of Invoke's configuration too",
    "print-completion-script": "print the script that completes tasks, flags and values, for bash, zsh or fish",
}
"""The flags in front of a task. Invoke has more, for programs that run commands of a shell."""
_UNUSED = ("complete", "debug", "list-depth", "list-format", "write-pyc")
"""Flags of Invoke that its code reads, and that shells or nobody types."""


class _Program(Program):
    """Invoke's program with the project's configuration files, and exit status 2 for usage errors."""

    def core_args(self) -> list[Argument]:
        shown = [argument for argument in super().core_args() if argument.names[0] in _FLAGS]
        for argument in shown:
            argument.help = _FLAGS[argument.names[0]]
            if argument.names[0] == "list":  # there are no collections below this one
                argument.kind, argument.optional, argument.default = bool, False, False
        return shown

    def parse_core_args(self) -> None:
        """Check the command line, then parse what is in front of the tasks."""
        if "--complete" not in self.argv:
            self._check()
        unused = [each for each in super().core_args() if each.names[0] in _UNUSED]
        for argument in unused:
            argument.names = argument.names[:1]
        initial = ParserContext(args=[*self.core_args(), *unused])
        self.core = Parser(initial=initial, ignore_unknown=True).parse_argv(self.argv[1:])

    def _check(self) -> None:
        """Rewrite what Invoke would take for something else: `init DIR` and `TASK --help`. Refuse what is wrong."""
        from pgratchet.errors import RatchetError
        from pgratchet.tasks.usage import asks_for_help, check

        words = self.argv[1:]
        if words and (task := asks_for_help(words, self._contexts)):
            words = ["--help", task]
        if words[:1] == ["init"] and words[1:] and not words[1].startswith("-"):
            words.insert(1, "--folder")
        self.argv = [*self.argv[:1], *words]

        def values_of(flag: str) -> list[str]:
            from pgratchet.tasks.completion import find_values

            self._load_project()
            return find_values(flag, words, self.config)

        try:
            check(words, self.initial_context, self._contexts, values_of)
        except RatchetError as error:
            self._fail(error)

    def parse_collection(self) -> None:
        self._load_project()
        super().parse_collection()

    def _load_project(self) -> None:
        folder = _project_folder(Path.cwd())
        self.config.set_project_location(str(folder))
        with self._explained_errors(f"the configuration of the project {folder}"):
            self.config.load_project()

    def parse_core(self, argv: list[str] | None) -> None:
        with self._explained_errors():
            super().parse_core(argv)

    def parse_tasks(self) -> None:
        with self._explained_errors():
            super().parse_tasks()

    def parse_cleanup(self) -> None:
        if self.args.complete.value:
            self._complete()
        with self._explained_errors():
            super().parse_cleanup()

    def update_config(self, merge: bool = True) -> None:
        """Read the configuration file of --config. The other flags that Invoke reads here do not exist."""
        path = self.args.config.value or os.environ.get("INVOKE_RUNTIME_CONFIG")
        self.config.set_runtime_path(Path(path) if path else None)
        with self._explained_errors(f"the configuration file {path}"):
            if path and not Path(path).is_file():
                raise FileNotFoundError("It does not exist, or is no file.")
            self.config.load_runtime(merge=merge)

    def _complete(self) -> None:
        """Print the values of the flag at the end of the command line, if it is one whose values are known."""
        from pgratchet.tasks.completion import complete_value

        values = complete_value(self.core.remainder, self.config)
        if values is not None:
            print("\n".join(values))  # noqa: T201
            raise Exit

    @contextmanager
    def _explained_errors(self, file: str | None = None) -> Iterator[None]:
        """Show an error of the command line, or of a file that is read in the block, in three parts, and exit 2."""
        from pgratchet.errors import ConfigurationError

        try:
            yield
        except ParseError as error:
            from pgratchet.tasks.usage import unreadable

            self._fail(unreadable(str(error)))
        except (Exit, KeyboardInterrupt):
            raise
        except Exception as error:  # of YAML, JSON and Python files, which have no common class
            if file is None:
                raise
            hint = "Invoke reads YAML, JSON and Python files: .yaml, .yml, .json, .py. Correct the file or its name."
            self._fail(ConfigurationError(f"cannot read {file}", detail=str(error), hint=hint))

    def _fail(self, error: RatchetError) -> None:
        """Show an error of the command line, and exit."""
        from pgratchet.console import commands, output
        from pgratchet.tasks.usage import wants_json

        with commands.called_as("", self.argv):
            if wants_json(self.argv[1:]):
                output.write_json({"error": commands.typed_error(error)})
            output.show_error(error)
        raise Exit(code=error.status) from None

    @cached_property
    def _contexts(self) -> dict[str, ParserContext]:
        contexts = self.namespace.to_contexts() if self.namespace else []
        return {name: each for each in contexts for name in (each.name, *each.aliases) if name}

    def print_help(self) -> None:
        """Print the tasks, and then the program's own flags."""
        from pgratchet.console import output

        output.write(f"Usage: {self.binary} TASK [FLAGS]\n")
        self.list_tasks()
        output.write("Flags of the program:\n")
        self.print_columns(_with_placeholders(self.initial_context))
        output.write(f"`{self.binary} --help TASK` prints the flags of a task.")

    def task_list_opener(self, extra: str = "") -> str:  # noqa: ARG002  a parameter of Invoke's
        return "Tasks"

    def print_task_help(self, name: str) -> None:
        """Print what a task does, and its flags."""
        from pgratchet.console import output

        context = self._contexts[name]
        arguments = "".join(f"{argument.name.upper()} " for argument in context.positional_args if argument.name)
        output.write(f"Usage: {self.binary} {name} {arguments}[FLAGS]\n")
        output.write(f"{inspect.getdoc(self.collection[name])}\n\nFlags:\n")
        self.print_columns(_with_placeholders(context))


def _with_placeholders(context: ParserContext) -> list[tuple[str, str | None]]:
    """The flags for a help text, with words for their values that say what they are."""
    from pgratchet.tasks.flags import placeholder

    rows = []
    for names, text in context.help_tuples():
        flag = re.search(r"--[\w-]+", names)
        rows.append((re.sub(r"\bSTRING\b", placeholder(flag[0]) if flag else "VALUE", names), text))
    return rows


def _project_folder(start: Path) -> Path:
    """Return the nearest folder, from `start` upwards, that has an inventory or invoke.yaml, inside one repository."""
    for folder in (start, *start.parents):
        if (folder / "inventory").is_dir() or any(folder.glob("invoke.y*ml")):
            return folder
        if (folder / ".git").exists():
            break
    return start


def main() -> None:
    """Run the task that the command line names."""
    # This process runs one task: the garbage collector's passes during imports and at exit free nothing that matters.
    gc.set_threshold(50_000)
    atexit.register(gc.freeze)
    try:
        try:
            make_program().run()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # as in `pgratchet --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def make_program() -> Program:
    """Return the program, with the tasks and `init`."""
    from pgratchet.tasks import ns
    from pgratchet.tasks.starting import init

    tasks = Collection(*ns.tasks.values(), init)
    tasks.configure(ns.configuration())
    return _Program(version=__version__, namespace=tasks, name="pgratchet", binary="pgratchet", config_class=Config)
