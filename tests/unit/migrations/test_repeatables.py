from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path

import pytest

from pgratchet.errors import ConfigurationError
from pgratchet.migrations import files, other_files, repeatables
from pgratchet.migrations.files import Migration
from pgratchet.migrations.plan import HistoryRow, make_plan
from pgratchet.migrations.scripts import files_up_to, prepare_plan

NOW = datetime(2026, 1, 2, tzinfo=timezone.utc)


def repeatable(name: str, checksum: str) -> Migration:
    return Migration(f"repeatable/{name}", -1, checksum, f"sql/repeatable/{name}.sql")


def ran(name: str, checksum: str, *, finished: bool = True) -> HistoryRow:
    return HistoryRow(name, checksum, NOW if finished else None, 1)


def put(folder: Path, **texts: str) -> None:
    """Write files with the suffix .sql; two underscores in a name stand for a slash."""
    for name, text in texts.items():
        path = folder / f"{name.replace('__', '/')}.sql"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("rows", "state", "runs"),
    [
        ([], "new", 0),
        ([ran("repeatable/v@1", "a")], "up to date", 1),
        ([ran("repeatable/v@1", "b")], "changed", 1),
        ([ran("repeatable/v@1", "a"), ran("repeatable/v@2", "b")], "changed", 2),
        ([ran("repeatable/v@10", "a"), ran("repeatable/v@9", "b")], "up to date", 10),
        ([ran("repeatable/v@1", "a", finished=False)], "changed", 1),
        ([ran("repeatable/w@1", "a"), ran("0001_v", "a"), ran("repeatable/v", "a")], "new", 0),
    ],
)
def test_newest_row_of_a_repeatable_makes_its_state(rows: list[HistoryRow], state: str, runs: int) -> None:
    plan = repeatables.plan([repeatable("v", "a"), Migration("0001_v", 1, "a", "")], rows)
    entry = next(entry for entry in plan.entries if entry.name == "repeatable/v")
    assert (entry.state, entry.runs) == (state, runs)
    assert entry.next_row == f"repeatable/v@{runs + 1}"
    assert [file.name for file in plan.todo] == ([] if state == "up to date" else ["repeatable/v"])


def test_deleted_file_is_missing_and_not_run() -> None:
    plan = repeatables.plan([], [ran("repeatable/v@1", "a"), ran("repeatable/v@2", "b"), ran("0001_a", "a")])
    (entry,) = plan.entries
    assert (entry.name, entry.state, entry.runs, entry.row) == (
        "repeatable/v",
        "missing",
        2,
        ran("repeatable/v@2", "b"),
    )
    assert plan.todo == ()
    assert plan.names("missing") == ("repeatable/v",)


@pytest.mark.parametrize(
    ("name", "is_row"),
    [
        ("repeatable/v@1", True),
        ("repeatable/a.b-c@12", True),
        ("repeatable/v", False),
        ("repeatable/v@0", False),
        ("repeatable/v@01", False),
        ("0001_v", False),
        ("0001_v@1", False),
        ("repeatable/@1", False),
    ],
)
def test_names_of_rows_are_recognised(name: str, is_row: bool) -> None:
    assert repeatables.is_repeatable_row(name) is is_row
    if is_row:
        assert repeatables.row_name(*repeatables.parse_row_name(name)) == name


def test_repeatables_are_read_by_name_behind_the_versioned_files(tmp_path: Path) -> None:
    put(tmp_path, **{"0002_b": "select 2;", "0001_a": "select 1;", "repeatable__b": "b", "repeatable__a.x": "a"})
    read = files.read(tmp_path)
    assert [file.name for file in read] == ["0001_a", "0002_b", "repeatable/a.x", "repeatable/b"]
    assert [file.is_repeatable for file in read] == [False, False, True, True]
    assert read[2:] == repeatables.read(tmp_path)
    assert read[2].text() == b"a"


def test_folder_without_repeatables_has_none(tmp_path: Path) -> None:
    assert repeatables.read(tmp_path) == ()
    assert files.read(tmp_path) == ()


def test_mistakes_of_versioned_and_repeatable_files_come_in_one_error(tmp_path: Path) -> None:
    put(tmp_path, b="", repeatable__fine="", repeatable__0002_x="")
    (tmp_path / "repeatable" / "latin.sql").write_bytes(b"-- caf\xe9")
    with pytest.raises(ConfigurationError) as raised:
        files.read(tmp_path)
    paths = [line.partition(": ")[0] for line in raised.value.detail.splitlines()]
    assert paths == [f"{tmp_path}/{name}.sql" for name in ("b", "repeatable/0002_x", "repeatable/latin")]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("V1__x.sql", "rename it to x.sql"),
        ("v1.2__x.sql", "rename it to x.sql"),
        ("0001_x.sql", "rename it to x.sql"),
        ("20250111T093000_x.sql", "rename it to x.sql"),
        ("x.down.sql", "a down migration"),
        ("a b.sql", "Rename it to a_b.sql"),
        ("größe.sql", "Rename it to grosse.sql"),
        ("x@1.sql", "Rename it to x_1.sql"),
        ("x\n.sql", "Rename it to x.sql"),
        ("x.SQL", "Rename it to x.sql"),
        ("x.sql ", "Rename it to x.sql"),
        ("-x.sql", "Rename it to x.sql"),
        ("日本.sql", "Rename it to view.sql"),
        ("a" * 97 + ".sql", "the name has 101 characters"),
        ("x.sql.txt", "does not end in .sql"),
    ],
)
def test_wrong_names_are_refused_with_a_right_one(name: str, advice: str, tmp_path: Path) -> None:
    (tmp_path / "repeatable").mkdir()
    (tmp_path / "repeatable" / name).write_text("select 1;")
    with pytest.raises(ConfigurationError, match=re.escape(advice)):
        files.read(tmp_path)


