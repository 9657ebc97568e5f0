"""Reads the manual's pages: the blocks of code with their titles, and the comments that control how they are tested.

A page is a sequence of steps that run from top to bottom in a scenario of `scenarios.py`:

    <!-- scenario: project -->          what follows runs in a new scenario of this name
    <!-- run: rm sql/003_email.sql -->  a command that the reader does not see
    <!-- input: prod -->                what is typed while the next console block runs
    <!-- not run: needs a registry -->  the next block is only checked for known tasks and flags

    ```console                          each `$ command` runs, and prints what follows it; `# exits 5` is its status
    ```sql title="sql/002_users.sql"    writes the file; `title="sql/... (mended)"` ends at the space
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import ROOT

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)$")
_COMMENT = re.compile(r"^ *<!-- *(?P<name>scenario|run|input|not run): *(?P<text>.*?) *-->$")
_TITLE = re.compile(r'title="(?P<path>[^" ]+)[^"]*"')
_EXITS = re.compile(r"\s+# exits (?P<status>\d+)$")


@dataclass(frozen=True)
class Step:
    """One thing to do. `line` is where it stands in the page, from 1."""

    page: Path
    line: int


@dataclass(frozen=True)
class Scenario(Step):
    name: str


@dataclass(frozen=True)
class WriteFile(Step):
    path: str
    text: str


@dataclass(frozen=True)
class RunCommand(Step):
    """A command with its input and status; `output` is None where the page shows none on purpose."""

    command: str
    output: list[str] | None = None
    status: int = 0
    typed: str = ""


@dataclass(frozen=True)
class Block:
    """A block of code as it stands in the page."""

    line: int
    language: str
    title: str
    text: str


def all_pages() -> list[Path]:
    """README.md and every page of the manual."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def steps(page: Path) -> Iterator[Step]:
    """What the page says to do, in order. A page without a scenario has no steps."""
    started, typed, skipped = False, "", False
    for item in _items(page):
        if isinstance(item, Block):
            if started and not skipped:
                yield from _block_steps(page, item, typed)
            typed, skipped = "", False
            continue
        line, name, text = item
        if name == "scenario":
            started = True
            yield Scenario(page, line, text)
        elif name == "run":
            yield RunCommand(page, line, text)
        elif name == "input":
            typed = text + "\n"
        else:
            skipped = True


def blocks(page: Path) -> list[Block]:
    """The page's blocks of code."""
    return [item for item in _items(page) if isinstance(item, Block)]


def _block_steps(page: Path, block: Block, typed: str) -> Iterator[Step]:
    if block.title:
        yield WriteFile(page, block.line, block.title, block.text)
    elif block.language == "console":
        yield from _commands(page, block, typed)


def _commands(page: Path, block: Block, typed: str) -> Iterator[RunCommand]:
    current: RunCommand | None = None
    for number, line in enumerate(block.text.splitlines(), block.line + 1):
        if line.startswith("$ "):
            if current:
                yield current
            exits = _EXITS.search(line)
            command = line[2 : exits.start() if exits else None]
            current = RunCommand(page, number, command, [], int(exits["status"]) if exits else 0, typed)
        elif current and current.output is not None:
            current.output.append(line)
        else:
            raise AssertionError(f"{page_name(page)}:{number}: a console block begins with a command, `$ ...`")
    if current:
        yield current


def _items(page: Path) -> Iterator[Block | tuple[int, str, str]]:
    lines = page.read_text("utf-8").splitlines()
    number = 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        comment = _COMMENT.match(lines[number])
        number += 1
        if comment:
            yield number, comment["name"], comment["text"]
        if fence:
            first, indent = number, len(fence["indent"])
            while lines[number].strip() != fence["fence"]:
                number += 1
            text = "".join(line[indent:] + "\n" for line in lines[first:number])
            title = _TITLE.search(fence["info"])
            yield Block(first, fence["info"].split(" ")[0].strip(), title["path"] if title else "", text)
            number += 1
