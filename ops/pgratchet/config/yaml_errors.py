"""Says where a text is not YAML, what is wrong there, and how to write it instead.

The texts of PyYAML name what its scanner expected, which is rarely what the author got wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_TEMPLATE = re.compile(r"(?:^|[:,\[{-])\s*(\{[{%])")
_INI_SECTION = re.compile(r"\[[\w.:-]+\]\s*(?:[;#].*)?")
_TAB_IN_INDENTATION = re.compile(r" *\t")
_RESERVED = "@`%"
"""Characters that begin no value in YAML (https://yaml.org/spec/1.2.2/#53-indicator-characters)."""


def explain(text: str, problem: str, line: int, column: int, start: int) -> str:
    """The position and a sentence, such as `2:1: a tab. YAML is indented with spaces only.`

    `problem` is PyYAML's text. `line`, `column` and `start`, the line in which the unreadable part begins, count from 0
    as in PyYAML.
    """
    lines = text.split("\n")
    last = min(line, len(lines) - 1)
    if mistake := next(_by_line(lines, range(last, min(start, last) - 1, -1)), ""):
        return mistake
    if ini := _ini(lines):
        return ini
    shown = lines[last] if lines else ""
    return f"{line + 1}:{column + 1}: {_sentence(problem, shown, column, start + 1)}"


def _by_line(lines: list[str], numbers: range) -> Iterator[str]:
    """Mistakes that a line shows by itself."""
    for number in numbers:
        if tab := _TAB_IN_INDENTATION.match(lines[number]):
            yield f"{number + 1}:{tab.end()}: a tab. YAML is indented with spaces only."
        if template := _TEMPLATE.search(lines[number]):
            shown = "{{ ... }}" if template[1] == "{{" else "{% ... %}"
            yield f'{number + 1}:{template.start(1) + 1}: Put a template in quotes: "{shown}".'


def _ini(lines: list[str]) -> str:
    """A sentence when the first line that says something is a section of an INI file."""
    number, first = next(
        ((n, t) for n, line in enumerate(lines, 1) if (t := line.strip()) and t[0] not in "#;"), (0, "")
    )
    if not _INI_SECTION.fullmatch(first):
        return ""
    return f"{number}:1: an INI file. Write it in YAML, where a name and its value are as in pg_host: db.example.com."


def ini_section(text: str) -> str:
    """The position and a sentence when a text is an INI file that YAML can read, such as a section alone."""
    return _ini(text.split("\n"))


def _sentence(problem: str, line: str, column: int, start: int) -> str:
    if problem.startswith("found character") and line[column : column + 1] in _RESERVED and line[column:]:
        return f"a value cannot begin with {line[column]} without quotes. Put the value in quotes."
    if problem.startswith("mapping values") and ": " in line[:column]:
        return "a second colon in a line. Put the value in quotes."
    if problem.startswith("mapping values"):
        return "the indentation does not fit the line above."
    if "unexpected end of stream" in problem or "unexpected document separator" in problem:
        return f"the file ends inside a text or a list that begins in line {start}. Close its quote or bracket."
    if problem.startswith("did not find expected ',' or"):
        return f"the brackets that open in line {start} are not closed, or a comma is missing."
    return f"not YAML: {problem}."
