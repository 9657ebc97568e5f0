"""yoyo: files and rows."""

from __future__ import annotations

from pathlib import Path

from pgratchet.adopt.tools import (
    yoyo,
)
from tests.unit.adopt.helpers import ups, write


def test_yoyo_files_and_rows_are_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "20240101_01_abcde-one.sql": "-- depends: 20240101_02_fghij-two\nselect 1;",
            "20240101_02_fghij-two.sql": "-- two\n-- depends: \n\n--transactional: false\nvacuum;",
            "20240101_02_fghij-two.rollback.sql": "x",
            "20240102_01_klmno-three.py": "__depends__ = {'20240101_01_abcde-one'}\n",
            "post-apply.sql": "x",
        },
    )
    files = yoyo.files(tmp_path)
    assert [each.title for each in files] == ["two", "one", "three", "post-apply"]
    assert ups(files[:2]) == [("2024010102", "-- two vacuum;", False), ("2024010101", "select 1;", True)]
    (row,) = yoyo.rows([{"migration_id": "20240101_01_abcde-one", "applied_at_utc": "2024-01-01T00:00:00"}], ())
    assert row.moment == "2024-01-01T00:00:00+00"


def test_yoyo_directives_are_read_from_the_first_comments_only(tmp_path: Path) -> None:
    body = "CREATE FUNCTION f() RETURNS text AS '\n-- depends: on what\n' LANGUAGE sql;\n"
    (tmp_path / "a.sql").write_text(f"-- what\n\n-- depends: c\n  -- depends: b\n-- transactional: false\n{body}")
    (tmp_path / "b.sql").write_text("SELECT 1;\n-- transactional: false\n")
    (tmp_path / "c.py").write_text('__depends__ = "b"\n')
    files = yoyo.files(tmp_path)
    assert [each.name for each in files] == ["b", "c", "a"]
    assert [each.transactional for each in files] == [True, True, False]
    assert files[-1].up == f"-- what\n\n{body}"


def test_only_a_random_id_is_left_out_of_the_title(tmp_path: Path) -> None:
    for name in ("0001.alter-users", "0002_index-users", "20240101_01_abcde-alter-users", "20240101_02_alter-users"):
        (tmp_path / f"{name}.sql").write_text("SELECT 1;\n")
    assert [each.title for each in yoyo.files(tmp_path)] == ["alter-users", "index-users", "alter-users", "users"]
