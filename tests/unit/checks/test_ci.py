"""Order of a branch's files compared with main, files of main from git, and findings of squawk."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from pgratchet.checks import ci
from pgratchet.errors import ConfigurationError
from pgratchet.migrations import files as migrations
from pgratchet.migrations.files import Migration
from tests.requirements import requires
from tests.support.git import commit, git

MAIN = {"1_a": "a", "3_c": "c"}


def files(texts: Mapping[str, str]) -> tuple[Migration, ...]:
    return migrations.from_contents((f"{name}.sql", text.encode()) for name, text in texts.items())


@pytest.mark.parametrize(
    ("mine", "theirs", "base", "new", "wrong"),
    [
        (MAIN, MAIN, MAIN, [], []),
        (MAIN | {"4_d": "d"}, MAIN, MAIN, ["4_d"], []),
        ({}, {}, {}, [], []),
        ({"1_a": "a"}, {}, {}, ["1_a"], []),
        # A late file: older than what main has, by now or since before.
        (MAIN | {"2_b": "b"}, MAIN, MAIN, ["2_b"], ["2_b: new, but not newer than main's 3_c"]),
        (MAIN | {"4_d": "d"}, MAIN | {"5_e": "e"}, MAIN, ["4_d"], ["4_d: new, but not newer than main's 5_e"]),
        (MAIN | {"4_d": "d"}, MAIN | {"4_e": "e"}, MAIN, ["4_d"], ["4_d: new, but not newer than main's 4_e"]),
        # A file that main has.
        (MAIN | {"3_c": "x"}, MAIN, MAIN, [], ["3_c: changed, and main has it"]),
        (MAIN | {"4_d": "x"}, MAIN | {"4_d": "d"}, MAIN, [], ["4_d: changed, and main has it"]),
        ({"1_a": "a"}, MAIN, MAIN, [], ["3_c: deleted, and main has it"]),
        ({"1_a": "a", "4_c": "c"}, MAIN, MAIN, ["4_c"], ["3_c: renamed to 4_c, and main has it"]),
        # What main did since this branch began is no doing of this branch.
        (MAIN, MAIN | {"4_d": "d"}, MAIN, [], []),
        (MAIN, {"1_a": "a"}, MAIN, [], []),
        (MAIN, MAIN | {"3_c": "x"}, MAIN, [], []),
        # Line ends and a byte order mark are no change.
        ({"1_a": "\ufeffa\r\n"}, {"1_a": "a\n"}, {"1_a": "a\n"}, [], []),
    ],
)
def test_files_of_a_branch_must_be_unchanged_or_newer_than_main(
    mine: dict[str, str], theirs: dict[str, str], base: dict[str, str], new: list[str], wrong: list[str]
) -> None:
    new_files, mistakes = ci.check_order(files(mine), files(theirs), files(base))
    assert new_files == new
    assert len(mistakes) == len(wrong)
    assert all(mistake.startswith(start) for mistake, start in zip(mistakes, wrong, strict=True))


@pytest.fixture
def sql(tmp_path: Path) -> Path:
    """A folder of migrations in a repository with a first commit on main."""
    folder = tmp_path / "repo" / "sql"
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main", "..")
    (folder / "1_a.sql").write_text("select 1;\n")
    (folder / "3 bad name.sql").write_text("")
    (folder / "notes.txt").write_text("")
    (folder / "sub").mkdir()
    (folder / "sub" / "9_z.sql").write_text("")
    commit(folder)
    return folder


def test_files_of_main_are_read_at_main_and_at_the_merge_base(sql: Path) -> None:
    git(sql, "checkout", "-q", "-b", "branch")
    (sql / "2_b.sql").write_text("select 2;\n")
    commit(sql)
    git(sql, "checkout", "-q", "main")
    (sql / "3_c.sql").write_bytes(b"select '\xc3\xbc';\r\n")
    commit(sql)
    git(sql, "checkout", "-q", "branch")
    for against in (None, "main"):
        branches = ci.compare_branches(sql, against)
        assert branches is not None
        assert [each.name for each in branches.theirs] == ["1_a", "3_c"]
        assert [each.name for each in branches.base] == ["1_a"]
        assert branches.theirs[0].checksum == migrations.from_contents([("1_a.sql", b"select 1;\n")])[0].checksum
        assert branches.main == "main"


def test_a_folder_that_main_lacks_has_no_files(sql: Path) -> None:
    other = sql.parent / "other"
    other.mkdir()
    branches = ci.compare_branches(other, "main")
    assert branches is not None
    assert (branches.theirs, branches.base) == ((), ())


def test_a_missing_main_is_named(sql: Path, tmp_path: Path) -> None:
    for name in ("nope", "--help", "HEAD:sql"):
        with pytest.raises(ConfigurationError) as caught:
            ci.compare_branches(sql, name)
        assert "fetch-depth" in caught.value.hint
    git(sql, "checkout", "-q", "--orphan", "alone")
    (sql / "2_b.sql").write_text("")  # else it would be the same commit, in the same second
    commit(sql)
    with pytest.raises(ConfigurationError) as caught:
        ci.compare_branches(sql, "main")
    assert "no commit in common" in caught.value.detail
    bare = tmp_path / "bare"
    bare.mkdir()
    assert ci.compare_branches(bare, None) is None, "no repository"


@requires("squawk")
def test_a_finding_of_squawk_has_its_location(tmp_path: Path) -> None:
    texts = {
        "1_table": "create table t (id bigint generated always as identity primary key);",
        "2_index": "-- migrate: no-transaction\ncreate index concurrently i on t (id);",
        "3_column": "select 1;\nalter table t add column y bigint not null;",
        "4_known": "-- squawk-ignore adding-required-field\nalter table t add column y bigint not null;",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.sql").write_text(text)
    (finding,) = ci.lint(migrations.read(tmp_path))
    assert finding.startswith(f"{tmp_path}/3_column.sql:2:")
    assert ": adding-required-field: " in finding
    assert ci.lint(()) == []


@requires("squawk")
def test_the_teams_own_exclusions_hold_beside_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "1_column.sql").write_text("alter table t add column y bigint not null;")
    monkeypatch.chdir(tmp_path)
    assert len(ci.lint(migrations.read(tmp_path))) == 1
    (tmp_path / ".squawk.toml").write_text('excluded_rules = ["adding-required-field"]\n')
    assert ci.lint(migrations.read(tmp_path)) == []


def test_missing_squawk_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError) as caught:
        ci.lint(())
    assert "pip install" in caught.value.hint
