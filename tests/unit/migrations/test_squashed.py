"""Squash files: their header, and what a history says about them."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from pgratchet.errors import ConfigurationError, HistoryDisagrees
from pgratchet.migrations import squashed
from pgratchet.migrations.files import Migration
from pgratchet.migrations.plan import HistoryRow, make_plan, require_agreement

MOMENT = datetime(2026, 11, 27, tzinfo=timezone.utc)


def file(name: str, *replaced: Migration) -> Migration:
    replaces = squashed.parse_header(squashed.header(replaced))
    return Migration(name, int(name.partition("_")[0]), checksum(name), f"sql/{name}.sql", replaces=replaces)


def checksum(name: str) -> str:
    return name.encode().hex().ljust(64, "0")[:64]


def rows(*names: str) -> list[HistoryRow]:
    return [HistoryRow(name, checksum(name), MOMENT, 1) for name in names]


ONE, TWO, THREE, FOUR = (file(name) for name in ("1_a", "2_b", "3_c", "4_d"))
FIRST = file("2_squash", ONE, TWO)
SECOND = file("3_squash", FIRST, THREE)


def test_the_header_names_what_was_replaced_before() -> None:
    lines = squashed.header([FIRST, THREE]).decode().splitlines()
    assert [line.split()[2].partition("=")[2] for line in lines] == ["2_squash", "2_squash/1_a", "2_squash/2_b", "3_c"]
    assert squashed.parse_header("\n".join([*lines, "SELECT 1;"]).encode()) == SECOND.replaces
    assert squashed.parse_header(b"-- a comment\n" + squashed.header([ONE])) == ()


@pytest.mark.parametrize(
    ("files", "history", "state"),
    [
        ((FIRST, THREE), (), "pending"),
        ((FIRST, THREE), ("1_a", "2_b"), "applied"),
        ((FIRST, THREE), ("2_squash",), "applied"),
        ((FIRST, THREE), ("1_a",), "half-squashed"),
        ((FIRST, THREE), ("2_b",), "half-squashed"),
        ((FIRST, THREE), ("1_a", "2_b", "3_c"), "applied"),
        ((SECOND, FOUR), (), "pending"),
        ((SECOND, FOUR), ("1_a", "2_b", "3_c"), "applied"),
        ((SECOND, FOUR), ("2_squash", "3_c"), "applied"),
        ((SECOND, FOUR), ("3_squash",), "applied"),
        ((SECOND, FOUR), ("1_a", "2_b"), "half-squashed"),
        ((SECOND, FOUR), ("2_squash",), "half-squashed"),
        ((SECOND, FOUR), ("1_a", "3_c"), "half-squashed"),
    ],
)
def test_a_history_has_run_all_none_or_a_part(
    files: tuple[Migration, ...], history: tuple[str, ...], state: str
) -> None:
    plan = make_plan(files, rows(*history))
    assert plan.entries[0].state == state
    assert [entry.name for entry in plan.entries] == [each.name for each in files]
    if state == "pending":
        assert plan.todo == files
    elif state == "applied":
        require_agreement(plan, {})


def test_another_text_of_a_replaced_file_is_a_part() -> None:
    changed = [HistoryRow("1_a", "0" * 64, MOMENT, 1), *rows("2_b")]
    plan = make_plan([FIRST], changed)
    with pytest.raises(HistoryDisagrees) as caught:
        require_agreement(plan, {})
    assert "2_squash: replaces 2 migrations, and the database has run only a part" in caught.value.detail
    assert "Applied: 2_b. Not applied as they were squashed: 1_a." in caught.value.detail


def test_an_unfinished_replaced_file_is_a_part() -> None:
    unfinished = HistoryRow("2_b", checksum("2_b"), None, None, statements_done=1)
    assert make_plan([FIRST], [*rows("1_a"), unfinished]).entries[0].state == "half-squashed"


def test_a_replaced_file_is_named_with_its_squash() -> None:
    with pytest.raises(ConfigurationError, match="was squashed into 2_squash"):
        make_plan([FIRST, THREE], (), "1_a")
