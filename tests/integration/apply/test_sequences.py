"""Random sequences against a model: files are added, changed and removed; runs succeed, fail, race, are killed or cut
off.

Hypothesis makes up a list of actions. After each action the database is compared with the model: rows of the history,
every effect exactly once, tables, indexes, locks, and the report of each run. `SEQUENCES=1000` sets their number,
`SEED=7` repeats a failure, and `SERVER=outside` uses the other server. A failing sequence is printed as a list that
`play` takes.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.integration.apply.sequence_actions import (
    Action,
    Add,
    Crash,
    Edit,
    FixFiles,
    Late,
    PlannedFault,
    PutBack,
    Race,
    Remove,
    Run,
    SequenceState,
    happened,
)
from tests.integration.apply.sequence_model import BY_STEPS, TRANSACTIONAL
from tests.servers.databases import Server
from tests.support.runner_process import Runner, started

SEQUENCES = int(os.environ.get("SEQUENCES", "15"))
SEED = int(os.environ.get("SEED") or random.SystemRandom().randrange(2**32))
SERVER = os.environ.get("SERVER", "embedded")


def play(server: Server, runners: Sequence[Runner], actions: Sequence[Action]) -> None:
    """Play a sequence on its own database. At the end all files are corrected, and a run applies them."""
    database = server.create()
    try:
        with tempfile.TemporaryDirectory() as folder:
            database.run("CREATE TABLE effects (name text NOT NULL, number int NOT NULL)")
            world = SequenceState(database, Path(folder), runners)
            for action in (*actions, PutBack(), FixFiles(), Run(), FixFiles(), Run()):
                world.log.append(str(action))
                try:
                    action.play(world)
                except AssertionError as error:
                    raise AssertionError("\n".join([str(error), *world.log, f"SEED={SEED}"])) from error
            assert world.model.expects() == ([], None)
    finally:
        server.drop(database)


kinds = st.sampled_from(sorted(TRANSACTIONAL | BY_STEPS))
sound = st.sampled_from(
    ["plain", "slow", "copy", "large", "empty", "steps_empty", "procedure", *["steps", "elsewhere"] * 2]
)
picks = st.integers(0, 5)
blows = st.builds(
    PlannedFault,
    st.sampled_from(["kill", "kill", "cut", "end"]),
    st.integers(0, 199),
    st.sampled_from(["half", "sent", "sent", "behind"]),
    st.sampled_from([0, 0, 0, 0, 1, 2, 3, 5]),
)
some = st.lists(blows, min_size=1, max_size=2).map(tuple)
befallen = st.builds(Crash, blows) | st.builds(Run, some) | st.builds(Race, blows)
new = st.builds(Add, sound) | st.builds(Add, kinds)
disagreeing = st.builds(Late, sound) | st.builds(Edit, picks) | st.builds(Remove, picks)
healing = st.just(PutBack()) | st.just(FixFiles())
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
def test_history_and_schema_match_the_model(server: Server, runners: list[Runner]) -> None:
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
