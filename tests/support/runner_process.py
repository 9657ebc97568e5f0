"""Runs in separate processes, which may be killed, and their reports.

`python -m tests.support.runner_process` reads runs from its standard input, as JSON, and forks for each of them. A
process that has imported everything forks in 10 ms, and a SIGKILL ends one run only. A migration that a run reports as
applied is written at once, so that the report survives a kill.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from pgratchet.apply import applier, batch, nontransactional
from pgratchet.apply.run import MigrateOptions
from pgratchet.database.history import History
from pgratchet.errors import RatchetError
from pgratchet.events import MigrationApplied
from pgratchet.migrations import files as migrations
from tests import ROOT
from tests.faults.round_trips import CountedConnections, RoundTripFault
from tests.servers.databases import Database

LOADED = (batch, nontransactional)
"""The applier imports these when it needs them; here that is before the fork."""
PATIENCE = 90
"""Seconds after which a run that hangs shows where, and ends."""
LOST = ("MigrationFailed", "StoppedPartWay", "OutcomeUnknown", "Unreachable", "LockBusy")
"""What a run may come to whose line was lost."""


@dataclass(frozen=True)
class Outcome:
    """The report of a run. `exit` is -9 if the run was killed."""

    exit: int
    applied: tuple[str, ...]
    error: str | None
    text: str
    migration: str | None
    trips: int

    @property
    def killed(self) -> bool:
        return self.exit == -9

    def __str__(self) -> str:
        ended = "killed" if self.killed else self.text or "well" if self.exit == 0 else f"exit {self.exit}"
        return f"applied {', '.join(self.applied) or 'nothing'}; ended: {ended}"


@dataclass
class Runner:
    """Runs one process at a time. `begin` starts it, and `end` waits for its end."""

    process: subprocess.Popen[str]

    def run(self, database: Database, folder: Path, fault: RoundTripFault | None = None) -> Outcome:
        self.begin(database, folder, fault)
        return self.end()

    def begin(self, database: Database, folder: Path, fault: RoundTripFault | None = None) -> None:
        job = {"parameters": database.parameters, "folder": str(folder), "fault": asdict(fault) if fault else None}
        into = self._pipe(self.process.stdin)
        into.write(json.dumps(job) + "\n")
        into.flush()

    def end(self) -> Outcome:
        applied: list[str] = []
        report: dict[str, Any] = {"error": None, "text": "", "migration": None, "trips": 0}
        for line in self._pipe(self.process.stdout):
            message = json.loads(line)
            if "exit" in message:
                return Outcome(applied=tuple(applied), **report, **message)
            if "applied" in message:
                applied.append(message["applied"])
            else:
                report = message
        raise AssertionError("the runner is gone")

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


@contextmanager
def started() -> Iterator[Runner]:
    """Start a runner."""
    command = [sys.executable, "-m", "tests.support.runner_process"]
    paths = os.pathsep.join([str(ROOT / "ops"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": paths}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Runner(process)
        finally:
            process.kill()


def false_claims(outcome: Outcome, database: Database) -> list[str]:
    """Claims of a run that the history contradicts, and errors that are not ours."""
    finished, steps_done = history(database)
    claims = [f"{name} was reported as applied, and is not" for name in outcome.applied if name not in finished]
    rolled_back = re.findall(r"(\S+) was rolled back", outcome.text)
    claims += [f"{name} was called rolled back, and is not" for name in rolled_back if name in finished]
    claim = re.search(r"(No statement|Statements? 1(?: to (\d+))?) took effect", outcome.text)
    if outcome.error == "StoppedPartWay" and claim:
        claimed = 0 if claim[1] == "No statement" else int(claim[2] or 1)
        if claimed != steps_done.get(outcome.migration or "", 0):
            claims.append(f"{claim[0]}: of {outcome.migration} it is {steps_done.get(outcome.migration or '', 0)}")
    return claims


def lies_of_a_lost_line(outcome: Outcome, database: Database) -> list[str]:
    """The same for a run that lost its connection, which may succeed or report the loss."""
    claims = false_claims(outcome, database)
    if outcome.exit != 0 or outcome.error not in (None, *LOST):
        claims.append(f"exit {outcome.exit}, {outcome.text}")
    if "refused to create or change the history" in outcome.text:
        claims.append(f"the server refused nothing: {outcome.text}")
    return claims


def history(database: Database) -> tuple[set[str], dict[str, int]]:
    """The finished names, and the number of executed statements of each unfinished one."""
    if database.rows("SELECT to_regclass('ratchet.migrations')") == [(None,)]:
        return set(), {}
    rows = database.rows("SELECT name, executed_at IS NOT NULL, coalesce(statements_done, 0) FROM ratchet.migrations")
    return {str(name) for name, end, _ in rows if end}, {
        str(name): int(str(done)) for name, end, done in rows if not end
    }


def _main() -> None:
    for number, line in enumerate(sys.stdin):
        pid = os.fork()
        if pid == 0:
            _run(number, json.loads(line))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        _say(exit=os.waitstatus_to_exitcode(status))


def _run(number: int, job: dict[str, Any]) -> None:
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    line = CountedConnections(job["parameters"], RoundTripFault(**job["fault"]) if job["fault"] else None)
    error: BaseException | None = None
    try:
        files = migrations.read(Path(job["folder"]))
        options = MigrateOptions(f"{os.getpid()}-{number}", not_empty=True)
        for event in applier.migrate(line.connect, History(), files, None, options):
            if isinstance(event, MigrationApplied):
                _say(applied=event.name)
    except BaseException as raised:  # noqa: BLE001
        error = raised
    place = error.location if isinstance(error, RatchetError) else None
    _say(
        error=type(error).__name__ if error else None,
        text=_text(error),
        migration=place.migration if place else None,
        trips=line.trips,
    )


def _text(error: BaseException | None) -> str:
    """The text that a user reads. For other errors also their traceback."""
    if error is None or isinstance(error, RatchetError):
        return str(error or "")
    return "".join([*traceback.format_tb(error.__traceback__)[-3:], *traceback.format_exception_only(error)])


def _say(**values: object) -> None:
    print(json.dumps(values), flush=True)  # noqa: T201


if __name__ == "__main__":
    _main()
