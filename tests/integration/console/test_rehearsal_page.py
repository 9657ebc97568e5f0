"""The page of a rehearsal in a real Chromium: rendered without an error, and its numbers are those of the record."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from pgratchet.console import rehearsal_page
from pgratchet.console.rehearsal import effects, milliseconds
from pgratchet.formatting import format_size
from pgratchet.rehearsal.records import Shape
from tests.requirements import require
from tests.unit.rehearsal.samples import FAILURE, REPORT, record

WIDTH_SCRIPT = "<script>document.title = 'width ' + document.documentElement.scrollWidth</script></body>"


def rendered(folder: Path, page: str, width: int, *flags: str) -> tuple[str, str]:
    """The document after rendering at a width, and what Chromium says about it."""
    path = folder / "page.html"
    path.write_text(page, "utf-8")
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [require("chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", profile]
    done = subprocess.run(
        [*command, f"--window-size={width},2000", *flags, "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def text_of(document: str) -> str:
    body = document.split("<body>")[1]
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_the_numbers_of_the_page_are_those_of_the_record(tmp_path: Path) -> None:
    shape = record(blocks_reads=500)
    document, console = rendered(tmp_path, rehearsal_page.render(shape), 1100)
    assert console == ""
    text = text_of(document)
    for table in shape["tables"]:
        assert table["relation"] in text
        assert milliseconds(max(table["blocks_reads_ms"], table["blocks_writes_ms"])) in text
    for each in shape["statements"]:
        if each["duration_ms"] >= 10:
            assert f"{each['migration']}:{each['line']}" in text
            assert milliseconds(each["duration_ms"]) in text
            assert format_size(each["wal_bytes"]) in text
            assert effects(each) in text
    assert shape["verdict"]["over_budget"][0]["text"] in text
    assert "UPDATE events SET kind = '<b>' || kind" in text  # escaped
    assert "1.5 times as long on this target" in text
    assert len(re.findall(r'class="row lane"', document)) == len({stop["relation"] for stop in shape["stops"]})


def bars(document: str) -> list[tuple[str, float, float]]:
    pattern = r'<rect class="(reads|writes|rows)" x="([\d.]+)" width="([\d.]+)"'
    return [(kind, float(x), float(width)) for kind, x, width in re.findall(pattern, document)]


def test_the_bars_of_the_timeline_have_the_lengths_of_the_stops(tmp_path: Path) -> None:
    shape = record()
    document, _ = rendered(tmp_path, rehearsal_page.render(shape), 1100)
    end = max(each["started_ms"] + each["duration_ms"] for each in (*shape["statements"], *shape["stops"]))
    expected = [
        (stop["blocks"], stop["started_ms"] / end * 1000, max(1.5, stop["duration_ms"] / end * 1000))
        for stop in shape["stops"]
    ]
    for (kind, x, width), (told, begin, length) in zip(sorted(bars(document)), sorted(expected), strict=True):
        assert kind == told
        assert x == pytest.approx(begin, abs=0.1)
        assert width == pytest.approx(length, abs=0.1)


@pytest.mark.parametrize("width", [360, 1600])
def test_nothing_is_wider_than_the_window(tmp_path: Path, width: int) -> None:
    long_name = "public." + "very_long_name_" * 4
    shape: Shape = record(blocks_reads=1)
    shape["stops"] = [{**stop, "relation": long_name} for stop in shape["stops"]]
    page = rehearsal_page.render(shape).replace("</body>", WIDTH_SCRIPT)
    document, console = rendered(tmp_path, page, width)
    assert console == ""
    assert int(re.findall(r"<title>width (\d+)</title>", document)[0]) <= max(width, 500)  # Chromium's least window


def test_a_failure_and_an_empty_report_have_pages(tmp_path: Path) -> None:
    failed = replace(REPORT, failure=FAILURE, statements=(), stops=())
    document, console = rendered(tmp_path, rehearsal_page.render(record(failed)), 800)
    assert console == ""
    assert "In the way: 7 rows of public.users. By id: 1; 2 and more." in text_of(document)
