"""The plan as a truth table, and disagreements of files and history."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgratchet.errors import ConfigurationError, HistoryDisagrees, Location
from pgratchet.migrations.files import Migration, read
from pgratchet.migrations.plan import (
    DIGEST,
    HistoryRow,
    Plan,
    lacks_first_version,
    make_plan,
    require_agreement,
)
from tests.unit.migrations.helpers import file, row, stopped, write


@pytest.mark.parametrize(
    ("files", "history", "states", "todo"),
    [
        ([], [], {}, []),
        (["1_a", "2_b"], [], {"1_a": "pending", "2_b": "pending"}, ["1_a", "2_b"]),
        (["1_a", "2_b"], [row("1_a")], {"1_a": "applied", "2_b": "pending"}, ["2_b"]),
        (["1_a"], [row("1_a")], {"1_a": "applied"}, []),
        (["1_a"], [row("1_a", "other")], {"1_a": "changed"}, []),
        (["1_a"], [row("1_a", finished=False)], {"1_a": "unfinished"}, ["1_a"]),
        (["2_b"], [row("1_a"), row("2_b")], {"1_a": "missing", "2_b": "applied"}, []),
        (["1_a", "2_b"], [row("2_b")], {"1_a": "out-of-order", "2_b": "applied"}, ["1_a"]),
        (["2_b"], [row("1_a")], {"1_a": "missing", "2_b": "pending"}, ["2_b"]),
        ([], [row("hand-made")], {"hand-made": "missing"}, []),
        (["0_a", "1_b"], [], {"0_a": "pending", "1_b": "pending"}, ["0_a", "1_b"]),
        (["1_a"], [row("1_a", "b")], {"1_a": "changed"}, []),
        (["1_a"], [row("1_a", "d")], {"1_a": "changed"}, []),
        (["1_a"], [row("1_a", "other", finished=False)], {"1_a": "unfinished"}, ["1_a"]),
        (["1_a"], [stopped("1_a", 0)], {"1_a": "unfinished"}, ["1_a"]),
        ([], [stopped("1_a", 0)], {}, []),
        (["2_b"], [stopped("1_a", 0)], {"2_b": "pending"}, ["2_b"]),
        (["1_z"], [stopped("2_b", 0)], {"1_z": "pending"}, ["1_z"]),
        ([], [stopped("1_a", 1)], {"1_a": "missing"}, []),
        ([], [stopped("1_a", 0, 1)], {"1_a": "missing"}, []),
        ([], [row("1_a", finished=False)], {"1_a": "missing"}, []),
    ],
)
def test_plan_lists_states_and_pending_files(
    files: list[str], history: list[HistoryRow], states: dict[str, str], todo: list[str]
) -> None:
    plan = make_plan([file(name) for name in files], history)
    assert {entry.name: entry.state for entry in plan.entries} == states
    assert [m.name for m in plan.todo] == todo


@pytest.mark.parametrize(
    "to", ["2_b", "2_b.sql", "2", "002", "b", "b.sql", "sql/2_b.sql", "./2_b", "a\\\\2_b", " 2_b "]
)
def test_to_ends_the_plan_at_the_named_file(to: str) -> None:
    plan = make_plan([file("1_a"), file("2_b"), file("3_c")], [row("1_a")], to)
    assert [m.name for m in plan.todo] == ["2_b"]
    assert plan.names("pending") == ("2_b", "3_c")


def test_to_includes_every_pending_file_before_it() -> None:
    files = [file(name) for name in ("1_a", "2_b", "20250111093000_c", "20250111093001_d")]
    plan = make_plan(files, [row("1_a")], "20250111T093000")
    assert [m.name for m in plan.todo] == ["2_b", "20250111093000_c"]


def test_to_an_applied_file_leaves_nothing_to_do_and_names_what_is_behind_it() -> None:
    plan = make_plan([file("1_a"), file("2_b"), file("3_c")], [row("1_a"), stopped("2_b", 1)], "a")
    assert (plan.todo, plan.last, plan.pending_after) == ((), "1_a", ("2_b", "3_c"))


def test_to_a_title_of_several_files_is_refused() -> None:
    with pytest.raises(ConfigurationError, match='2 migrations are named "tags"') as caught:
        make_plan([file("1_tags"), file("2_b"), file("3_tags")], [], "tags")
    assert caught.value.detail == "They are: 1_tags, 3_tags."


@pytest.mark.parametrize(
    ("files", "to", "detail"),
    [
        (["1_a", "2_b"], "0099", "The newest migration is 2_b."),
        (["1_a", "2_b"], "20250111T093000", "The newest migration is 2_b."),
        (["1_a", "2_b"], "0", "The newest migration is 2_b."),
        ([], "1", "There is no migration."),
        (["1_tags", "2_b"], "tgs", "The most similar name is 1_tags."),
        (["1_a"], "", "No name is similar."),
        (["1_a"], "sql/", "No name is similar."),
    ],
)
def test_to_a_file_that_is_not_there_names_the_newest_or_the_most_similar(
    files: list[str], to: str, detail: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_plan([file(name) for name in files], [], to)
    assert (caught.value.message, caught.value.detail) == (f'no migration is named "{to}"', detail)


def test_to_an_unknown_file_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match='"2_bb"') as caught:
        make_plan([file("1_a"), file("2_b")], [], "2_bb")
    assert "2_b" in caught.value.detail


@given(st.lists(st.integers(1, 30), unique=True), st.sets(st.integers(1, 30)))
def test_a_plan_lists_every_name_once_and_never_an_applied_file_as_pending(
    versions: list[int], applied: set[int]
) -> None:
    files = [file(f"{v}_m") for v in sorted(versions)]
    plan = make_plan(files, [row(f"{v}_m") for v in sorted(applied)])
    assert {e.name for e in plan.entries} == {f"{v}_m" for v in {*versions, *applied}}
    assert len(plan.entries) == len({*versions, *applied})
    assert {m.version for m in plan.todo} == set(versions) - applied
    assert bool(plan.disagreements()) == (
        applied - set(versions) != set()
        or any(v < max(applied & set(versions), default=0) for v in set(versions) - applied)
    )


def test_every_disagreement_is_named_with_a_hint(tmp_path: Path) -> None:
    write(tmp_path, **{"1_a": "select 1;\n", "2_b": "select 2;\n", "4_d": "select 4;\n", "5_gone": "x"})
    files = read(tmp_path)
    by_name = {m.name: m for m in files}
    history = [
        row("1_a", "other"),
        row("3_gone", by_name["5_gone"].checksum[:1] + by_name["5_gone"].checksum[1:]),
        row("4_d", by_name["4_d"].checksum),
    ]
    with pytest.raises(HistoryDisagrees, match="3 migrations") as caught:
        require_agreement(make_plan(files, history), {"1_a": "select 0;\n"})
    detail = caught.value.detail
    assert "1_a: changed since it was applied at 2025-01-11 09:30:00Z." in detail
    assert "-select 0;\n+select 1;" in detail
    assert "2_b: not applied, but the newer 4_d is." in detail
    assert "3_gone: applied, but its file is gone. 5_gone has the same text: it looks renamed." in detail
    assert len(caught.value.hint.splitlines()) == 3
    assert caught.value.location == Location("1_a")


@pytest.mark.parametrize(("missing", "message"), [(1, "about 1 migration"), (2, "about 2 migrations")])
def test_disagreements_are_counted(missing: int, message: str) -> None:
    with pytest.raises(HistoryDisagrees) as caught:
        require_agreement(make_plan([], [row(f"{number}_gone") for number in range(missing)]), {})
    assert caught.value.message.endswith(message)


def test_a_long_difference_is_cut_and_a_text_that_is_not_recorded_is_left_out(tmp_path: Path) -> None:
    files = read(write(tmp_path, **{"1_a": "new\n" * 100}))
    plan = make_plan(files, [row("1_a", "other")])
    with pytest.raises(HistoryDisagrees) as caught:
        require_agreement(plan, {"1_a": "old\n" * 100})
    assert caught.value.detail.endswith("...")
    with pytest.raises(HistoryDisagrees) as caught:
        require_agreement(plan, {})
    assert "\n" not in caught.value.detail


def test_a_name_without_a_version_comes_first(tmp_path: Path) -> None:
    plan = make_plan([file("0_a")], [row("0_a"), row("hand-made")])
    assert [entry.name for entry in plan.entries] == ["hand-made", "0_a"]


@pytest.mark.parametrize(("added", "cut"), [(17, False), (18, True)])
def test_a_difference_of_twenty_lines_is_shown_whole(tmp_path: Path, added: int, *, cut: bool) -> None:
    """Three heading lines, and one line for each added line."""
    files = read(write(tmp_path, **{"1_a": "".join(f"{number}\n" for number in range(added))}))
    with pytest.raises(HistoryDisagrees) as caught:
        require_agreement(make_plan(files, [row("1_a", "other")]), {"1_a": ""})
    shown = caught.value.detail.splitlines()[1:]
    assert (shown[-1] == "...", len(shown)) == (cut, 21 if cut else 20)


def test_the_first_of_several_files_with_the_same_text_is_named(tmp_path: Path) -> None:
    files = read(write(tmp_path, **{"2_b": "select 1", "3_c": "select 1"}))
    with pytest.raises(HistoryDisagrees) as caught:
        require_agreement(make_plan(files, [row("1_a", files[0].checksum)]), {})
    assert "1_a: applied, but its file is gone. 2_b has the same text" in caught.value.detail


@pytest.mark.parametrize("checksum", ["0" * 64, "f" * 64])
def test_a_missing_file_with_a_unique_text_is_not_called_renamed(tmp_path: Path, checksum: str) -> None:
    files = read(write(tmp_path, **{"2_b": "select 1"}))
    with pytest.raises(HistoryDisagrees) as caught:
        require_agreement(make_plan(files, [row("1_a", checksum)]), {})
    assert caught.value.detail == "1_a: applied, but its file is gone."


@pytest.mark.parametrize(
    ("history", "body", "progress"),
    [
        (stopped("1_a", 1), "select 1; select 2; select 3", "unfinished (1 of 3 statements done)"),
        (stopped("1_a", 1), "select 1", "unfinished (1 of 1 statements done)"),
        (stopped("1_a", 1), None, "unfinished (1 statement done)"),
        (stopped("1_a", 2), f"{DIGEST}00", "unfinished (2 statements done)"),
        (
            stopped("1_a", 0, 1),
            "vacuum t",
            "unfinished (0 of 1 statements done, and statement 1 may have taken effect)",
        ),
        (row("1_a", finished=False), "commit", "unfinished"),
    ],
)
def test_an_unfinished_file_that_is_gone_is_not_called_applied(
    history: HistoryRow, body: str | None, progress: str
) -> None:
    plan = make_plan([], [history])
    assert plan.compared_names == ("1_a",)
    with pytest.raises(HistoryDisagrees) as caught:
        require_agreement(plan, {} if body is None else {"1_a": body})
    assert caught.value.detail == f"1_a: {progress}, and its file is gone."
    assert "it goes on behind the statements that are done" in caught.value.hint


def test_an_unfinished_file_with_another_name_is_called_renamed(tmp_path: Path) -> None:
    files = read(write(tmp_path, **{"2_b": "select 1"}))
    plan = make_plan(files, [stopped("1_a", 1, checksum=files[0].checksum)])
    with pytest.raises(HistoryDisagrees, match=r"its file is gone\. 2_b has the same text: it looks renamed"):
        require_agreement(plan, {})


def test_a_difference_is_shown_with_one_line_of_context(tmp_path: Path) -> None:
    files = read(write(tmp_path, **{"1_a": "1\n2\nnew\n4\n5\n"}))
    with pytest.raises(HistoryDisagrees) as caught:
        require_agreement(make_plan(files, [row("1_a", "other")]), {"1_a": "1\n2\nold\n4\n5\n"})
    assert caught.value.detail.splitlines()[1:] == [
        "--- applied",
        "+++ file",
        "@@ -2,3 +2,3 @@",
        " 2",
        "-old",
        "+new",
        " 4",
    ]


def test_agreement_raises_nothing() -> None:
    require_agreement(Plan(()), {})


@pytest.mark.parametrize(
    ("names", "lacks"),
    [([], True), (["2_a"], True), (["20250111T093000_a"], True), (["001_a", "2_b"], False), (["0_a"], False)],
)
def test_a_file_001_would_come_before_all_files(names: list[str], lacks: bool) -> None:
    assert (
        lacks_first_version([replace(file("1_x"), version=int(n.split("_")[0].replace("T", ""))) for n in names])
        == lacks
    )


def repeatable(name: str) -> Migration:
    return Migration(f"repeatable/{name}", -1, name, "")


def test_repeatables_run_behind_the_versioned_migrations_and_their_rows_are_not_missing() -> None:
    files = (file("1_a"), file("2_b"), repeatable("report"), repeatable("view"))
    plan = make_plan(files, [row("1_a"), row("repeatable/view@1", "view"), row("repeatable/gone@3", "gone")])
    assert [entry.name for entry in plan.entries] == ["1_a", "2_b"]
    assert [migration.name for migration in plan.todo] == ["2_b", "repeatable/report"]
    assert (plan.pending_count, plan.total) == (2, 4)
    assert plan.disagreements() == ()
    assert plan.repeatables.names("missing") == ("repeatable/gone",)


def test_run_up_to_a_migration_leaves_the_repeatables_for_later() -> None:
    files = (file("1_a"), file("2_b"), repeatable("view"))
    plan = make_plan(files, [], "1_a")
    assert [migration.name for migration in plan.todo] == ["1_a"]
    assert plan.pending_after == ("2_b", "repeatable/view")
    with pytest.raises(ConfigurationError, match="no migration is named"):
        make_plan(files, [], "repeatable/view")


def test_repeatables_do_not_hide_that_a_first_version_is_missing() -> None:
    assert lacks_first_version([file("2_b"), repeatable("view")])
    assert not lacks_first_version([file("1_a"), repeatable("view")])
