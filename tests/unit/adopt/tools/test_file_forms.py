"""Files of other tools in forms that the real tools were seen to take."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgratchet.adopt.matching import matched
from pgratchet.adopt.tools import liquibase, node_pg_migrate, yoyo


def test_node_pg_migrates_pair_of_files_is_one_migration(tmp_path: Path) -> None:
    (tmp_path / "1704067200001_a.up.sql").write_text("CREATE TABLE a ();\n")
    (tmp_path / "1704067200001_a.down.sql").write_text("DROP TABLE a;\n")
    (tmp_path / "1704067200002_b.sql").write_text("CREATE TABLE b ();\n")
    one, other = node_pg_migrate.files(tmp_path)
    assert one.keys == ("1704067200001_a", "1704067200001_a.up")
    assert (one.title, one.up) == ("a", "CREATE TABLE a ();\n")
    assert other.keys[0] == "1704067200002_b"


def test_liquibases_quoted_author_and_id_are_read_without_their_quotes(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text('--liquibase formatted sql\n--changeset "a mover": "the first"\nSELECT 1;\n')
    (found,) = liquibase.files(tmp_path)
    assert found.keys[0] == "the first a mover a.sql"


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
def test_liquibases_files_of_one_name_are_told_by_their_folders(
    tmp_path: Path, folder: str, row: str, applied: str
) -> None:
    for version in ("v1", "v2"):
        path = tmp_path / folder / version / "init.sql"
        path.parent.mkdir(parents=True)
        path.write_text("--liquibase formatted sql\n--changeset a:1\nSELECT 1;\n")
    raw = {"id": "1", "author": "a", "filename": row, "exectype": "EXECUTED", "dateexecuted": None, "orderexecuted": 1}
    pairs, _ = matched(liquibase.files(tmp_path), liquibase.rows([raw], ()))
    assert [Path(file.name.split(":")[0]).parts[-2] for file, found in pairs if found] == [applied] * bool(applied)


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
def test_a_changeset_that_liquibase_would_not_run_here_is_none_of_ours(tmp_path: Path, dbms: str, runs: bool) -> None:
    (tmp_path / "a.sql").write_text(f"--liquibase formatted sql\n--changeset a:1 dbms:{dbms}\nSELECT 1;\n")
    assert len(liquibase.files(tmp_path)) == runs


def test_lines_that_liquibase_leaves_out_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text(
        "--liquibase formatted sql\n--changeset a:1\nSELECT 1;\n"
        "--ignoreLines:start\n--changeset a:2\nSELECT 2;\n--ignoreLines:end\nSELECT 3;\n"
        "--ignoreLines:1\nSELECT 4;\nSELECT 5;\n"
    )
    (found,) = liquibase.files(tmp_path)
    assert found.up == "SELECT 1;\nSELECT 3;\nSELECT 5;\n"
    assert not found.obstacle


def test_yoyos_words_are_those_of_the_first_comments(tmp_path: Path) -> None:
    body = "CREATE FUNCTION f() RETURNS text AS '\n-- depends: on what\n' LANGUAGE sql;\n"
    (tmp_path / "a.sql").write_text(f"-- what\n\n-- depends: c\n  -- depends: b\n-- transactional: false\n{body}")
    (tmp_path / "b.sql").write_text("SELECT 1;\n-- transactional: false\n")
    (tmp_path / "c.py").write_text('__depends__ = "b"\n')
    files = yoyo.files(tmp_path)
    assert [each.name for each in files] == ["b", "c", "a"]
    assert [each.transactional for each in files] == [True, True, False]
    assert files[-1].up == f"-- what\n\n{body}"
