"""Lines broken between words, and lines of files with a caret."""

from __future__ import annotations

import pytest

from pgratchet.console.text_layout import break_name, cell_width, cut_middle, format_excerpt, wrap

LONG = "HINT: Put the line `-- migrate: no-transaction` above all statements of sql/0001_name.sql; then run it again."


@pytest.mark.parametrize("width", [40, 80, 200])
def test_lines_are_broken_between_words(width: int) -> None:
    lines = wrap(LONG, width, "      ").split("\n")
    assert all(len(line) <= width for line in lines)
    assert all(line.startswith("      ") for line in lines[1:])
    assert " ".join(line.strip() for line in lines) == LONG
    assert any("`-- migrate: no-transaction`" in line for line in lines), "a command is not broken"
    assert len(lines) == {40: 5, 80: 2, 200: 1}[width]


def test_a_text_without_spaces_and_lines_that_fit_are_left_as_they_are() -> None:
    assert wrap("x" * 90, 80) == "x" * 90
    assert wrap("a   b\n  c  d", 80, "..") == "a   b\n..  c  d"
    assert wrap("  " + "ab " * 4, 8, ">") == "  ab ab\n>  ab ab"


def test_wide_characters_count_twice() -> None:
    assert [cell_width(text) for text in ("a", "名前", "é", "e\u0301", "ﾊ")] == [1, 4, 1, 1, 1]
    assert wrap("名前 名前 名前", 9) == "名前 名前\n名前"


@pytest.mark.parametrize(
    ("before", "expected"),
    [("select ", 7), ("\tx ", 6), ("'名前', ", 8), ("'e\u0301' ", 4), ("a\tb", 5), ("\x1b[31m", 5)],
)
def test_the_caret_is_below_the_position(before: str, expected: int) -> None:
    line, caret = format_excerpt(12, before, "emial from t", 80)
    assert line.startswith("   12 | ")
    assert line.endswith("emial from t")
    assert cell_width(line[: -len("emial from t")]) == caret.index("^") == expected + len("   12 | ")
    assert "\x1b" not in line


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize(("before", "after"), [(10, 990), (500, 500), (995, 5), (0, 1000)])
def test_a_long_line_is_cut_so_that_the_position_is_seen(width: int, before: int, after: int) -> None:
    line, caret = format_excerpt(3, "b" * before, "a" * after, width)
    assert max(len(line), len(caret)) <= width
    assert line[caret.index("^")] == "a"
    assert "..." in line


@pytest.mark.parametrize(
    ("name", "width", "lines"),
    [
        ("001_short", 20, ["001_short"]),
        ("001_add_email_to_users", 12, ["001_add_", "email_to_", "users"]),
        ("001_averylongwordwithout_end", 10, ["001_", "averylongw", "ordwithout", "_end"]),
    ],
)
def test_a_name_is_broken_behind_underscores(name: str, width: int, lines: list[str]) -> None:
    assert break_name(name, width).split("\n") == lines


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (40, "20261127T045323_index_orders_by_customer"),
        (26, "2026..._orders_by_customer"),
        (9, "2...tomer"),
        (3, "..."),
    ],
)
def test_the_middle_of_a_text_is_cut(width: int, shown: str) -> None:
    assert cut_middle("20261127T045323_index_orders_by_customer", width) == shown
