"""Writes docs/reference/terminal.md from real runs in terminals of 80 and 200 columns: `python -m tests.docs.screens`.

Each command runs once per width without colour. Some run again with colours, for the two pictures.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from rich.text import Text

from tests.docs.pictures import IMAGES, draw, example, screen
from tests.docs.scenarios import Shell

PAGE = IMAGES.parent / "reference" / "terminal.md"
WIDTHS = (80, 200)
SCENARIO = "project server"
_PROGRESS = re.compile(r"\d+ %.* left$")

_HEAD = """# In the terminal

What pgratchet prints in terminals of 80 and of 200 columns. Long lines are broken between words, tables fit the width,
and a progress bar shows amount, rate and the time that is left. With `NO_COLOR` there is no colour. In a pipe, and with
`TERM=dumb`, there is no bar either: a line a minute says how far a backup or a restore is.

![A terminal of 80 columns](../images/terminal-80.svg)

![A terminal of 200 columns](../images/terminal-200.svg)
"""


@dataclass(frozen=True, slots=True)
class Capture:
    """A command to show. `prepare` are commands before it that are not shown."""

    title: str
    command: str
    prepare: tuple[str, ...] = ()
    has_colours: bool = False


CAPTURES = (
    Capture(
        "The database is named first",
        "pgratchet status --env=prod",
        ("pgratchet migrate --env=dev", "pgratchet migrate --env=prod --yes"),
        has_colours=True,
    ),
    Capture(
        "Never the wrong database", "DATABASE_URL=postgresql://shop_owner:secret@db.example.com/shop pgratchet migrate"
    ),
    Capture(
        "A database that has tables and no history",
        "pgratchet migrate --env=legacy",
        (
            'psql "$SUPERUSER" -qc "CREATE DATABASE legacy OWNER shop_owner"',
            'psql "${SUPERUSER%/*}/legacy" -qc "SET ROLE shop_owner" -c "CREATE TABLE customers (id int)"',
            "sed s/dbname:.shop/dbname:\\ legacy/ inventory/prod.yml > inventory/legacy.yml",
        ),
    ),
    Capture("A file with a password that git does not ignore", "pgratchet render --env=prod --write=app.env"),
    Capture(
        "An error points at its place",
        "pgratchet migrate",
        ("printf 'UPDATE users\\nSET email = lower(emial);\\n' > sql/003_email.sql",),
        has_colours=True,
    ),
    Capture(
        "A parenthesis that is not closed",
        "pgratchet migrate",
        ("printf 'CREATE TABLE tags (\\n    id int,\\n    name text\\n;\\n' > sql/003_email.sql",),
    ),
    Capture("An empty file", "pgratchet migrate", (": > sql/003_email.sql",)),
    Capture("A misspelled task", "pgratchet migrat", ("rm sql/003_email.sql",)),
    Capture("A misspelled flag", "pgratchet status --jsn"),
    Capture("An environment without a server of ours", "pgratchet down --env=prod --remove"),
    Capture("Backups", "pgratchet backups --env=prod"),
    Capture("There is no rollback", "pgratchet rollback --env=prod"),
)
LARGE_TABLE = "CREATE TABLE large AS SELECT n AS id, md5(n::text) AS word FROM generate_series(1, 1500000) AS n"


def prepare(shell: Shell) -> None:
    example(shell)
    shell.prepare("pgratchet up --env=dev")


def captures(shell: Shell) -> Iterator[tuple[Capture, dict[int, str]]]:
    """Each command with what a terminal of each width shows, without colour."""
    for capture in CAPTURES:
        for command in capture.prepare:
            shell.prepare(command)
        yield capture, {width: _plain(shell, capture.command, width) for width in WIDTHS}


def _plain(shell: Shell, command: str, width: int) -> str:
    lines = screen(shell, command, columns=width, colours=False)
    echoed = -(-len(f"$ {command}") // width)
    return "\n".join(shell.shown(line.plain.rstrip()) for line in lines[echoed:])


def progress_lines(shell: Shell) -> dict[int, str]:
    """A line of progress in the middle of a backup, for each width."""
    shell.prepare(f'psql "$(pgratchet up --env=dev | sed "s/^DATABASE_URL=//; s/^.//; s/.$//")" -qc "{LARGE_TABLE}"')
    found = {}
    for width in WIDTHS:
        shown: list[str] = []
        screen(shell, "pgratchet backup --env=dev", columns=width, colours=False, watch=shown.append)
        moving = [line for line in shown if _PROGRESS.search(line)]
        found[width] = moving[len(moving) // 2]
    return found


def page(shell: Shell) -> Iterator[str]:
    """The text of the page."""
    yield _HEAD
    for capture, shown in captures(shell):
        yield from _section(capture.title, capture.command, shown)
    yield from _section("Progress", "pgratchet backup --env=dev", progress_lines(shell))


def _section(title: str, command: str, shown: dict[int, str]) -> Iterator[str]:
    yield f"\n## {title}\n"
    for width, text in shown.items():
        yield f'\n```text title="{width} columns"\n$ {command}\n{text}\n```\n'


def coloured(shell: Shell, width: int) -> list[Text]:
    """The lines of the picture of a terminal of this width."""
    lines: list[Text] = []
    for capture in CAPTURES:
        for command in capture.prepare:
            shell.prepare(command)
        if capture.has_colours:
            lines += [*screen(shell, capture.command, columns=width), Text()]
    return lines


def main() -> None:
    from tests.docs.pictures import scenario

    with scenario(SCENARIO) as shell:
        prepare(shell)
        PAGE.write_text("".join(page(shell)), "utf-8")
    for width in WIDTHS:
        with scenario(SCENARIO) as shell:
            prepare(shell)
            (IMAGES / f"terminal-{width}.svg").write_text(draw(coloured(shell, width), "pgratchet", width), "utf-8")


if __name__ == "__main__":
    main()
