"""`python -m tests.docs PAGE ...`: run pages of the manual, and write what their commands print into them.

Outputs with a line `...` stay as they are. Look at the difference before you commit it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.docs.pages import RunCommand, steps
from tests.docs.scenarios import Scenarios, Shell, run_page, same_output
from tests.servers.clusters import Clusters

_recorded: list[tuple[RunCommand, str]] = []
"""The commands that have run, with what they printed."""


class RecordingShell(Shell):
    """Runs commands and records their output. A status that the page does not name is reported."""

    def run(self, step: RunCommand) -> None:
        status, printed = self.execute(step)
        if status != step.status:
            where = f"{step.page}:{step.line}: {step.command}"
            sys.stderr.write(f"{where}\nexited {status} instead of {step.status}:\n{printed}\n")
        self.learn_ids("\n".join(step.output or ()), printed)
        _recorded.append((step, printed))


def main(pages: list[str]) -> int:
    for page in map(Path, pages):
        _recorded.clear()
        with tempfile.TemporaryDirectory() as folder:
            clusters = Clusters(Path(folder))
            run_page(list(steps(page.resolve())), Scenarios(Path(folder), clusters, RecordingShell))
        _write_outputs(page)
    return 0


def _write_outputs(page: Path) -> None:
    lines = page.read_text("utf-8").splitlines()
    for step, printed in reversed(_recorded):
        if step.output is not None and "..." not in step.output and same_output(step.output, printed):
            command = lines[step.line - 1]
            indent = command[: len(command) - len(command.lstrip())]
            new = [(indent + line).rstrip() for line in printed.strip("\n").splitlines()]
            lines[step.line : step.line + len(step.output)] = new
    page.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
