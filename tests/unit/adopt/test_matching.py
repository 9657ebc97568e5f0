"""Matching files with rows of another tool, and converting its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pgratchet.adopt.conversion import converted_file
from pgratchet.adopt.matching import Ours, match_rows, our_names, state_of
from pgratchet.adopt.tools.tool import ToolMigration, ToolRow
from pgratchet.errors import ConfigurationError
from pgratchet.migrations import files as migrations
from pgratchet.migrations import scripts
from tests.unit.adopt.helpers import SQL, file, states, write

APPLIED, UNDONE, FAILED = ToolRow(("1",)), ToolRow(("1",), "undone"), ToolRow(("1",), "failed")


@pytest.mark.parametrize(
    ("row", "checksums", "late", "state"),
    [
        (None, "", False, "pending"),
        (None, "", True, "skipped"),
        (APPLIED, "", False, "claimed"),
        (APPLIED, "", True, "claimed"),
        (APPLIED, "a", False, "claimed"),
        (ToolRow(("1",), checksum="a"), "", False, "claimed"),
        (ToolRow(("1",), checksum="a"), "ab", True, "verified"),
        (ToolRow(("1",), checksum="c"), "ab", False, "changed"),
        (UNDONE, "", False, "rolled back"),
        (UNDONE, "", True, "skipped"),
        (FAILED, "", False, "failed"),
        (FAILED, "", True, "failed"),
    ],
)
def test_state_of_a_file_follows_from_its_row_and_checksum(
    row: ToolRow | None, checksums: str, late: bool, state: str
) -> None:
    assert state_of(file("1", checksums=frozenset(checksums)), row, late=late) == state


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], ["pending", "pending", "pending"]),
        (["1"], ["claimed", "pending", "pending"]),
        (["1", "2", "3"], ["claimed", "claimed", "claimed"]),
        (["1", "3"], ["claimed", "skipped", "claimed"]),
        (["3"], ["skipped", "skipped", "claimed"]),
        (["1", "9"], ["claimed", "pending", "pending", "no file"]),
    ],
)
def test_files_and_rows_are_matched_one_to_one(rows: list[str], expected: list[str]) -> None:
    files = [file("1"), file("2"), file("3")]
    assert [state for _, state in states(files, [ToolRow((key,)) for key in rows])] == expected


def test_a_row_matches_by_its_most_specific_key_and_a_file_matches_one_row() -> None:
    files = [file("1", keys=("a", "same")), file("2", keys=("b", "same"))]
    assert [state for _, state in states(files, [ToolRow(("b", "same")), ToolRow(("x", "same"))])] == [
        "claimed",
        "claimed",
    ]


def test_an_undone_row_needs_no_file_and_a_failed_row_is_shown() -> None:
    assert states([], [UNDONE]) == []
    assert states([], [FAILED]) == [(None, "failed")]


def test_repeatable_files_follow_the_applied_files() -> None:
    files = [file("1"), file("2"), file("", keys=("r",), unordered=True), file("", keys=("s",), unordered=True)]
    result = states(files, [ToolRow(("1",)), ToolRow(("r",))])
    assert [name for name, _ in result] == ["0001_x", "0002_x", "0003_x", "0004_x"]
    assert [state for _, state in result] == ["claimed", "claimed", "pending", "pending"]


@pytest.mark.parametrize(
    ("versions", "names"),
    [
        (["1", "2"], ["1_x", "2_x"]),
        (["0000", "0001"], ["0000_x", "0001_x"]),
        (["20240101000000", "20240101000001"], ["20240101000000_x", "20240101000001_x"]),
        (["10", "9"], ["0001_x", "0002_x"]),
        (["1", "01"], ["0001_x", "0002_x"]),
        (["1", ""], ["0001_x", "0002_x"]),
        (["1", "2.1"], ["0001_x", "0002_x"]),
    ],
)
def test_names_keep_ascending_versions_and_are_numbered_otherwise(versions: list[str], names: list[str]) -> None:
    found_names, notes = our_names([file(version) for version in versions], "tool")
    assert found_names == names
    assert bool(notes) == (names[0] == "0001_x")


@pytest.mark.parametrize(("title", "name"), [("a b/c", "1_a_b_c"), ("é", "1_migration"), ("x" * 300, "1_" + "x" * 120)])
def test_names_are_valid_migration_names(title: str, name: str) -> None:
    assert our_names([file("1", title=title)], "tool")[0] == [name]


def text_of(migration: ToolMigration, rows: Sequence[ToolRow] = ()) -> str:
    (item,), _ = match_rows("tool", [migration], rows)
    assert item.file
    return item.file.body.decode()


def test_no_transaction_is_declared_and_other_languages_get_a_placeholder() -> None:
    assert text_of(file("1", transactional=False)) == f"-- migrate: no-transaction\n{SQL}"
    assert text_of(file("1", up="", obstacle="It is Go.")).startswith(
        "-- migrate: stand-in\n-- Stands for 1_x of tool, which cannot run here. It is Go.\n"
    )
    (item,), _ = match_rows("tool", [file("1", up="")], [])
    assert item.file
    assert scripts.prepare_scripts([item.file])


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"up": "", "obstacle": "It is Go, not SQL."}, "It is Go, not SQL."),
        ({"up": "begin; select 1; rollback;"}, "BEGIN in a migration"),
        ({"up": "vacuum"}, "VACUUM cannot run inside a transaction"),
        ({"up": "\\i other.sql"}, "psql meta-command"),
        ({"up": "select '"}, "unterminated"),
        ({"up": "select '\0'"}, "NUL"),
    ],
)
def test_a_file_that_cannot_run_is_refused_if_pending_and_remarked_if_applied(
    fields: dict[str, str], says: str
) -> None:
    (item,), _ = match_rows("tool", [file("1", **fields)], [])
    assert item.state == "cannot run"
    assert says in " ".join(item.remarks)
    (item,), _ = match_rows("tool", [file("1", **fields)], [APPLIED])
    assert item.state == "claimed"
    assert says in " ".join(item.remarks)


def test_an_existing_file_replaces_a_migration_in_another_language(tmp_path: Path) -> None:
    ours = migrations.read(write(tmp_path, **{"1_x.sql": "select 1;"}))
    (item,), _ = match_rows(
        "tool", [file("1", up="", obstacle="It is Go.")], [], Ours({each.name: each for each in ours})
    )
    assert item.state == "pending"
    assert item.file
    assert item.file.body == b"select 1;"
    assert item.file.checksum == ours[0].checksum


def test_a_placeholder_file_does_not_make_a_migration_runnable(tmp_path: Path) -> None:
    migration = file("1", up="", obstacle="It is Go.")
    (applied,), _ = match_rows("tool", [migration], [APPLIED])
    assert applied.file
    ours = migrations.read(write(tmp_path, **{"1_x.sql": applied.file.body.decode()}))
    for rows, state in (([APPLIED], "claimed"), ([UNDONE], "cannot run"), ([], "cannot run")):
        (item,), _ = match_rows("tool", [migration], rows, Ours({each.name: each for each in ours}))
        assert item.state == state
        assert "It is Go." in item.remarks


def test_a_stand_in_of_an_earlier_version_does_not_run() -> None:
    old = converted_file("1_x", b"-- Stands for 1_x of tool, which has no SQL that could be taken over.\n")
    with pytest.raises(ConfigurationError, match="cannot be run") as caught:
        scripts.prepare_scripts([old])
    assert "a stand-in for an adopted migration" in caught.value.detail


def test_a_key_shared_by_files_matches_none_of_them() -> None:
    files = [file("1", keys=("same",)), file("2", keys=("same",))]
    assert [state for _, state in states(files, [ToolRow(("same",))])] == ["pending", "pending", "no file"]
    assert [state for _, state in states([file("1", keys=("same", "same"))], [ToolRow(("same",))])] == ["claimed"]


def test_on_another_database_every_file_is_pending_and_its_state_is_remarked() -> None:
    items, notes = match_rows("tool", [file("1"), file("2")], [APPLIED, ToolRow(("9",))], elsewhere=True)
    assert [(item.state, item.remarks) for item in items] == [
        ("pending", ("There it is claimed.",)),
        ("pending", ("There it was not run.",)),
    ]
    assert notes == ("9 has a row there, and no file.",)


# The pages of the tools.
