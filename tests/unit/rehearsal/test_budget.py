"""The limits of the inventory, and what exceeds them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgratchet.errors import ConfigurationError
from pgratchet.rehearsal.budget import find_excesses, parse_budget
from tests.unit.rehearsal.samples import REPORT


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("blocks_reads", "500ms", 500),
        ("blocks_writes", "2s", 2000),
        ("blocks_writes", "1.5 s", 1500),
        ("total", "10min", 600_000),
        ("total", "1h", 3_600_000),
        ("rewrite", "1GB", 10**9),
        ("rewrite", "20 kB", 20_000),
    ],
)
def test_values_have_units(name: str, text: str, value: int) -> None:
    assert parse_budget({name: text}) == {name: value}


@pytest.mark.parametrize(
    ("name", "text"),
    [("blocks_reads", "500"), ("blocks_reads", "1GB"), ("rewrite", "1s"), ("total", ""), ("totals", "1s")],
)
def test_a_wrong_limit_is_named(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}|{text}"):
        parse_budget({name: text})


def test_each_table_is_named_once_for_each_limit_with_both_lines() -> None:
    excesses = find_excesses(REPORT, {"blocks_reads": 1000, "blocks_writes": 900, "rewrite": 10**7, "total": 1000})
    assert [(each.limit, each.relation) for each in excesses] == [
        ("blocks_reads", "public.users"),
        ("blocks_writes", "public.users"),
        ("blocks_writes", "public.events"),
        ("rewrite", "public.events"),
        ("total", ""),
    ]
    assert excesses[0].describe() == (
        "Reads and writes of public.users wait 7.8 s, and the limit is 1.0 s: locked at 002_release:1, and "
        "002_release:3 takes the time."
    )
    assert excesses[3].describe().startswith("public.events is rewritten at 002_release:5: 60.0 MB, and the limit is")
    assert excesses[4].describe() == "The migrations took 7.6 s, and the limit is 1.0 s."


def test_what_is_equal_to_a_limit_is_within_it() -> None:
    assert find_excesses(REPORT, {"total": 7600, "rewrite": 60_000_000}) == []
    assert find_excesses(replace(REPORT, stops=()), {"blocks_reads": 0}) == []
