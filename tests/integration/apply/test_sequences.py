"""Anything in any order, against a model: files come, change and go; runs end well, fail, race, are killed or cut off.

A sequence is a list of actions that hypothesis makes up. Behind each of them the database is compared with what a
model of it says must be there: the history's rows, every statement's effect exactly once, tables, indexes, locks, and
what each run said. `SEQUENCES=1000` makes that many; `SEED=7` repeats what a failure printed, and `SERVER=outside`
runs them on the other server. A sequence that fails is printed as a list that `play` takes.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from pgratchet.migrations.scripts import SIZE_LIMIT
from tests.faults.round_trips import RoundTripAction, RoundTripFault, RoundTripMoment
from tests.servers.databases import Database, Server
from tests.support.runner_process import LOST, Outcome, Runner, false_claims, lies_of_a_lost_line, started

SEQUENCES = int(os.environ.get("SEQUENCES", "15"))
SEED = int(os.environ.get("SEED") or random.SystemRandom().randrange(2**32))
SERVER = os.environ.get("SERVER", "embedded")
happened = Counter[str]()
"""What befell the runs, and how the others ended, over all sequences."""

MARK = "INSERT INTO public.effects VALUES ('{name}', {number})"
TABLE = "CREATE TABLE t{version} (x int)"
PROCEDURE = f"DO $$ BEGIN {MARK}; COMMIT; END $$"
TRANSACTIONAL = {
    "plain": (TABLE, MARK),
    "empty": (),
    "slow": (TABLE, "SELECT pg_sleep(0.2)", MARK),
    "copy": (MARK, TABLE, "COPY t{version} FROM STDIN;\n1\n2\n\\.\n", MARK),
    "large": (MARK, TABLE, *(f"INSERT INTO t{{version}} VALUES (length('{'x' * 100_000}'))",) * 3, MARK),
    "fails": (TABLE, MARK, "SELECT 1 / 0"),
    "no_sql": (TABLE, MARK, "SELEKT 1"),
    "copy_fails": (MARK, TABLE, "COPY t{version} FROM STDIN;\n1\nx\n\\.\n"),
    "fails_at_its_end": (
        TABLE,
        MARK,
        "ALTER TABLE t{version} ADD UNIQUE (x) DEFERRABLE INITIALLY DEFERRED",
        "INSERT INTO t{version} VALUES (1), (1)",
    ),
    "unfit": (TABLE, MARK, "COMMIT"),
}
BY_STEPS = {
    "steps": (
        TABLE,
        MARK,
        "CREATE INDEX CONCURRENTLY i{version} ON t{version} (x)",
        MARK,
        "CREATE UNIQUE INDEX CONCURRENTLY u{version} ON t{version} (x)",
        "DROP INDEX CONCURRENTLY i{version}",
        MARK,
    ),
    "elsewhere": (
        "CREATE SCHEMA s{version}",
        "SET search_path = s{version}",
        TABLE,
        MARK,
        "CREATE INDEX CONCURRENTLY i{version} ON t{version} (x)",
        "VACUUM t{version}",
        "ALTER TABLE t{version} ADD y int",
        MARK,
    ),
    "procedure": (TABLE, PROCEDURE, MARK, "VACUUM t{version}", PROCEDURE),
    "steps_fail": (TABLE, MARK, "CREATE INDEX CONCURRENTLY i{version} ON t{version} (x)", "SELECT 1 / 0", MARK),
    "steps_empty": (),
}
MENDED = {"1 / 0": "1 / 1", "SELEKT": "SELECT", "\nx\n": "\n3\n", "COMMIT": "SELECT 1", "(1), (1)": "(1), (2)"}


@dataclass(frozen=True)
class File:
    """A migration by its statements; `comment` is what an edit adds behind them."""

    name: str
    statements: tuple[str, ...]
    stepwise: bool
    comment: str = ""

    @staticmethod
    def make(version: int, kind: str) -> File:
        name = f"{version:05}_{kind}"
        statements = (TRANSACTIONAL | BY_STEPS)[kind]
        numbered = (s.format(name=name, version=version, number=number) for number, s in enumerate(statements, start=1))
        return File(name, tuple(numbered), kind in BY_STEPS)

    @property
    def version(self) -> int:
        return int(self.name[:5])

    @property
    def text(self) -> str:
        head = "-- migrate: no-transaction\n" if self.stepwise else ""
        ended = (s if s.startswith("COPY") else f"{s};\n" for s in self.statements)
        return f"{head}{''.join(ended)}{self.comment}"

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def trips(self) -> int:
        """About how many it takes to the server and back."""
        if self.stepwise:
            return 5 + sum(6 if "CONCURRENTLY" in statement else 2 for statement in self.statements)
        return 7 if len(self.text) > SIZE_LIMIT or "COPY" in self.text else 1

    @property
    def fails(self) -> bool:
        return any(wrong in self.text for wrong in MENDED if wrong != "COMMIT")

    def mended(self, begun: int | None) -> File:
        """As a person would, who also looked at what the statement did whose end is not known."""
        statements = list(self.statements)
        if begun:
            statements[begun - 1] = "SELECT 'looked at'"
        for number, statement in enumerate(statements):
            for wrong, right in MENDED.items():
                if not statement.startswith("DO "):
                    statements[number] = statement = statement.replace(wrong, right)
        return replace(self, statements=tuple(statements))


@dataclass
class Model:
    """What the folder holds, and what the database must. `done` and `begun` are of `stopped`, the unfinished row.

    `doubtful` are effects of which no one can know whether they came to be.
    """

    folder: dict[str, File] = field(default_factory=dict)
    finished: dict[str, File] = field(default_factory=dict)
    stopped: File | None = None
    done: int = 0
    begun: int | None = None
    doubtful: set[tuple[str, int]] = field(default_factory=set)

    def rows(self) -> set[str]:
        return {*self.finished, *([self.stopped.name] if self.stopped else [])}

    def late(self) -> list[str]:
        newest = max((name for name in self.folder if name in self.rows()), default="")
        return [name for name in self.folder if name not in self.rows() and name < newest]

    def disagrees(self) -> bool:
        changed = any(self.folder.get(name) != file for name, file in self.finished.items())
        return changed or bool(self.late()) or bool(self.rows() - set(self.folder))

    def expects(self) -> tuple[list[str], str | None]:
        """What a run that nothing befalls applies, and the error it ends with."""
        if self.disagrees():
            return [], "HistoryDisagrees"
        todo = sorted(set(self.folder) - set(self.finished))
        if any(self.folder[name].statements[-1:] == ("COMMIT",) for name in todo):
            return [], "ConfigurationError"
        for number, name in enumerate(todo):
            if self.folder[name].fails or self.in_doubt(name):
                return todo[:number], "StoppedPartWay" if self.folder[name].stepwise else "MigrationFailed"
        return todo, None

    def trips(self) -> int:
        """About how many round trips a run takes."""
        todo = [] if self.disagrees() else set(self.folder) - set(self.finished)
        return 4 + sum(self.folder[name].trips for name in todo) if todo else 1

    def in_doubt(self, name: str) -> bool:
        """Whether a statement was begun in this file whose end nothing can tell."""
        begun = self.begun is not None and self.stopped is not None and self.stopped.name == name
        return begun and self.folder[name].statements[(self.begun or 0) - 1].startswith("DO ")

    def ran(self) -> Iterator[tuple[str, int, str]]:
        """Every statement that took effect, by file and number."""
        for file in self.finished.values():
            yield from ((file.name, number, text) for number, text in enumerate(file.statements, start=1))
        if self.stopped:
            for number, text in enumerate(self.stopped.statements[: self.done], start=1):
                yield self.stopped.name, number, text

    def effects(self) -> Counter[tuple[str, int]]:
        return Counter((name, number) for name, number, text in self.ran() if "public.effects" in text)

    def tables(self) -> list[tuple[str, str]]:
        made = (
            (name, int(found[1])) for name, _, text in self.ran() if (found := re.match(r"CREATE TABLE t(\d+)", text))
        )
        return sorted((f"s{version}" if "elsewhere" in name else "public", f"t{version}") for name, version in made)

    def indexes(self) -> set[str]:
        found = [(text, re.match(r"(CREATE|DROP).* INDEX CONCURRENTLY (\w+)", text)) for _, _, text in self.ran()]
        made = {match[2] for _, match in found if match and match[1] == "CREATE"}
        return made - {match[2] for _, match in found if match and match[1] == "DROP"}


@dataclass(frozen=True)
class Blow:
    """A fault at one of the round trips that a run will have, so that most of them strike."""

    act: RoundTripAction
    pick: int
    moment: RoundTripMoment
    again: int = 0

    def fault(self, model: Model) -> RoundTripFault:
        return RoundTripFault(self.act, 1 + self.pick % model.trips(), self.moment, self.again)


@dataclass
class World:
    """A sequence's database, folder and model, and what has happened so far."""

    database: Database
    folder: Path
    runners: Sequence[Runner]
    model: Model = field(default_factory=Model)
    told: list[str] = field(default_factory=list)
    version: int = 0

    def put(self, file: File) -> None:
        self.model.folder[file.name] = file
        (self.folder / f"{file.name}.sql").write_text(file.text)

    def take(self, name: str) -> None:
        del self.model.folder[name]
        (self.folder / f"{name}.sql").unlink()

    def run(self, blow: Blow | None = None) -> Outcome:
        return self._together([blow])[0]

    def race(self, blow: Blow | None) -> list[Outcome]:
        return self._together([blow, None])

    def _together(self, blows: Sequence[Blow | None]) -> list[Outcome]:
        """As many runs at once; what befell them is counted."""
        faults = [blow.fault(self.model) if blow else None for blow in blows]
        for runner, fault in zip(self.runners, faults, strict=False):
            runner.begin(self.database, self.folder, fault)
        outcomes = [runner.end() for runner, _ in zip(self.runners, faults, strict=False)]
        for fault, outcome in zip(faults, outcomes, strict=True):
            self.told.append(f"  {fault or 'whole'}: {outcome}")
            struck = fault is not None and (outcome.killed or outcome.trips >= fault.at)
            happened[f"{fault.act} {fault.moment}" if fault and struck else f"whole, {outcome.error or 'well'}"] += 1
        return outcomes


