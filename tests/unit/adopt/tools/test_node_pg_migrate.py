"""node-pg-migrate: files."""

from __future__ import annotations

from pathlib import Path

from pgratchet.adopt.matching import our_names
from pgratchet.adopt.tools import (
    node_pg_migrate,
)
from tests.unit.adopt.helpers import write


def test_node_pg_migrate_files_are_ordered_by_their_time(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "1700000000001_b.sql": "-- Up Migration\nselect 1;\n-- Down Migration\nselect 2;",
            "20231114221320000_a.sql": "select 0;",
            "1700000000002_c.js": "x",
        },
    )
    files = node_pg_migrate.files(tmp_path)
    assert [each.title for each in files] == ["a", "b", "c"]
    assert [" ".join(each.up.split()) for each in files] == ["select 0;", "select 1;", ""]
    assert our_names(files, "x")[0][0] == "0001_a"  # 17 digits before 13


def test_a_pair_of_node_pg_migrate_files_is_one_migration(tmp_path: Path) -> None:
    (tmp_path / "1704067200001_a.up.sql").write_text("CREATE TABLE a ();\n")
    (tmp_path / "1704067200001_a.down.sql").write_text("DROP TABLE a;\n")
    (tmp_path / "1704067200002_b.sql").write_text("CREATE TABLE b ();\n")
    one, other = node_pg_migrate.files(tmp_path)
    assert one.keys == ("1704067200001_a", "1704067200001_a.up")
    assert (one.title, one.up) == ("a", "CREATE TABLE a ();\n")
    assert other.keys[0] == "1704067200002_b"
