"""Flags that can be given together, and those that cannot."""

from __future__ import annotations

import pytest

from pgratchet.errors import ConfigurationError
from pgratchet.tasks import ns
from pgratchet.tasks.combinations import ADOPT, RESTORE, Combinations


def flags_of(words: str) -> dict[str, object]:
    """The flags of a task as it gets them: those that were not given are None or False."""
    absent: dict[str, object] = {"env": None, "json": False, "into": None, "drop_old": False}
    return absent | dict.fromkeys(words.split(), "x")


@pytest.mark.parametrize(
    "given",
    [
        *("backup", "backup into", "backup into salvage", "backup into accept_differences", "backup drop_old yes"),
        *(
            "backup leave_behind accept_differences",
            "continue_",
            "continue_ backup drop_old leave_behind",
            "drop_old yes",
        ),
        *("show_lost", "show_lost backup", "show_lost old", "export_lost", "export_lost old max_size show_lost", ""),
        *("env json limit yes show_lost", "env json limit yes export_lost"),
    ],
)
def test_flags_of_restore_that_go_together_are_accepted(given: str) -> None:
    RESTORE.require(flags_of(given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("show_lost into", "--show-lost and --into cannot be given together"),
        ("drop_old show_lost", "--show-lost and --drop-old cannot be given together"),
        ("backup show_lost continue_", "--show-lost and --continue cannot be given together"),
        ("backup export_lost into", "--export-lost and --into cannot be given together"),
        ("salvage backup into drop_old", "--salvage and --drop-old cannot be given together"),
        ("salvage backup into show_lost", "--salvage and --show-lost cannot be given together"),
        ("backup into drop_old", "--into and --drop-old cannot be given together"),
        ("backup into leave_behind", "--into and --leave-behind cannot be given together"),
        ("continue_ into", "--into and --continue cannot be given together"),
        ("max_size", "--max-size needs --export-lost"),
        ("show_lost max_size", "--max-size needs --export-lost"),
        ("backup old", "--old needs --show-lost or --export-lost"),
        ("drop_old leave_behind", "--leave-behind needs --backup or --continue"),
        ("drop_old accept_differences", "--accept-differences needs --backup or --continue"),
    ],
)
def test_flags_of_restore_that_exclude_each_other_are_refused(given: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RESTORE.require(flags_of(given))
    assert caught.value.message == message
    assert caught.value.detail
    assert caught.value.hint


@pytest.mark.parametrize("other", ADOPT.others)
def test_a_baseline_goes_with_no_flag_of_another_tool(other: str) -> None:
    ADOPT.require(flags_of(f"baseline env json dry_run sql {other}".removesuffix(other)))
    ADOPT.require(flags_of(f"env {other}"))
    with pytest.raises(ConfigurationError, match=r"--baseline and --\S+ cannot be given together"):
        ADOPT.require(flags_of(f"baseline {other}"))


@pytest.mark.parametrize(("task", "combinations"), [("restore", RESTORE), ("adopt", ADOPT)])
def test_every_flag_that_is_named_is_one_of_the_task(task: str, combinations: Combinations) -> None:
    known = {argument.name for argument in ns.tasks[task].get_arguments()}
    named = {*combinations.modes, *combinations.needs, *combinations.others}
    named |= {name for mode in combinations.modes.values() for name in mode.with_flags}
    named |= {name for needed in combinations.needs.values() for name in needed}
    assert named <= known
