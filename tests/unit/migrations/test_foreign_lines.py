"""Lines for other programs: marks of other migration tools, and merge conflicts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pgratchet.adopt.tools.registry import TOOLS
from pgratchet.errors import ConfigurationError
from pgratchet.migrations import foreign_lines
from pgratchet.migrations.files import read
from pgratchet.migrations.foreign_lines import find_mark
from pgratchet.migrations.scripts import prepare_scripts
from tests.unit.migrations.helpers import mistakes, write


def refusal(folder: Path, text: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        prepare_scripts(read(write(folder, **{"1_a": text})))
    assert len(mistakes(caught)) == 1
    return caught.value


@pytest.mark.parametrize(
    ("up", "down", "tool"),
    [
        ("-- +goose Up", "-- +goose Down", "goose"),
        ("-- +goose up", "  --+goose DOWN  ", "goose"),
        ("-- +goose Up\n-- +goose StatementBegin", "-- +goose StatementEnd\n-- +goose Down", "goose"),
        ("-- +goose NO TRANSACTION\n-- +goose Up", "-- +goose Down", "goose"),
        ("-- migrate:up", "-- migrate:down", "dbmate"),
        ("-- migrate:up transaction:false", "-- migrate:down transaction:false", "dbmate"),
        ("-- +migrate Up", "-- +migrate Down", "sql-migrate"),
        ("-- +migrate Up notransaction", "-- +migrate Down notransaction", "sql-migrate"),
        ("-- Up Migration", "-- Down Migration", "node-pg-migrate"),
        ("---- up migration", "---- down migration", "node-pg-migrate"),
        ("-- rambler up", "-- rambler down", "rambler"),
        ("-- a note", "---- create above / drop below ----", "tern"),
        ("-- // Create the users", "-- //@UNDO", "MyBatis Migrations"),
        ("-- !Ups", "-- !Downs", "Play"),
        ("-- a note", "-- Revert flipr:users from pg", "sqitch"),
    ],
)
def test_a_file_with_a_part_that_undoes_is_refused_at_that_part(tmp_path: Path, up: str, down: str, tool: str) -> None:
    above = f"{up}\nCREATE TABLE users (id int);\n\n"
    error = refusal(tmp_path, f"{above}{down}\nDROP TABLE users;\n")
    line = (above + down).count("\n") + 1
    column = len(down.rpartition("\n")[2]) - len(down.rpartition("\n")[2].lstrip()) + 1
    comment = down.rpartition("\n")[2].strip()
    assert error.detail.startswith(f"{tmp_path}/1_a.sql:{line}:{column}: `{comment}`: {tool} undoes the migration with")
    assert error.location is not None
    assert error.location.line == line
    is_adopted = tool in [each.name for each in TOOLS]
    assert (f"`invoke adopt --from={tool} --files=DIR`" in error.hint) == is_adopted


@pytest.mark.parametrize(
    "comment",
    ["-- +goose Up", "-- migrate:up", "-- +migrate Up", "-- Up Migration", "--liquibase formatted sql", "-- !Ups"],
)
def test_a_file_with_another_comment_for_a_tool_is_refused_too(tmp_path: Path, comment: str) -> None:
    error = refusal(tmp_path, f"-- about users\n{comment}\nCREATE TABLE users (id int);\n")
    assert f"1_a.sql:2:1: `{comment}`: a comment for " in error.detail


@pytest.mark.parametrize(
    "text",
    [
        "-- Moved here from goose, where -- +goose Down dropped the table.\nselect 1;",
        "-- The file had a +goose Down part.\nselect 1;",
        "-- +goose: see the wiki\nselect 1;",
        "-- goose Up\nselect 1;",
        "-- down migration: drop table users\nselect 1;",
        "-- No down migration\nselect 1;",
        "-- rollback: restore the backup\nselect 1;",
        "-- changeset of 2024\nselect 1;",
        "-- Revert customers from archive\nselect 1;",
        "-- undo\nselect 1;",
        "select 1; -- +goose Down",
        "/*\n-- +goose Down\n*/ select 1;",
        "select '\n-- +goose Down\n';",
        "do $$ begin\n-- migrate:down\nend $$;",
    ],
)
def test_a_mention_is_allowed(tmp_path: Path, text: str) -> None:
    assert prepare_scripts(read(write(tmp_path, **{"1_a": text})))


def test_the_tools_that_can_be_adopted_have_the_names_of_adopt() -> None:
    known = {tool.name for tool in TOOLS}
    assert set(foreign_lines._ADOPTED) <= known
    assert {name for name, _ in foreign_lines._PATTERNS if name in known} == set(foreign_lines._ADOPTED)


def test_comments_are_read_fast() -> None:
    started = time.monotonic()
    for number in range(20_000):
        assert find_mark(f"-- Name: users_{number}; Type: TABLE; Schema: public; Owner: shop") is None
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("select 1;\n<<<<<<< HEAD\nselect 2;\n=======\nselect 3;\n>>>>>>> other\n", 2),
        ("<<<<<<< Updated upstream\nselect 2;\n||||||| base\n=======\nselect 3;\n>>>>>>> Stashed changes", 1),
        ("select 1;\n>>>>>>> a-branch\n", 2),
        ("select 1;\n=======\nselect 2;\n", 2),
        ("select 1\n=======\n;", 2),
        ("create table a (\n  id int,\n=======\n  b int\n);", 3),
        ("do $$ begin\n<<<<<<< HEAD\nnull;\n=======\n>>>>>>> b\nend $$;", 2),
        ("<<<<<<< HEAD\nselect 'a\n=======\nselect 'b'\n>>>>>>> b\n;", 1),
        ("-- +goose Down\n<<<<<<< HEAD\nvacuum;\n", 2),
        ("select 1;\r\n<<<<<<< HEAD\r\n", 2),
    ],
)
def test_a_merge_conflict_is_the_only_mistake(tmp_path: Path, text: str, line: int) -> None:
    assert refusal(tmp_path, text).detail.startswith(f"{tmp_path}/1_a.sql:{line}:1: a merge conflict. Keep the right")


@pytest.mark.parametrize(
    "text",
    [
        "/*\n=======\n Users\n=======\n*/ select 1;",
        "-- =======\nselect 1;",
        "-- <<<<<<< HEAD\nselect 1;",
        "select '\n=======\n';",
        "========\n;",
        "select 1 <<<<<<< 2;",
    ],
)
def test_an_ornament_is_no_conflict(tmp_path: Path, text: str) -> None:
    assert prepare_scripts(read(write(tmp_path, **{"1_a": text})))