@dataclass(frozen=True)
class Add:
    """A file newer than all others."""

    kind: str

    def play(self, world: World) -> None:
        world.version += 10
        world.put(File.make(world.version, self.kind))


@dataclass(frozen=True)
class Late:
    """A file that is older than the newest one."""

    kind: str

    def play(self, world: World) -> None:
        versions = {file.version for file in world.model.folder.values()}
        version = max(1, world.version - 5)
        if version not in versions:
            world.put(File.make(version, self.kind))


@dataclass(frozen=True)
class Edit:
    """A comment behind a file that has a row."""

    pick: int

    def play(self, world: World) -> None:
        if names := sorted(world.model.rows() & set(world.model.folder)):
            file = world.model.folder[names[self.pick % len(names)]]
            world.put(replace(file, comment=file.comment + "-- edited\n"))


@dataclass(frozen=True)
class Remove:
    """Any file, applied or not."""

    pick: int

    def play(self, world: World) -> None:
        if names := sorted(world.model.folder):
            world.take(names[self.pick % len(names)])


@dataclass(frozen=True)
class PutBack:
    """What was edited or removed is put back, and what came late is taken away."""

    def play(self, world: World) -> None:
        model = world.model
        for file in (*model.finished.values(), *([model.stopped] if model.stopped else [])):
            world.put(file)
        for name in model.late():
            world.take(name)


