"""What all tools have in common: how they are told apart, their locks, their order and their texts."""

from __future__ import annotations

import zlib

import pytest

from pgratchet.adopt.tools import (
    ALL,
)
from pgratchet.adopt.tools.tool import HistoryTable, by_dependence, closed, without_frame
from tests.other_tools.handwritten import SAMPLES


def test_every_tool_is_there_once_and_told_from_the_others() -> None:
    assert {tool.name for tool in ALL} == set(SAMPLES)
    assert len(ALL) == len(SAMPLES)
    same = [tool for tool in ALL if tool.table == "schema_migrations"]
    assert [tool.name for tool in same if tool.columns <= {"version"} and not tool.without & {"version"}] == ["dbmate"]
    both = {"version", "dirty"}
    assert [tool.name for tool in same if tool.columns <= both and not tool.without & both] == ["golang-migrate"]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("BEGIN;\nselect 1;\nCOMMIT;\n", "select 1;\n\n"),
        ("-- why\nbegin transaction;select 1;end", "-- why\nselect 1;"),
        ("begin isolation level serializable; select 1; commit;", None),
        ("begin; select 1; commit; select 2;", None),
        ("select 1;", None),
        ("select '", None),
    ],
)
def test_the_transaction_around_a_text_is_taken_off(text: str, left: str | None) -> None:
    assert without_frame(text) == (text if left is None else left)


def test_pieces_are_closed_and_order_is_by_dependence() -> None:
    assert [closed(text) for text in ("a", "a;", "a; -- b", " ", "a;\n")] == ["a\n;", "a;", "a; -- b\n;", "", "a;"]
    assert by_dependence("abc", {"a": "c", "b": "", "c": "b"}) == ["b", "c", "a"]
    assert sorted(by_dependence("ab", {"a": "b", "b": "a"})) == ["a", "b"]
    many = [str(number) for number in range(5_000)]
    assert by_dependence(reversed(many), {one: (str(int(one) - 1),) for one in many}) == many


def test_the_locks_of_the_tools_are_what_they_take() -> None:
    table = HistoryTable("db", "public", "t")
    keys = {tool.name: tool.lock(table) for tool in ALL if tool.lock}
    assert keys["goose"] == 4097083626
    assert keys["golang-migrate"] == zlib.crc32(b"public\0t\0db") * 1486364155 % (1 << 32)
    text = '"public"."t"'
    hashed = sum(ord(c) * 31 ** (len(text) - 1 - i) for i, c in enumerate(text)) % (1 << 32)
    assert keys["flyway"] == int.from_bytes(b"Flyway", "big") + (hashed - (1 << 32) if hashed >= 1 << 31 else hashed)
    assert all(-(1 << 63) <= key < 1 << 63 for key in keys.values())
