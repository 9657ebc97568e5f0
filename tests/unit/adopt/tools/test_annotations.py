"""Marks and file names that the tools' own parsers accept, in every spelling."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgratchet.adopt.tools import dbmate, flyway, golang_migrate, goose, node_pg_migrate, yoyo
from tests.unit.adopt.helpers import ups, write


@pytest.mark.parametrize(
    "text",
    [
        "-- +goose up\nselect 1;\n-- +goose down\nselect 2;\n",
        "-- +goose Up\nselect 1;\n-- +goose down\nselect 2;\n",
        "-- +GOOSE UP\nselect 1;\n-- +goose DOWN\nselect 2;\n".replace("GOOSE", "goose"),
        "--+goose  Up\nselect 1;\n--   +goose\tDown\nselect 2;\n",
        "-- +goose up --\nselect 1;\n-- +goose down\nselect 2;\n",
        "-- +goose up\n-- +goose statementbegin\nselect 1\n-- +goose statementend\n-- +goose down\nselect 2;\n",
        "-- +goose Up\r\nselect 1;\r\n-- +goose Down\r\nselect 2;\r\n",
    ],
)
def test_annotations_of_goose_are_read_in_any_case(tmp_path: Path, text: str) -> None:
    (migration,) = goose.files(write(tmp_path, **{"1_a.sql": text}))
    assert "".join(migration.up.split()) == "select1;"
    assert not migration.obstacle


@pytest.mark.parametrize("mark", ["NO TRANSACTION", "no transaction", "No  Transaction"])
def test_no_transaction_of_goose_is_read_in_any_case(tmp_path: Path, mark: str) -> None:
    (migration,) = goose.files(write(tmp_path, **{"1_a.sql": f"-- +goose {mark}\n-- +goose Up\nselect 1;\n"}))
    assert not migration.transactional


@pytest.mark.parametrize(
    ("text", "obstacle"),
    [
        ("-- +goose Up\n-- +goose envsub on\nselect '${X}';\n", "goose replaces environment variables in it."),
        ("-- +goose Up\n-- +goose ENVSUB ON\nselect 1;\n-- +goose envsub off\nselect '$1';\n", ""),
        ("select 1;\n", "It has no line `-- +goose Up`."),
        ("-- +goose Upp\nselect 1;\n", "It has no line `-- +goose Up`."),
        ("-- +goose Up\nselect 1;\n-- +goose Sideways\n", 'goose does not know the annotation "sideways".'),
    ],
)
def test_a_file_that_goose_would_read_otherwise_is_named(tmp_path: Path, text: str, obstacle: str) -> None:
    files = goose.files(write(tmp_path, **{"1_a.sql": "-- +goose up\nselect 1;", "2_b.sql": text}))
    assert [each.obstacle for each in files] == ["", obstacle]


def test_a_folder_without_any_mark_is_not_the_folder_of_goose_or_dbmate(tmp_path: Path) -> None:
    write(tmp_path, **{"1_a.sql": "select 1;"})
    assert (goose.files(tmp_path), dbmate.files(tmp_path)) == ([], [])


@pytest.mark.parametrize(
    ("options", "transactional"),
    [("", True), (" transaction:false", False), (" a:b transaction:false", False), (" transaction:FALSE", True)],
)
def test_options_of_dbmate_are_read_as_dbmate_reads_them(tmp_path: Path, options: str, transactional: bool) -> None:
    (migration,) = dbmate.files(
        write(tmp_path, **{"1-a.sql": f"--migrate:up{options}\nselect 1;\n--  migrate:down\nx"})
    )
    assert ups([migration]) == [("1", "select 1;", transactional)]


def test_golang_migrate_reads_any_suffix(tmp_path: Path) -> None:
    write(
        tmp_path, **{"1_a.up.sql": "a", "2_b.up.SQL": "b", "3_c.up.pgsql": "c", "3_c.down.pgsql": "d", "4_d.sql": "e"}
    )
    assert [each.up for each in golang_migrate.files(tmp_path)] == ["a", "b", "c"]


def test_flyway_reads_suffixes_in_any_case_and_names_without_a_description(tmp_path: Path) -> None:
    write(tmp_path, **{"V1.sql": "a", "V2__.SQL": "b", "V3__c.Sql": "c", "v4__d.sql": "d", "V5_e.sql": "e"})
    assert [each.up for each in flyway.files(tmp_path)] == ["a", "b", "c"]


def test_settings_of_a_flyway_script_decide_if_and_how_it_runs(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "V1__a.sql": "select '${x}';",
            "V1__a.sql.conf": "placeholderReplacement=false\nexecuteInTransaction = false\n",
            "V2__b.sql": "select 1;",
            "V2__b.sql.conf": "shouldExecute=${env}==prod\n",
            "B2__c.sql": "select 2;",
        },
    )
    one, two, baseline = sorted(flyway.files(tmp_path), key=lambda file: file.name[1:])[0:3]
    assert (one.obstacle, one.transactional) == ("", False)
    conditions = {file.name: (file.condition, bool(file.never)) for file in (two, baseline)}
    assert conditions["V2__b"] == ("Flyway runs it where shouldExecute=${env}==prod.", False)
    assert conditions["B2__c"] == ("", True)


@pytest.mark.parametrize("name", ["1-a.sql", "1.a.sql", "001_a.sql", "1a.sql"])
def test_node_pg_migrate_reads_names_with_any_separator(tmp_path: Path, name: str) -> None:
    (migration,) = node_pg_migrate.files(write(tmp_path, **{name: "select 1;"}))
    assert (migration.title, migration.keys[0]) == ("a", name.removesuffix(".sql"))


def test_literal_steps_of_yoyo_are_read_from_python(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "1.py": "from yoyo import step\n__transactional__ = False\n"
            "steps = [step('select 1', 'x'), step('select 2;')]\n",
            "2.py": "from yoyo import step, group\nsteps = [group([step('select 1')])]\n",
            "3.py": "from yoyo import step\ndef apply(c):\n    pass\nsteps = [step(apply)]\n",
            "4.py": "from yoyo import step\nsteps = [step(open('x').read())]\n",
            "5.py": "from yoyo import step\nfor n in 'ab':\n    step(f'create table {n} ()')\n",
        },
    )
    files = yoyo.files(tmp_path)
    assert [" ".join(each.up.split()) for each in files] == ["select 1 ; select 2;", "select 1 ;", "", "", ""]
    assert [bool(each.obstacle) for each in files] == [False, False, True, True, True]
    assert not files[0].transactional