@dataclass(frozen=True)
class Mend:
    """Every file that has not run."""

    def play(self, world: World) -> None:
        model = world.model
        for name in set(model.folder) - set(model.finished):
            begun = model.begun if model.in_doubt(name) else None
            world.put(model.folder[name].mended(begun))


@dataclass(frozen=True)
class Run:
    """A run that nothing befalls, right behind others that something does."""

    blows: tuple[Blow, ...] = ()

    def play(self, world: World) -> None:
        expected = world.model.expects()
        reported = [name for blow in self.blows for name in faulty(world, blow, expected).applied]
        compare_behind_a_whole_run(world, [world.run()], reported, expected)


@dataclass(frozen=True)
class Race:
    """Two runs at once, of which something may befall the first."""

    blow: Blow | None = None

    def play(self, world: World) -> None:
        expected = world.model.expects()
        befallen, whole = world.race(self.blow)
        reported = list(befallen.applied) if self.blow else []
        assert befallen.killed or befallen.error in (None, expected[1], *LOST), str(befallen)
        compare_behind_a_whole_run(world, [whole] if self.blow else [befallen, whole], reported, expected)


@dataclass(frozen=True)
class Crash:
    """A run that something befalls, and then silence."""

    blow: Blow

    def play(self, world: World) -> None:
        expected = world.model.expects()
        outcome = faulty(world, self.blow, expected)
        wait_for_silence(world.database)
        adopt(world, expected[0])
        assert set(outcome.applied) <= set(world.model.finished)
        if not outcome.killed and outcome.error is None:
            assert world.model.expects() == ([], None), "a run ended well, and left something to do"


Action = Add | Late | Edit | Remove | PutBack | Mend | Run | Race | Crash


def faulty(world: World, blow: Blow, expected: tuple[list[str], str | None]) -> Outcome:
    """A run that something befalls: it is killed, or ends as it would without, or says that the line was lost."""
    outcome = world.run(blow)
    if not outcome.killed:
        usual = outcome.error == expected[1] and outcome.exit == 0
        lies = (false_claims if usual else lies_of_a_lost_line)(outcome, world.database)
        assert not lies, "\n".join(lies)
    return outcome


