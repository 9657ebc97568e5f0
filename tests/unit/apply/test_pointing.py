"""What an error without a position is about: a name, a literal, a clause or a line that the statement has once."""

from __future__ import annotations

import pytest

from pgratchet.apply.diagnosis import Diagnosis
from pgratchet.apply.pointing import find_in_statement, find_unclosed, locate_in_statement
from pgratchet.migrations.files import Migration
from pgratchet.migrations.lexer import split_statements

TABLE = """alter table users
  add column age int not null,
  add constraint adult check (age > 17),
  add constraint "Named" check (name <> ''),
  alter column code type int using code::int"""
DO = "select 1;\ndo $$\nbegin\n  perform 1;\n  execute 'select 1/0';\nend $$"

BODY = "\n-- é\nbegin\n  RETUN 1;\nend "
FUNCTION = f"create function f() returns int language plpgsql as $${BODY}$$"


@pytest.mark.parametrize(
    ("text", "diagnosis", "expected"),
    [
        (TABLE, Diagnosis(sqlstate="23514", names=("adult",)), "adult check (age"),
        (TABLE, Diagnosis(sqlstate="23514", names=("Named",)), '"Named" check'),
        (TABLE, Diagnosis(sqlstate="23514", names=("users_check",)), "alter table"),
        (TABLE, Diagnosis(sqlstate="23502"), "not null"),
        (TABLE, Diagnosis(sqlstate="22P02", quoted="x1"), "::int"),
        (TABLE, Diagnosis(sqlstate="42703", quoted="code"), "alter table"),
        (TABLE, Diagnosis(sqlstate="42P01", quoted="s.users"), "users"),
        ("alter table t add check (a > 1)", Diagnosis(sqlstate="23514", names=("t_a_check",)), "check"),
        ("alter table t\n add unique (a)", Diagnosis(sqlstate="23505", names=("t_a_key",)), "unique"),
        ("insert into t values (1),\n ('x1')", Diagnosis(sqlstate="22P02", quoted="x1"), "'x1'"),
        ("insert into t select a\n / b from t", Diagnosis(sqlstate="22012"), "/ b"),
        ("alter table t drop column a, drop column emial", Diagnosis(sqlstate="42703", quoted="emial"), "emial"),
        (DO, Diagnosis(sqlstate="22012", do_line=4), "execute"),
        (DO, Diagnosis(sqlstate="22012", do_line=4, inner_query="select 1/0", inner_position=9), "/0"),
        (DO, Diagnosis(sqlstate="22012", do_line=40), "do $$"),
        (FUNCTION, Diagnosis(sqlstate="42601", inner_query=BODY, inner_position=BODY.index("RETUN") + 1), "RETUN"),
        (
            FUNCTION.replace("$$", "'").replace("é", "''"),
            Diagnosis(sqlstate="42601", inner_query=BODY.replace("é", "'"), inner_position=BODY.index("RETUN") + 1),
            "RETUN",
        ),
        (f"{FUNCTION}; {FUNCTION}", Diagnosis(inner_query=BODY, inner_position=BODY.index("RETUN") + 1), "RETUN"),
        (FUNCTION, Diagnosis(sqlstate="42601", inner_query="not there", inner_position=3), "create function"),
        (FUNCTION, Diagnosis(sqlstate="42601", inner_query=BODY, inner_position=len(BODY) + 1), "$$"),
    ],
)
def test_an_error_without_a_position_is_located_by_its_fields(text: str, diagnosis: Diagnosis, expected: str) -> None:
    raw = text.encode()
    statement = split_statements(raw)[-1]
    offset = find_in_statement(raw, statement, diagnosis)
    assert raw[statement.start if offset is None else offset :].decode().startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("create table a (x int, y numeric(1,2)\n;\ncreate table b (x int);", "(x int, y"),
        ("create table a (\n x int check (x in (1, 2)\n;", "(x in"),
        ("create table a (x int", "(x int"),
        ("select ')', (1 -- )\n;", "(1"),
        ("create table a (x int) wiht;", None),
        ("select 1)", None),
    ],
)
def test_a_parenthesis_that_is_not_closed_is_found(text: str, expected: str | None) -> None:
    raw = text.encode()
    offset = find_unclosed(raw, raw.index(b";") if b";" in raw else len(raw), Diagnosis(sqlstate="42601"))
    assert offset is None if expected is None else raw[offset or 0 :].decode().startswith(expected)
    assert find_unclosed(raw, 1, Diagnosis(sqlstate="42601")) is None


@pytest.mark.parametrize(("lines", "last"), [(9, None), (10, 12)])
def test_the_lines_of_a_long_statement_are_said_when_the_position_is_unknown(lines: int, last: int | None) -> None:
    text = ("\ninsert into t values\n" + "(1),\n" * (lines - 1) + "(2)").encode()
    migration = Migration("1_a", 1, "c", "1_a.sql")
    (statement,) = split_statements(text)
    location = locate_in_statement(migration, text, statement, Diagnosis(sqlstate="22001"))
    assert (location.line, location.column, location.last_line) == (2, 1, last)
    assert location.describe() == "1_a.sql:2:1" + (f", in the statement of lines 2 to {last}" if last else "")
    known = locate_in_statement(migration, text, statement, Diagnosis(sqlstate="42703", quoted="t"))
    assert (known.column, known.last_line) == (13, None)
