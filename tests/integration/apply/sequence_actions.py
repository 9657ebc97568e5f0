"""Actions of a sequence, and the comparison of the database with the model after each (test_sequences.py)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from tests.faults.round_trips import RoundTripAction, RoundTripFault, RoundTripMoment
from tests.integration.apply.sequence_model import File, Model
from tests.servers.databases import Database
from tests.support.runner_process import LOST, Outcome, Runner, false_claims, lies_of_a_lost_line

happened = Counter[str]()
"""What befell the runs, and how the others ended, over all sequences."""


@dataclass(frozen=True)
class PlannedFault:
    """A fault at one of the round trips that the next run is expected to have."""

    act: RoundTripAction
    pick: int
    moment: RoundTripMoment
    again: int = 0

    def fault(self, model: Model) -> RoundTripFault:
        return RoundTripFault(self.act, 1 + self.pick % model.trips(), self.moment, self.again)


@dataclass
class SequenceState:
    """The database, folder and model of a sequence, and a log of its runs."""

    database: Database
    folder: Path
    runners: Sequence[Runner]
    model: Model = field(default_factory=Model)
    log: list[str] = field(default_factory=list)
    version: int = 0

    def put(self, file: File) -> None:
        self.model.folder[file.name] = file
        (self.folder / f"{file.name}.sql").write_text(file.text)

    def take(self, name: str) -> None:
        del self.model.folder[name]
        (self.folder / f"{name}.sql").unlink()

    def run(self, blow: PlannedFault | None = None) -> Outcome:
        return self._together([blow])[0]

    def race(self, blow: PlannedFault | None) -> list[Outcome]:
        return self._together([blow, None])

    def _together(self, blows: Sequence[PlannedFault | None]) -> list[Outcome]:
        """Run several at once, and count the faults and the results."""
        faults = [blow.fault(self.model) if blow else None for blow in blows]
        for runner, fault in zip(self.runners, faults, strict=False):
            runner.begin(self.database, self.folder, fault)
        outcomes = [runner.end() for runner, _ in zip(self.runners, faults, strict=False)]
        for fault, outcome in zip(faults, outcomes, strict=True):
            self.log.append(f"  {fault or 'whole'}: {outcome}")
            struck = fault is not None and (outcome.killed or outcome.trips >= fault.at)
            happened[f"{fault.act} {fault.moment}" if fault and struck else f"whole, {outcome.error or 'well'}"] += 1
        return outcomes


@dataclass(frozen=True)
class Add:
    """Add a file that is newer than all others."""

    kind: str

    def play(self, world: SequenceState) -> None:
        world.version += 10
        world.put(File.make(world.version, self.kind))


@dataclass(frozen=True)
class Late:
    """Add a file that is older than the newest."""

    kind: str

    def play(self, world: SequenceState) -> None:
        versions = {file.version for file in world.model.folder.values()}
        version = max(1, world.version - 5)
        if version not in versions:
            world.put(File.make(version, self.kind))


@dataclass(frozen=True)
class Edit:
    """Append a comment to a file that has a row."""

    pick: int

    def play(self, world: SequenceState) -> None:
        if names := sorted(world.model.rows() & set(world.model.folder)):
            file = world.model.folder[names[self.pick % len(names)]]
            world.put(replace(file, comment=file.comment + "-- edited\n"))


@dataclass(frozen=True)
class Remove:
    """Remove any file, applied or not."""

    pick: int

    def play(self, world: SequenceState) -> None:
        if names := sorted(world.model.folder):
            world.take(names[self.pick % len(names)])


@dataclass(frozen=True)
class PutBack:
    """Restore edited and removed files, and remove late ones."""

    def play(self, world: SequenceState) -> None:
        model = world.model
        for file in (*model.finished.values(), *([model.stopped] if model.stopped else [])):
            world.put(file)
        for name in model.late():
            world.take(name)


@dataclass(frozen=True)
class FixFiles:
    """Correct every file that has not run."""

    def play(self, world: SequenceState) -> None:
        model = world.model
        for name in set(model.folder) - set(model.finished):
            begun = model.begun if model.in_doubt(name) else None
            world.put(model.folder[name].mended(begun))


@dataclass(frozen=True)
class Run:
    """A run without a fault, directly after runs with faults."""

    blows: tuple[PlannedFault, ...] = ()

    def play(self, world: SequenceState) -> None:
        expected = world.model.expects()
        reported = [name for blow in self.blows for name in faulty(world, blow, expected).applied]
        compare_behind_a_whole_run(world, [world.run()], reported, expected)


@dataclass(frozen=True)
class Race:
    """Two runs at once, of which the first may have a fault."""

    blow: PlannedFault | None = None

    def play(self, world: SequenceState) -> None:
        expected = world.model.expects()
        befallen, whole = world.race(self.blow)
        reported = list(befallen.applied) if self.blow else []
        assert befallen.killed or befallen.error in (None, expected[1], *LOST), str(befallen)
        compare_behind_a_whole_run(world, [whole] if self.blow else [befallen, whole], reported, expected)


@dataclass(frozen=True)
class Crash:
    """A run with a fault. Afterwards its session ends before the next action."""

    blow: PlannedFault

    def play(self, world: SequenceState) -> None:
        expected = world.model.expects()
        outcome = faulty(world, self.blow, expected)
        wait_for_silence(world.database)
        adopt(world, expected[0])
        assert set(outcome.applied) <= set(world.model.finished)
        if not outcome.killed and outcome.error is None:
            assert world.model.expects() == ([], None), "a run ended well, and left something to do"


Action = Add | Late | Edit | Remove | PutBack | FixFiles | Run | Race | Crash


def faulty(world: SequenceState, blow: PlannedFault, expected: tuple[list[str], str | None]) -> Outcome:
    """Run with a fault: the run is killed, ends as expected, or reports a lost connection."""
    outcome = world.run(blow)
    if not outcome.killed:
        usual = outcome.error == expected[1] and outcome.exit == 0
        lies = (false_claims if usual else lies_of_a_lost_line)(outcome, world.database)
        assert not lies, "\n".join(lies)
    return outcome


def compare_behind_a_whole_run(
    world: SequenceState, whole: Sequence[Outcome], reported: Sequence[str], expected: tuple[list[str], str | None]
) -> None:
    """After a run without a fault, only the work that its error names is left to do."""
    wait_for_silence(world.database)
    before = set(world.model.finished)
    adopt(world, expected[0])
    pending, error = world.model.expects()
    all_reported = [*reported, *(name for outcome in whole for name in outcome.applied)]
    assert not pending, f"left to do: {pending}"
    assert {outcome.exit for outcome in whole} == {0}
    assert {outcome.error for outcome in whole} == {error}
    assert len(all_reported) == len(set(all_reported)), f"reported twice: {all_reported}"
    assert set(all_reported) <= set(world.model.finished) - before
    lies = [lie for outcome in whole for lie in false_claims(outcome, world.database)]
    assert not lies, "\n".join(lies)
    if not reported and len(whole) == 2:
        assert set(all_reported) == set(world.model.finished) - before


def wait_for_silence(database: Database) -> None:
    """Wait until the sessions of ended runs are gone, and their locks with them."""
    query = (
        "SELECT pid, state, query FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    deadline = time.monotonic() + 15
    while still := database.rows(query):
        assert time.monotonic() < deadline, f"still there: {still}"
        time.sleep(0.02)


def adopt(world: SequenceState, expected: Sequence[str]) -> None:
    """Take the progress of a faulty run from the history into the model, if that progress is possible.

    Compare the rest.
    """
    model, rows = world.model, history_rows(world.database)
    names = [name for name, *_ in rows]
    assert names == sorted(names) or model.disagrees(), f"out of order: {names}"
    new = [name for name, _, ended, *_ in rows if ended and name not in model.finished]
    assert new == list(expected[: len(new)]), f"finished {new} instead of the first of {expected}"
    model.finished |= {name: model.folder[name] for name in new}
    unfinished = [(name, done, begun) for name, _, ended, done, begun in rows if not ended]
    assert len(unfinished) <= 1, f"more than one is unfinished: {unfinished}"
    if not unfinished:
        model.stopped, model.done, model.begun = None, 0, None
    for name, done, begun in unfinished:
        adopt_unfinished(model, name, done, begun)
    checksums = {name: checksum for name, checksum, ended, *_ in rows if ended}
    assert checksums == {name: file.checksum for name, file in model.finished.items()}
    compare(world.database, model)


def adopt_unfinished(model: Model, name: str, done: int, begun: int | None) -> None:
    same = model.stopped is not None and model.stopped.name == name
    assert same or (not model.disagrees() and model.folder[name].stepwise), f"{name} is unfinished"
    assert not same or done >= model.done, f"{name} went back from {model.done} to {done}"
    if not (model.disagrees() and same):
        model.stopped = model.folder[name]
    model.done, model.begun = done, begun
    if begun is not None and model.stopped and model.stopped.statements[begun - 1].startswith("DO "):
        model.doubtful.add((name, begun))


def history_rows(database: Database) -> list[tuple[str, str, bool, int, int | None]]:
    if database.rows("SELECT to_regclass('ratchet.migrations')") == [(None,)]:
        return []
    query = (
        "SELECT name, checksum, executed_at IS NOT NULL, coalesce(statements_done, 0), statement_begun"
        " FROM ratchet.migrations ORDER BY id"
    )
    return cast(list[tuple[str, str, bool, int, int | None]], database.rows(query))


def compare(database: Database, model: Model) -> None:
    effects = Counter({(str(n), int(str(k))): int(str(c)) for n, k, c in database.rows(EFFECTS)})
    expected = model.effects()
    for each in model.doubtful:
        assert effects.pop(each, 0) <= 1, f"twice: {each}"
        expected.pop(each, 0)
    assert effects == expected, f"effects: {effects - expected} too many, {expected - effects} too few"
    assert database.rows(TABLES) == model.tables()
    valid = {str(name) for name, valid in database.rows(INDEXES) if valid}
    invalid = {str(name) for name, valid in database.rows(INDEXES) if not valid}
    if model.stopped is None or model.begun is None:
        assert (valid, invalid) == (model.indexes(), set())
    assert database.locks() == []


EFFECTS = "SELECT name, number, count(*) FROM effects GROUP BY 1, 2"


TABLES = (
    "SELECT schemaname::text, tablename::text FROM pg_tables WHERE tablename ~ '^t[0-9]+$'"
    ' ORDER BY schemaname COLLATE "C", tablename COLLATE "C"'
)


INDEXES = (
    "SELECT relname::text, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid"
    " WHERE relname ~ '^[iu][0-9]+$'"
)
