"""Changesets of Liquibase by the master changelog: their order, and the conditions of the includes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgratchet.adopt import unread
from pgratchet.adopt.tools import liquibase
from pgratchet.errors import ConfigurationError
from tests.unit.adopt.helpers import states, write


def changelog(*identities: str) -> str:
    sets = "".join(f"--changeset nene:{identity}\nSELECT '{identity.split()[0]}';\n" for identity in identities)
    return f"--liquibase formatted sql\n{sets}"


def xml(*elements: str) -> str:
    return (
        '<?xml version="1.0"?>\n<databaseChangeLog xmlns="http://www.liquibase.org/xml/ns/dbchangelog">'
        f"{''.join(elements)}</databaseChangeLog>"
    )


MASTERS = {
    "master.xml": xml('<include file="release-2/a.sql"/>', '<include file="release-10/a.sql"/>'),
    "master.yaml": (
        "databaseChangeLog:\n  - include:\n      file: release-2/a.sql\n"
        "  - include:\n      file: release-10/a.sql\n      relativeToChangelogFile: true\n"
    ),
    "master.json": (
        '{"databaseChangeLog": [{"include": {"file": "classpath:release-2/a.sql"}}, '
        '{"include": {"file": "/release-10/a.sql"}}]}'
    ),
    "master.sql": "--liquibase formatted sql\n--include file:release-2/a.sql\n--include file:release-10/a.sql\n",
}


@pytest.mark.parametrize("name", MASTERS)
def test_the_master_changelog_gives_the_order(tmp_path: Path, name: str) -> None:
    write(tmp_path, **{name: MASTERS[name], "release-2/a.sql": changelog("two"), "release-10/a.sql": changelog("ten")})
    assert [each.name for each in liquibase.files(tmp_path)] == [
        "release-2/a.sql: nene:two",
        "release-10/a.sql: nene:ten",
    ]


def test_applied_changesets_have_the_order_of_their_runs(tmp_path: Path) -> None:
    write(
        tmp_path, **{"a.sql": changelog("a"), "b.sql": changelog("b"), "c.sql": changelog("c"), "d.sql": changelog("d")}
    )
    rows = [
        {"id": name, "author": "nene", "filename": f"{name}.sql", "dateexecuted": None, "orderexecuted": order}
        | {"exectype": "EXECUTED"}
        for name, order in (("a", 3), ("c", 1), ("d", 2))
    ]
    files = liquibase.files(tmp_path)
    assert states(files, liquibase.rows(rows, files)) == [
        ("0001_c_c", "claimed"),
        ("0002_d_d", "claimed"),
        ("0003_a_a", "claimed"),
        ("0004_b_b", "pending"),
    ]


@pytest.mark.parametrize(
    ("element", "condition"),
    [
        ('<include file="a.sql" context="test"/>', 'the context "test" of the include of a.sql in master.xml'),
        ('<include file="a.sql" contextFilter="test"/>', 'the context "test" of the include of a.sql in master.xml'),
        ('<include file="a.sql" labels="never"/>', 'the labels "never" of the include of a.sql in master.xml'),
        ('<includeAll path="sub" context="test"/>', 'the context "test" of the includeAll of sub in master.xml'),
        ('<includeAll path="sub" labels="never"/>', 'the labels "never" of the includeAll of sub in master.xml'),
    ],
)
def test_the_condition_of_an_include_is_one_of_its_changesets(tmp_path: Path, element: str, condition: str) -> None:
    write(tmp_path, **{"master.xml": xml(element), "a.sql": changelog("a"), "sub/a.sql": changelog("sub")})
    files = {file.name: file.condition for file in liquibase.files(tmp_path)}
    name = "sub/a.sql: nene:sub" if "includeAll" in element else "a.sql: nene:a"
    assert files.pop(name) == f"Liquibase runs it by {condition}."
    assert list(files.values()) == ["The master changelog master.xml does not include its file."]
    assert {state for _, state in states(liquibase.files(tmp_path), [])} == {"excluded"}


@pytest.mark.parametrize(
    "attributes", ["context:test", "contextFilter:test", 'context:"a and !b"', "labels:never", 'LABELS:"x"']
)
def test_the_condition_of_a_changeset_is_read_in_any_spelling(tmp_path: Path, attributes: str) -> None:
    write(tmp_path, **{"a.sql": changelog(f"a {attributes}")})
    (file,) = liquibase.files(tmp_path)
    assert file.condition.startswith("Liquibase runs it by the ")
    assert states([file], []) == [(None, "excluded")]


def test_conditions_of_nested_includes_and_whole_changelogs_are_joined(tmp_path: Path) -> None:
    inner = "databaseChangeLog:\n  - context: inner\n  - include:\n      file: a.sql\n      labels: x\n"
    write(
        tmp_path,
        **{
            "master.xml": xml('<include file="inner.yaml" context="outer"/>'),
            "inner.yaml": inner,
            "a.sql": changelog("a"),
        },
    )
    (file,) = liquibase.files(tmp_path)
    assert [word for word in ("outer", "inner", '"x"') if word in file.condition] == ["outer", "inner", '"x"']


def test_a_changeset_or_include_that_never_runs_here_is_left_out_and_named(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "master.xml": xml('<include file="a.sql"/>', '<include file="b.sql" ignore="true"/>'),
            "a.sql": changelog("a dbms:mysql", "b ignore:true"),
            "b.sql": changelog("c"),
        },
    )
    files = liquibase.files(tmp_path)
    assert all(file.never for file in files)
    assert [state for _, state in states(files, [])] == ["left out"] * 3


def test_changesets_in_xml_and_yaml_are_converted_if_they_hold_only_sql(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "master.xml": xml(
                '<property name="schema" value="public"/>',
                '<changeSet id="1" author="n"><sql>CREATE TABLE ${schema}.a ()</sql>'
                "<rollback>DROP TABLE a</rollback></changeSet>",
                '<changeSet id="2" author="n"><sqlFile path="x.txt" relativeToChangelogFile="true"/></changeSet>',
                '<changeSet id="3" author="n"><createTable tableName="c"/></changeSet>',
                '<changeSet id="4" author="n"><preConditions/><sql>SELECT 4</sql><sql dbms="mysql">X</sql></changeSet>',
                '<changeSet id="5" author="n"><sql>SELECT ${unknown}</sql></changeSet>',
                '<include file="more.yaml"/>',
                '<include file="raw.sql"/>',
            ),
            "more.yaml": "databaseChangeLog:\n  - changeSet:\n      id: 6\n      author: n\n"
            "      runInTransaction: false\n"
            "      changes:\n        - sql:\n            sql: SELECT 6\n        - sql: SELECT 7\n",
            "raw.sql": "SELECT 8;\n",
            "x.txt": "CREATE TABLE b ();\n",
        },
    )
    files = liquibase.files(tmp_path)
    assert [" ".join(file.up.split()) for file in files] == [
        *("CREATE TABLE public.a () ;", "CREATE TABLE b ();", "", "SELECT 4 ;", "SELECT ${unknown} ;"),
        *("SELECT 6 ; SELECT 7 ;", "SELECT 8;"),
    ]
    assert [file.obstacle for file in files] == [
        *("", "", "It is XML, not SQL: createTable.", "", "It has the parameter ${unknown}.", "", ""),
    ]
    assert files[3].guard
    assert not files[5].transactional
    assert files[6].keys[0] == "raw includeAll raw.sql"


def test_more_than_one_master_is_refused_until_one_is_chosen(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "live.xml": xml('<include file="a.sql"/>'),
            "test.xml": xml('<include file="a.sql"/>', '<include file="b.sql"/>'),
            "a.sql": changelog("a"),
            "b.sql": changelog("b"),
        },
    )
    with pytest.raises(ConfigurationError, match="more than one master changelog"):
        liquibase.files(tmp_path)
    files = liquibase.files(tmp_path / "live.xml")
    assert [(file.name, bool(file.condition)) for file in files] == [("a.sql: nene:a", False), ("b.sql: nene:b", True)]


def test_include_all_reads_a_folder_in_the_order_of_its_paths(tmp_path: Path) -> None:
    folder = tmp_path / "src" / "main" / "resources" / "db" / "changelog"
    write(
        folder,
        **{
            "master.xml": xml('<includeAll path="db/changelog/sub" endsWithFilter=".sql" maxDepth="2"/>'),
            "sub/b.sql": changelog("b"),
            "sub/a/c.sql": changelog("c"),
            "sub/a/deep/d.sql": changelog("d"),
        },
    )
    files = liquibase.files(folder)
    assert [(file.name, bool(file.condition)) for file in files] == [
        ("sub/a/c.sql: nene:c", False),
        ("sub/b.sql: nene:b", False),
        ("sub/a/deep/d.sql: nene:d", True),
    ]


@pytest.mark.parametrize("text", ["<databaseChangeLog", "<!DOCTYPE x [<!ENTITY a 'b'>]><databaseChangeLog/>"])
def test_an_invalid_changelog_is_named(tmp_path: Path, text: str) -> None:
    write(tmp_path, **{"a.xml": text})
    with pytest.raises(ConfigurationError, match="is not a valid changelog"):
        liquibase.files(tmp_path)


def test_files_that_a_changeset_runs_are_among_its_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change = '<sqlFile path="a.sql" relativeToChangelogFile="true"/>'
    undo = '<rollback><sqlFile path="undo.sql" relativeToChangelogFile="true"/></rollback>'
    write(
        tmp_path / "changelog",
        **{
            "master.xml": xml(f'<changeSet id="1" author="n">{change}{undo}</changeSet>'),
            **{f"{name}.sql": "SELECT 1;" for name in ("a", "undo", "other")},
        },
    )
    monkeypatch.chdir(tmp_path)
    files = liquibase.files(Path("changelog"))
    assert unread.notes(liquibase.TOOL, Path("changelog"), files, Path("sql")) == (
        "Not adopted, because liquibase reads no migration from it: other.sql.",
    )
