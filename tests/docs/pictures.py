"""Draws the README's pictures of a terminal from real runs: `python -m tests.docs.pictures` writes docs/images.

The two runs are steps of a page, in the scenario `project`; the terminal has 80 columns and colours. What a terminal
would show at the end is drawn, since progress is overwritten while it runs.
"""

from __future__ import annotations

import html
import io
import os
import pty
import re
import signal
import struct
import tempfile
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

from tests import ROOT
from tests.docs.scenarios import Scenarios, Shell
from tests.servers.clusters import Clusters

IMAGES = ROOT / "docs" / "images"
COLUMNS, LINES = 88, 60
_CHARACTER = 12.2
"""The width of a character in an SVG of rich, in pixels."""

FILES = {
    "001_users.sql": "CREATE TABLE users (id bigint PRIMARY KEY, email text);\n",
    "002_orders.sql": "CREATE TABLE orders (id bigint PRIMARY KEY, user_id bigint REFERENCES users);\n",
}
BROKEN = "-- Addresses are compared without regard to case.\n\nUPDATE users SET email = lower(emial);\n"


def screen(
    shell: Shell,
    command: str,
    *,
    columns: int = COLUMNS,
    colours: bool = True,
    watch: Callable[[str], object] | None = None,
) -> list[Text]:
    """Run a command in a terminal and return the lines of its last screen, the command included.

    `watch` gets the last line of the screen whenever it changes.
    """
    terminal = pyte.Screen(columns, LINES)
    stream = pyte.ByteStream(terminal)
    stream.feed(f"\x1b[1m$ {command}\x1b[0m\r\n".encode())
    for part in _output(shell, command, columns, colours):
        stream.feed(part)
        if watch:
            watch(next((line.rstrip() for line in reversed(terminal.display) if line.strip()), ""))
    lines = [_line(terminal, number) for number in range(LINES)]
    while not lines[-1].plain.strip():
        lines.pop()
    return lines


def _output(shell: Shell, command: str, columns: int, colours: bool) -> Iterator[bytes]:
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        unset = "NO_COLOR COLUMNS" if colours else "COLUMNS"
        text = f". '{shell.state}'\nunset {unset}\nexport TERM=xterm-256color\n{shell.here(command)}"
        os.execvpe("bash", ["bash", "-c", text], {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"})
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
    try:
        while part := os.read(terminal, 65536):
            yield part
    except OSError:  # Linux: the other side of a terminal is closed
        pass
    finally:
        os.close(terminal)
        os.waitpid(child, 0)


def _line(terminal: pyte.Screen, number: int) -> Text:
    row, line = terminal.buffer[number], Text()
    for column in range(terminal.columns):
        cell = row[column]
        colour = None if cell.fg == "default" else cell.fg if cell.fg.isalpha() else f"#{cell.fg}"
        colour = {"brown": "yellow", "brightblack": "bright_black"}.get(colour or "", colour)
        line.append(cell.data, Style(color=colour, bold=cell.bold, italic=cell.italics))
    line.rstrip()
    return line


def draw(lines: list[Text], title: str, columns: int = COLUMNS) -> str:
    """The lines as an SVG that loads nothing from elsewhere."""
    console = Console(width=columns, record=True, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in (*lines, Text()):
        console.print(line, soft_wrap=True)
    svg = console.export_svg(title=title, unique_id=title.replace(" ", "-"))
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    return re.sub(r"[ \t]+$", "", svg.replace("Fira Code", "ui-monospace, Menlo, Consolas"), flags=re.MULTILINE)


def text_of(svg: str) -> str:
    """The text of a picture, line by line. Each piece of a line has its own place, which is rounded to characters."""
    lines: dict[int, str] = {}
    pieces = re.findall(r' x="([\d.]+)"[^>]*clip-path="url\(#[\w-]+-line-(\d+)\)">(.*?)</text>', svg)
    for x, number, text in pieces:
        column = round(float(x) / _CHARACTER)
        lines[int(number)] = lines.get(int(number), "").ljust(column) + html.unescape(text).replace("\xa0", " ")
    return "\n".join(line.rstrip() for _, line in sorted(lines.items()) if line.strip())


def example(shell: Shell) -> None:
    """Write the example's migrations."""
    for name, text in FILES.items():
        (shell.folder / "sql" / name).write_text(text, "utf-8")


def pictures(shell: Shell) -> dict[str, list[Text]]:
    """The lines of each picture, by the file's name."""
    example(shell)
    shell.prepare("pgratchet up --env=dev")
    good = screen(shell, "pgratchet migrate --env=dev")
    (shell.folder / "sql" / "003_email.sql").write_text(BROKEN, "utf-8")
    return {"run": good, "failed-run": screen(shell, "pgratchet migrate --env=dev")}


@contextmanager
def scenario(name: str = "project") -> Iterator[Shell]:
    """A scenario of the manual, outside the tests."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        clusters = Clusters(Path(folder))
        with Scenarios(Path(folder), clusters).start(name) as shell:
            yield shell


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with scenario() as shell:
        for name, lines in pictures(shell).items():
            (IMAGES / f"{name}.svg").write_text(draw(lines, "pgratchet"), "utf-8")


if __name__ == "__main__":
    main()
