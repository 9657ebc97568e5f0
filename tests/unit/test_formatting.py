"""Texts of others without anything that a terminal would obey."""

from __future__ import annotations

import pytest

from pgratchet.formatting import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünï😀 text", "plain ünï😀 text"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;a title\x07x", "x"),
        ("\x1b]8;;http://e.vil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPq#0;2\x1b\\x", "x"),
        ("\x1b(0x\x1bcy\x1b", "xy"),
        ("\x9b2Jx\x07\x08\x7f", "2Jx"),
        ("10 %\r20 %\r\n", "10 %\n20 %\n\n"),
        ("user\u202egnp.exe", "usergnp.exe"),
        ("\x1b[31", "31"),
    ],
)
def test_escape_sequences_and_control_characters_are_removed(text: str, shown: str) -> None:
    assert printable(text) == shown
