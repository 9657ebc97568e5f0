"""The tables of the page on performance have the numbers of the chart."""

from __future__ import annotations

import re
from collections import defaultdict

from tests import ROOT

_TEXT = re.compile(r'<text [^>]*?x="(?P<x>[\d.]+)" y="(?P<y>[\d.]+)"[^>]*>(?P<text>.*?)</text>')
_CASE = re.compile(r'<tspan class="case">(?P<case>[^<]*)</tspan>')


def chart() -> dict[str, dict[str, str]]:
    """The chart's numbers by case and label, as they are written in it."""
    lines = defaultdict[float, list[tuple[float, str]]](list)
    for match in _TEXT.finditer((ROOT / "docs/benchmark.svg").read_text("utf-8")):
        lines[float(match["y"])].append((float(match["x"]), match["text"]))
    numbers: dict[str, dict[str, str]] = {}
    for _, texts in sorted(lines.items()):
        if case := _CASE.search(texts[0][1]):
            numbers[case["case"]] = {}
        elif len(texts) == 2 and numbers:
            (_, label), (_, number) = sorted(texts)
            numbers[list(numbers)[-1]][label] = number
    return numbers


def rows() -> list[list[str]]:
    text = (ROOT / "docs/performance.md").read_text("utf-8")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]


def test_the_tables_have_the_numbers_of_the_chart() -> None:
    cases = chart()
    backup = cases.pop("a backup of 1,100 MB, and reading it back")
    shown = {row[0]: [cell for cell in row[2:] if cell] for row in rows()}
    assert {case: list(numbers.values()) for case, numbers in cases.items()} == {case: shown[case] for case in cases}
    own = {label: number for label, number in backup.items() if label.startswith(("backup", "reading"))}
    assert own == {label: shown[label][0] for label in own}
