"""The console script `pgratchet`: the tasks without a tasks.py, for pipx, uvx and containers."""

from __future__ import annotations

import atexit
import gc
import sys
from pathlib import Path

from invoke.config import Config
from invoke.exceptions import ParseError
from invoke.program import Program

from pgratchet.version import __version__


class _Program(Program):
    """Invoke's program with the project's configuration files, and exit status 2 for usage errors."""

    def normalize_argv(self, argv: list[str] | None) -> None:
        """Take `init DIR` as `init --folder DIR`: a positional argument of Invoke cannot be left out."""
        super().normalize_argv(argv)
        if "init" in self.argv:
            behind = self.argv.index("init") + 1
            if behind < len(self.argv) and not self.argv[behind].startswith("-"):
                self.argv.insert(behind, "--folder")

    def parse_collection(self) -> None:
        self.config.set_project_location(str(Path.cwd()))
        self.config.load_project()
        super().parse_collection()

    def parse_tasks(self) -> None:
        try:
            super().parse_tasks()
        except ParseError as error:
            print(error, file=sys.stderr)  # noqa: T201
            sys.exit(2)


def main() -> None:
    """Run the task that the command line names."""
    # This process runs one task: the garbage collector's passes during imports and at exit free nothing that matters.
    gc.set_threshold(50_000)
    atexit.register(gc.freeze)
    from pgratchet.tasks import ns
    from pgratchet.tasks.starting import init

    ns.add_task(init)
    program = _Program(version=__version__, namespace=ns, name="pgratchet", binary="pgratchet", config_class=Config)
    program.run()