@pytest.mark.parametrize("name", ["v", "customer_report", "v2_customers", "R__x", "a.b-c", "_x", "a" * 96])
def test_other_names_are_accepted(name: str, tmp_path: Path) -> None:
    (tmp_path / "repeatable").mkdir()
    (tmp_path / "repeatable" / f"{name}.sql").write_text("select 1;")
    assert [file.name for file in files.read(tmp_path)] == [f"repeatable/{name}"]


def test_names_that_differ_only_in_case_are_refused(tmp_path: Path) -> None:
    put(tmp_path, repeatable__a="", repeatable__A="")
    if len(list((tmp_path / "repeatable").iterdir())) < 2:
        pytest.skip("this file system does not distinguish case")
    with pytest.raises(ConfigurationError, match="differ only in case"):
        files.read(tmp_path)


def test_sub_folder_with_sql_is_refused(tmp_path: Path) -> None:
    put(tmp_path, repeatable__views__a="")
    with pytest.raises(ConfigurationError, match=r"sub-folders are not read, and it holds a\.sql"):
        files.read(tmp_path)


@pytest.mark.parametrize("folder", ["Repeatable", "repeatables"])
def test_folder_with_a_similar_name_is_refused(folder: str, tmp_path: Path) -> None:
    put(tmp_path, **{f"{folder}__a": ""})
    with pytest.raises(ConfigurationError, match="Rename the folder to repeatable"):
        files.read(tmp_path)


def test_repeatable_of_flyway_gets_advice_to_move(tmp_path: Path) -> None:
    (tmp_path / "R__my view.sql").write_text("")
    with pytest.raises(ConfigurationError, match=r"Move it to repeatable/my_view\.sql"):
        files.read(tmp_path)


def test_entries_that_are_not_read_are_named_except_those_with_a_meaning(tmp_path: Path) -> None:
    put(tmp_path, schema="", repeatable__v="")
    (tmp_path / "repeatable" / "x.py").touch()
    (tmp_path / "repeatable" / ".hidden.sql").touch()
    (tmp_path / "repeatable" / "README.md").touch()
    assert [file.name for file in files.read(tmp_path)] == ["repeatable/v"]
    assert other_files.named_entries(tmp_path) == ("repeatable/x.py",)


def test_folder_that_cannot_be_read_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, repeatable__v="")

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("pgratchet.migrations.repeatables.os.scandir", refuse)
    with pytest.raises(ConfigurationError, match=r"repeatable: cannot be read: Permission denied\."):
        repeatables.read(tmp_path)


def names_in_order(folder: Path, to: str | None = None) -> list[str]:
    return [script.name for script in prepare_plan(make_plan(files.read(folder), [], to))]


def test_required_repeatables_run_before_the_first_file_that_names_them(tmp_path: Path) -> None:
    put(
        tmp_path,
        repeatable__a="select 1",
        repeatable__b="select 1",
        repeatable__c="select 1",
        **{"1_x": "select 1", "2_y": "-- migrate: after=repeatable/c.sql\n-- migrate: after=repeatable/a\nselect 1"},
        **{"3_z": "-- migrate: after=repeatable/c\nselect 1"},
    )
    required = ["repeatable/a", "repeatable/c"]
    assert names_in_order(tmp_path) == ["1_x", *required, "2_y", "3_z", "repeatable/b"]
    assert names_in_order(tmp_path, "1_x") == ["1_x"]
    assert names_in_order(tmp_path, "2_y") == ["1_x", *required, "2_y"]
    assert [file.name for file in files_up_to(files.read(tmp_path), "2")] == ["1_x", *required, "2_y"]


def test_repeatables_that_are_up_to_date_are_not_run_for_a_file_that_requires_them(tmp_path: Path) -> None:
    put(tmp_path, repeatable__a="select 1", **{"1_x": "-- migrate: after=repeatable/a\nselect 1"})
    read = files.read(tmp_path)
    plan = make_plan(read, [ran("repeatable/a@1", read[1].checksum)])
    assert [script.name for script in prepare_plan(plan)] == ["1_x"]


def test_mistakes_in_a_repeatable_do_not_stop_a_run_that_does_not_need_it(tmp_path: Path) -> None:
    put(tmp_path, repeatable__a="vacuum", **{"1_x": "select 1"})
    assert names_in_order(tmp_path, "1_x") == ["1_x"]
    with pytest.raises(ConfigurationError, match="VACUUM cannot run inside a transaction, as repeatables do"):
        names_in_order(tmp_path)


def test_required_repeatable_runs_again_behind_a_file_that_may_drop_it(tmp_path: Path) -> None:
    """As on a new database, where files run at once that were written over months."""
    put(
        tmp_path,
        repeatable__f="create function f() returns int language sql as 'select 1'",
        **{"1_x": "-- migrate: after=repeatable/f\nselect 1", "2_y": "drop table t", "3_z": "drop function f"},
    )
    assert names_in_order(tmp_path) == ["repeatable/f", "1_x", "2_y", "3_z", "repeatable/f"]
    put(tmp_path, **{"4_u": "-- migrate: after=repeatable/f\nselect 1"})
    assert names_in_order(tmp_path) == ["repeatable/f", "1_x", "2_y", "3_z", "repeatable/f", "4_u"]
    assert names_in_order(tmp_path, "2_y") == ["repeatable/f", "1_x", "2_y"]