def compare_behind_a_whole_run(
    world: World, whole: Sequence[Outcome], reported: Sequence[str], expected: tuple[list[str], str | None]
) -> None:
    """Whatever came before: behind a run that nothing befell nothing is left to do but what its error says."""
    wait_for_silence(world.database)
    before = set(world.model.finished)
    adopt(world, expected[0])
    left, error = world.model.expects()
    told = [*reported, *(name for outcome in whole for name in outcome.applied)]
    assert not left, f"left to do: {left}"
    assert {outcome.exit for outcome in whole} == {0}
    assert {outcome.error for outcome in whole} == {error}
    assert len(told) == len(set(told)), f"reported twice: {told}"
    assert set(told) <= set(world.model.finished) - before
    lies = [lie for outcome in whole for lie in false_claims(outcome, world.database)]
    assert not lies, "\n".join(lies)
    if not reported and len(whole) == 2:
        assert set(told) == set(world.model.finished) - before


def wait_for_silence(database: Database) -> None:
    """Until the sessions of those that are gone have ended, and their locks with them."""
    query = (
        "SELECT pid, state, query FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    deadline = time.monotonic() + 15
    while still := database.rows(query):
        assert time.monotonic() < deadline, f"still there: {still}"
        time.sleep(0.02)


def adopt(world: World, expected: Sequence[str]) -> None:
    """Take from the history how far it came, if it can have come there; and compare all the rest with that."""
    model, rows = world.model, ledger(world.database)
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


def ledger(database: Database) -> list[tuple[str, str, bool, int, int | None]]:
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


def play(server: Server, runners: Sequence[Runner], actions: Sequence[Action]) -> None:
    """Play a sequence on a database of its own; at its end all is mended, and a run applies all there is."""
    database = server.create()
    try:
        with tempfile.TemporaryDirectory() as folder:
            database.run("CREATE TABLE effects (name text NOT NULL, number int NOT NULL)")
            world = World(database, Path(folder), runners)
            for action in (*actions, PutBack(), Mend(), Run(), Mend(), Run()):
                world.told.append(str(action))
                try:
                    action.play(world)
                except AssertionError as error:
                    raise AssertionError("\n".join([str(error), *world.told, f"SEED={SEED}"])) from error
            assert world.model.expects() == ([], None)
    finally:
        server.drop(database)


kinds = st.sampled_from(sorted(TRANSACTIONAL | BY_STEPS))
sound = st.sampled_from(
    ["plain", "slow", "copy", "large", "empty", "steps_empty", "procedure", *["steps", "elsewhere"] * 2]
)
picks = st.integers(0, 5)
blows = st.builds(
    Blow,
    st.sampled_from(["kill", "kill", "cut", "end"]),
    st.integers(0, 199),
    st.sampled_from(["half", "sent", "sent", "behind"]),
    st.sampled_from([0, 0, 0, 0, 1, 2, 3, 5]),
)
some = st.lists(blows, min_size=1, max_size=2).map(tuple)
befallen = st.builds(Crash, blows) | st.builds(Run, some) | st.builds(Race, blows)
new = st.builds(Add, sound) | st.builds(Add, kinds)
disagreeing = st.builds(Late, sound) | st.builds(Edit, picks) | st.builds(Remove, picks)
healing = st.just(PutBack()) | st.just(Mend())
chapters = st.one_of(
    st.tuples(new, befallen),
    st.tuples(new, new, befallen),
    st.tuples(new),
    st.tuples(befallen),
    st.tuples(st.just(Run()) | st.just(Race())),
    st.tuples(disagreeing),
    st.tuples(healing),
    st.tuples(healing),
)
sequences = st.lists(chapters, min_size=3, max_size=10)


@pytest.fixture(scope="module")
def runners() -> Iterator[list[Runner]]:
    with ExitStack() as stack:
        yield [stack.enter_context(started()) for _ in range(2)]


@pytest.mark.parametrize("server", [SERVER], indirect=True)
def test_history_and_schema_are_as_the_model_says(server: Server, runners: list[Runner]) -> None:
    print(f"SEED={SEED}")  # noqa: T201

    @seed(SEED)
    @settings(
        max_examples=SEQUENCES, deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck)
    )
    @given(chapters=sequences)
    def any_sequence(chapters: list[tuple[Action, ...]]) -> None:
        play(server, runners, [action for chapter in chapters for action in chapter])

    any_sequence()
    print(f"{happened.total()} runs:", *sorted(happened.items()), sep="\n")  # noqa: T201
    assert SEQUENCES < 100 or len([kind for kind in happened if "whole" not in kind]) == 9
