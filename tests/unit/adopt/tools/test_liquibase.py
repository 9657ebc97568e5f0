"""Liquibase: changesets and rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgratchet.adopt.matching import pair_rows
from pgratchet.adopt.tools import (
    liquibase,
)
from tests.unit.adopt.helpers import SQL, states, ups, write


@pytest.mark.parametrize(
    ("place", "folder"),
    [
        ("a/001.sql", "a"),
        ("classpath:db/changelog/b/001.sql", "b"),
        ("/b/001.sql", "b"),
        ("001.sql", None),
        ("c/001.sql", None),
        ("xa/001.sql", None),
    ],
)
def test_liquibase_paths_match_with_another_prefix_but_are_not_guessed(
    tmp_path: Path, place: str, folder: str | None
) -> None:
    text = "--liquibase formatted sql\n--changeset nene:1\nselect 1;\n"
    files = liquibase.files(write(tmp_path, **{"a/001.sql": text, "b/001.sql": text}))
    raw = {"id": "1", "author": "nene", "filename": place, "dateexecuted": "d", "orderexecuted": 1, "exectype": "RERAN"}
    pairs, orphans = pair_rows(files, liquibase.rows([raw], ()))
    assert [file.name[0] for file, row in pairs if row] == ([folder] if folder else [])
    assert bool(orphans) == (folder is None)


def test_liquibase_changesets_and_rows_are_read(tmp_path: Path) -> None:
    text = (
        "--liquibase formatted sql\n\n--changeset nene:1 runInTransaction:false\nselect 1;\n--rollback drop table t;\n"
        '--changeset "ne ne":"two" dbms:!oracle\n--comment: what\nselect 2;\n/* liquibase rollback\nselect 3;\n*/\n'
        "--\ncomment on table t is 'x';\n--\nrollback;\n"
        "--changeset nene:3 dbms:mysql,h2\nselect 4;\n--changeset nene:4 ignore:true\nselect 5;\n"
        "--changeset nene:5 endDelimiter:/\nselect 6;\n--changeset nene:6\n--preconditions onFail:HALT\nselect 7;\n"
    )
    write(tmp_path, **{"changes/001.sql": text, "plain.sql": SQL})
    one, two, three, four, five, six = liquibase.files(tmp_path)
    assert [each.never for each in (three, four)] == [
        "It is for other databases: dbms=mysql,h2.",
        "It has ignore=true.",
    ]
    assert (five.obstacle, six.guard) == (
        "Its statements end with /.",
        "It has preconditions, which are not adopted.",
    )
    assert two.keys[0] == "two ne ne changes/001.sql"
    assert ups([one, two]) == [
        ("1", "select 1;", False),
        ("", "select 2; -- comment on table t is 'x'; -- rollback;", True),
    ]
    raw = {"id": "1", "author": "nene", "filename": "classpath:db/changes/001.sql", "dateexecuted": "d"}
    for kind, state in (
        ("EXECUTED", "claimed"),
        ("MARK_RAN", "claimed"),
        ("FAILED", "failed"),
        ("SKIPPED", "rolled back"),
    ):
        rows = liquibase.rows([{**raw, "orderexecuted": 1, "exectype": kind}], ())
        assert states([one], rows) == [("1_001_1", state)], kind


def test_liquibase_quoted_author_and_id_are_read_without_quotes(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text('--liquibase formatted sql\n--changeset "a mover": "the first"\nSELECT 1;\n')
    (changeset,) = liquibase.files(tmp_path)
    assert changeset.keys[0] == "the first a mover a.sql"


@pytest.mark.parametrize(
    ("folder", "row", "applied"),
    [
        ("", "v2/init.sql", "v2"),
        ("", "classpath:db/changelog/v2/init.sql", "v2"),
        ("db/changelog", "v2/init.sql", "v2"),
        ("", "v3/init.sql", ""),
        ("", "db/init.sql", ""),
    ],
)
def test_liquibase_files_of_the_same_name_are_distinguished_by_folder(
    tmp_path: Path, folder: str, row: str, applied: str
) -> None:
    for version in ("v1", "v2"):
        path = tmp_path / folder / version / "init.sql"
        path.parent.mkdir(parents=True)
        path.write_text("--liquibase formatted sql\n--changeset a:1\nSELECT 1;\n")
    raw = {"id": "1", "author": "a", "filename": row, "exectype": "EXECUTED", "dateexecuted": None, "orderexecuted": 1}
    pairs, _ = pair_rows(liquibase.files(tmp_path), liquibase.rows([raw], ()))
    assert [Path(file.name.split(":")[0]).parts[-2] for file, matched_row in pairs if matched_row] == [applied] * bool(
        applied
    )


@pytest.mark.parametrize(
    ("dbms", "runs"),
    [
        ("postgresql", True),
        ("h2,PostgreSQL", True),
        ("!mysql", True),
        ("all", True),
        ("mysql", False),
        ("!postgresql", False),
    ],
)
def test_a_changeset_for_another_database_is_left_out(tmp_path: Path, dbms: str, runs: bool) -> None:
    (tmp_path / "a.sql").write_text(f"--liquibase formatted sql\n--changeset a:1 dbms:{dbms}\nSELECT 1;\n")
    (changeset,) = liquibase.files(tmp_path)
    assert bool(changeset.never) != runs


def test_lines_that_liquibase_ignores_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text(
        "--liquibase formatted sql\n--changeset a:1\nSELECT 1;\n"
        "--ignoreLines:start\n--changeset a:2\nSELECT 2;\n--ignoreLines:end\nSELECT 3;\n"
        "--ignoreLines:1\nSELECT 4;\nSELECT 5;\n"
    )
    (changeset,) = liquibase.files(tmp_path)
    assert changeset.up == "SELECT 1;\nSELECT 3;\nSELECT 5;\n"
    assert not changeset.obstacle
