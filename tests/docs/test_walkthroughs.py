"""The commands of the manual, page by page: each exits as the page says, and prints what the page shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs import pictures, screens
from tests.docs.pages import RunCommand, Scenario, Step, all_pages, page_name, steps
from tests.docs.scenarios import Scenarios, masked, run_page, same_output
from tests.requirements import require
from tests.servers.clusters import Clusters

_NEEDED = ("pgrep", "ps", "squawk", "ssh-keygen", "ssh-keyscan")
_PAGES = [page for page in all_pages() if any(steps(page))]


@pytest.fixture
def scenarios(tmp_path: Path, clusters: Clusters) -> Scenarios:
    return Scenarios(tmp_path, clusters)


@pytest.mark.parametrize("page", _PAGES, ids=page_name)
def test_page_runs_as_it_says(page: Path, scenarios: Scenarios) -> None:
    todo = list(steps(page))
    for program in sorted(_programs(todo)):
        require(program)
    run_page(todo, scenarios)


def _programs(page_steps: list[Step]) -> set[str]:
    """The programs that a page needs besides the bundled ones, and that a machine may lack."""
    found = set()
    for step in page_steps:
        if isinstance(step, Scenario) and "ssh" in step.name.split():
            found |= {"ssh", "sshd", "ssh-keygen"}
        if isinstance(step, RunCommand):
            found |= {name for name in _NEEDED if re.search(rf"(?<![\w-]){name}(?![\w.-])", step.command)}
    return found


def test_pictures_show_what_is_printed(scenarios: Scenarios) -> None:
    """`python -m tests.docs.pictures` draws them anew."""
    with scenarios.start("project") as shell:
        drawn = pictures.pictures(shell)
    for name, lines in drawn.items():
        shown = pictures.text_of((pictures.IMAGES / f"{name}.svg").read_text("utf-8"))
        printed = "\n".join(line.plain.rstrip() for line in lines if line.plain.strip())
        assert masked(shown).split() == masked(printed).split(), name


def test_the_page_of_terminals_shows_what_is_printed(scenarios: Scenarios) -> None:
    """`python -m tests.docs.screens` writes it anew."""
    text = screens.PAGE.read_text("utf-8")
    with scenarios.start(screens.SCENARIO) as shell:
        screens.prepare(shell)
        for capture, shown in screens.captures(shell):
            section = text.partition(f"\n## {capture.title}\n")[2].partition("\n## ")[0]
            blocks = re.findall(r"```text title=\"(\d+) columns\"\n\$ .*?\n(.*?)\n```", section, re.DOTALL)
            assert [int(width) for width, _ in blocks] == list(shown), capture.title
            for width, block in blocks:
                assert masked(block).split() == masked(shown[int(width)]).split(), capture.title
                assert all(len(line) <= int(width) for line in shown[int(width)].splitlines()), capture.title


def test_times_and_ids_are_masked() -> None:
    shown = ["applied 001_users, 16 ms", "backup 20261122T101500-3f2a: 850 B, read back whole, 76 ms"]
    assert not same_output(
        shown, "applied 001_users, 2.1 s\nbackup 20261123T111500-0000: 1.2 kB, read back whole, 1 s\n"
    )


def test_other_output_is_a_difference() -> None:
    assert "+applied 002_users, DURATION" in same_output(["applied 001_users, 16 ms"], "applied 002_users, 16 ms")


def test_dots_stand_for_any_lines() -> None:
    assert not same_output(["a", "...", "d"], "a\nb\nc\nd\n")
    assert same_output(["a", "...", "e"], "a\nb\nc\nd\n")
