"""What all tools have in common: recognition, locks, order and texts."""

from __future__ import annotations

import zlib

import pytest

from pgratchet.adopt import source
from pgratchet.adopt.tools.registry import TOOLS
from pgratchet.adopt.tools.tool import HistoryTable, sort_by_dependency, with_semicolon
from tests.other_tools import OTHER_TOOLS, OtherTool
from tests.other_tools.handwritten import SAMPLES


def test_every_tool_is_registered_once_and_recognised_by_its_table() -> None:
    assert {tool.name for tool in TOOLS} == set(SAMPLES)
    assert len(TOOLS) == len(SAMPLES)
    same = [tool for tool in TOOLS if tool.table == "schema_migrations"]
    assert [tool.name for tool in same if tool.columns <= {"version"} and not tool.excluded_columns & {"version"}] == [
        "dbmate"
    ]
    both = {"version", "dirty"}
    assert [tool.name for tool in same if tool.columns <= both and not tool.excluded_columns & both] == [
        "golang-migrate"
    ]


def test_statements_get_a_semicolon_and_names_are_sorted_by_dependency() -> None:
    assert [with_semicolon(text) for text in ("a", "a;", "a; -- b", " ", "a;\n")] == [
        "a\n;",
        "a;",
        "a; -- b\n;",
        "",
        "a;",
    ]
    assert sort_by_dependency("abc", {"a": "c", "b": "", "c": "b"}) == ["b", "c", "a"]
    assert sorted(sort_by_dependency("ab", {"a": "b", "b": "a"})) == ["a", "b"]
    many = [str(number) for number in range(5_000)]
    assert sort_by_dependency(reversed(many), {one: (str(int(one) - 1),) for one in many}) == many


def test_lock_keys_are_those_that_the_tools_take() -> None:
    table = HistoryTable("db", "public", "t")
    keys = {tool.name: tool.lock_key(table) for tool in TOOLS if tool.lock_key}
    assert keys["goose"] == 4097083626
    assert keys["golang-migrate"] == zlib.crc32(b"public\0t\0db") * 1486364155 % (1 << 32)
    text = '"public"."t"'
    hashed = sum(ord(c) * 31 ** (len(text) - 1 - i) for i, c in enumerate(text)) % (1 << 32)
    assert keys["flyway"] == int.from_bytes(b"Flyway", "big") + (hashed - (1 << 32) if hashed >= 1 << 31 else hashed)
    assert all(-(1 << 63) <= key < 1 << 63 for key in keys.values())


@pytest.mark.parametrize("other", OTHER_TOOLS, ids=lambda other: other.label)
def test_every_table_that_the_real_tool_creates_is_known_as_its_own(other: OtherTool) -> None:
    tool = source.tool_named(other.name)
    created = {table.rpartition(".")[2] for table in other.history}
    assert created <= {tool.table, tool.lock_table, *tool.other_tables}
