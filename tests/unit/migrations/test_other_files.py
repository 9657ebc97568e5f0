"""Entries of a migrations folder that are not read: refused, named or harmless."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgratchet.errors import ConfigurationError
from pgratchet.migrations.files import read
from pgratchet.migrations.other_files import named_entries
from tests.unit.migrations.helpers import mistakes, write

REFUSED = (
    *("002_b.sql.txt", "b.sql.txt", "002_b.txt", "002_b", "002_b.sq", "002_b.sql.disabled", "002_b.sql.j2", "2.b"),
    *("003_c.pgsql", "003_c.psql", "c.ddl", "003_c.SQL.", "003_c.sql.gz", "20250111T093000_d", "V2__e.pgsql"),
    *("0001_initial.py", "20240101000000_users.js", "002_b.sql (copy)"),
    *("002_b.SQL", "002_b.Sql", "002_b.sql ", "V2__e.sql", "b.sql", "R__f.sql"),
    *("v2.sql/", "V2.SQL/", "v2.sql/README.md", "old/001_a.sql", "deep/er/001_a.sql", "a/b/V1__c.SQL", "x/1_a.pgsql"),
    *("20240101_init/migration.sql", "1.2/users.sql", "v2/users.sql"),
)
NAMED = (
    *("002_b.sql.bak", "002_b.sql.orig", "002_b.sql.rej", "002_b.sql.swp", "002_b.sql.tmp"),
    *("seed.py", "load.sh", "countries.csv", "001_countries.csv", "atlas.sum", "data.sqlite"),
    *("seeds/countries.sql", "archive/notes.md", "empty/", "backups/dev/app/20261122T101500-3f2a/globals.sql"),
)
HARMLESS = (
    *(".gitkeep", ".gitignore", ".squawk.toml", ".002_b.sql", ".002_b.sql.swp", ".#002_b.sql", ".hidden/001_a.sql"),
    *("002_b.sql~", "#002_b.sql#", "README", "README.md", "readme.txt", "LICENSE", "CHANGELOG.md", "notes.txt"),
    *("001_users.md", "model.png", "Makefile", "CODEOWNERS", "Thumbs.db", "__init__.py", "__pycache__/001_a.sql"),
)


def put(folder: Path, name: str) -> None:
    """Write a file with its parent folders, or make a folder if the name ends in a slash."""
    path = folder / name
    if name.endswith("/"):
        path.mkdir(parents=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("select 1;")


@pytest.mark.parametrize("name", REFUSED)
def test_what_looks_like_a_migration_is_refused_and_named(tmp_path: Path, name: str) -> None:
    write(tmp_path, **{"1_a": ""})
    put(tmp_path, name)
    with pytest.raises(ConfigurationError, match="the migrations cannot be used: 1 mistake") as caught:
        read(tmp_path)
    assert f"{tmp_path}/{name.split('/')[0]}: " in caught.value.detail


@pytest.mark.parametrize("name", NAMED)
def test_other_entries_are_named(tmp_path: Path, name: str) -> None:
    write(tmp_path, **{"1_a": ""})
    put(tmp_path, name)
    assert [file.name for file in read(tmp_path)] == ["1_a"]
    folder, slash, _ = name.partition("/")
    assert named_entries(tmp_path) == (f"{folder}{slash}",)


@pytest.mark.parametrize("name", HARMLESS)
def test_documents_leftovers_of_editors_and_hidden_entries_are_ignored(tmp_path: Path, name: str) -> None:
    write(tmp_path, **{"1_a": ""})
    put(tmp_path, name)
    assert [file.name for file in read(tmp_path)] == ["1_a"]
    assert named_entries(tmp_path) == ()


def test_every_mistake_says_what_to_do(tmp_path: Path) -> None:
    for name in ("003_c.pgsql", "002_b.sql.txt", "v2.sql/", "old/001_a.sql"):
        put(tmp_path, name)
    with pytest.raises(ConfigurationError, match="4 mistakes") as caught:
        read(tmp_path)
    suffix, up = (
        "looks like a migration, but its name does not end in .sql.",
        "Move its migrations up, or move it out of",
    )
    assert [line.removeprefix(f"{tmp_path}/") for line in mistakes(caught)] == [
        f"002_b.sql.txt: {suffix} Rename it to 002_b.sql, or move it out of the migrations folder.",
        f"003_c.pgsql: {suffix} Rename it to 003_c.sql, or move it out of the migrations folder.",
        f"old: sub-folders are not read, and old/001_a.sql looks like a migration. {up} the migrations folder.",
        f"v2.sql: sub-folders are not read. {up} the migrations folder.",
    ]


def test_other_folders_of_the_project_are_not_named(tmp_path: Path) -> None:
    for name in ("inventory/dev.yml", "backups/dev/app/20261122T101500-3f2a/globals.sql", "seeds/countries.sql"):
        put(tmp_path, name)
    expected = {(tmp_path / name).resolve() for name in ("inventory", "backups", "templates")}
    assert read(tmp_path) == ()
    assert named_entries(tmp_path, expected) == ("seeds/",)


def test_links_are_followed(tmp_path: Path) -> None:
    put(tmp_path, "elsewhere/001_a.sql")
    sql = tmp_path / "sql"
    sql.mkdir()
    (sql / "linked").symlink_to(tmp_path / "elsewhere")
    (sql / "002_gone").symlink_to("nowhere")
    with pytest.raises(ConfigurationError, match="2 mistakes") as caught:
        read(sql)
    assert "linked/001_a.sql looks like a migration" in caught.value.detail
