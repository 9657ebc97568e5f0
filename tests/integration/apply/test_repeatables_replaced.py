"""Repeatables that cannot replace what exists: the advice names the dependants, and works when followed literally."""

from __future__ import annotations

import pytest

from pgratchet.errors import MigrationFailed
from pgratchet.migrations.files import Migration
from tests.servers.databases import Database
from tests.support.migrations import WriteMigrations, WriteRepeatables, history, migrate

VIEW = "create or replace view %s as select %s from %s;"


def failure(database: Database, files: tuple[Migration, ...]) -> MigrationFailed:
    """The error of a run that changes nothing."""
    before, rows = database.fingerprint(), history(database)
    with pytest.raises(MigrationFailed) as caught:
        migrate(database, files)
    assert (database.fingerprint(), history(database)) == (before, rows)
    return caught.value


def lines_of(error: MigrationFailed) -> str:
    """The SQL that the hint says to write."""
    return "\n".join(line for line in error.hint.splitlines() if line.startswith("DROP "))


def run_on_new_database(database: Database, files: tuple[Migration, ...]) -> list[str]:
    """Run all files again on what is then an empty database; returns what was applied, and checks that it is whole."""
    views = (
        "SELECT relname FROM pg_class WHERE relkind IN ('v', 'm') AND relnamespace = 'public'::regnamespace ORDER BY 1"
    )
    before = database.rows(views)
    database.run("DROP SCHEMA public CASCADE; DROP SCHEMA ratchet CASCADE; CREATE SCHEMA public")
    applied = migrate(database, files).applied
    assert database.rows(views) == before
    return [name.removeprefix("repeatable/") for name in applied]


@pytest.fixture
def database(database: Database, write: WriteMigrations) -> Database:
    migrate(database, write(m1_t="create table t (x int, y int)"))
    return database


@pytest.mark.every_major
def test_a_view_without_dependants_is_dropped_in_its_own_file(
    database: Database, write_repeatables: WriteRepeatables
) -> None:
    migrate(database, write_repeatables(v=VIEW % ("v", "x, y", "t")))
    changed = "-- columns\n" + VIEW % ("v", "y", "t")
    error = failure(database, write_repeatables(v=changed))
    assert error.location is not None
    assert (error.location.sqlstate, error.location.line) == ("42P16", 2)
    assert "Nothing depends on view v." in error.hint
    assert lines_of(error) == "DROP VIEW IF EXISTS public.v;"
    assert migrate(database, write_repeatables(v=f"{lines_of(error)}\n{changed}")).applied == ["repeatable/v"]
    assert database.rows("SELECT attname FROM pg_attribute WHERE attrelid = 'v'::regclass") == [("y",)]


@pytest.mark.every_major
def test_dependants_of_a_view_are_named_and_dropped_with_it_in_a_migration(
    database: Database, write: WriteMigrations, write_repeatables: WriteRepeatables
) -> None:
    texts = {
        "v": VIEW % ("v", "x, y", "t"),
        "a": VIEW % ("a", "y", "v"),
        "m": "create materialized view if not exists m as select y from a;",
        "Z": VIEW % ('"Z z"', "y", "m"),
        "other": VIEW % ("other", "x", "t"),
    }
    migrate(database, write_repeatables(**texts))
    changed = VIEW % ("v", "y", "t")
    error = failure(database, write_repeatables(v=changed))
    assert '3 objects depend on view v: view a, materialized view m, view "Z z".' in error.hint
    assert lines_of(error).splitlines() == [
        'DROP VIEW IF EXISTS public."Z z";',
        "DROP MATERIALIZED VIEW IF EXISTS public.m;",
        "DROP VIEW IF EXISTS public.a;",
        "DROP VIEW IF EXISTS public.v;",
    ]
    write(m2_drop=lines_of(error))
    files = write_repeatables(**{name: f"-- again\n{texts[name]}" for name in ("a", "m", "Z")})
    assert sorted(migrate(database, files).applied) == [
        "2_drop", "repeatable/Z", "repeatable/a", "repeatable/m", "repeatable/v",
    ]  # fmt: skip
    assert database.rows('SELECT count(*) FROM "Z z"') == [(0,)]
    assert migrate(database, files).applied == []
    assert run_on_new_database(database, files) == ["1_t", "2_drop", "Z", "a", "m", "other", "v"]


def test_a_drop_that_dependants_prevent_gets_the_same_advice(
    database: Database, write: WriteMigrations, write_repeatables: WriteRepeatables
) -> None:
    migrate(database, write_repeatables(v=VIEW % ("v", "x, y", "t"), w=VIEW % ("w", "x", "v")))
    error = failure(database, write_repeatables(v=f"drop view if exists v; {VIEW % ('v', 'x', 't')}"))
    assert error.location is not None
    assert error.location.sqlstate == "2BP01"
    write(m2_drop=lines_of(error))
    files = write_repeatables(w=f"-- again\n{VIEW % ('w', 'x', 'v')}")
    assert sorted(migrate(database, files).applied) == ["2_drop", "repeatable/v", "repeatable/w"]


FUNCTION = "create or replace function f(n int) returns %s language sql immutable as 'select %s';"


def test_a_function_with_another_result_is_dropped_in_its_own_file(
    database: Database, write_repeatables: WriteRepeatables
) -> None:
    migrate(database, write_repeatables(f=FUNCTION % ("int", "n")))
    changed = FUNCTION % ("text", "n::text")
    error = failure(database, write_repeatables(f=changed))
    assert error.location is not None
    assert error.location.sqlstate == "42P13"
    assert lines_of(error) == "DROP FUNCTION IF EXISTS public.f(integer);"
    assert migrate(database, write_repeatables(f=f"{lines_of(error)}\n{changed}")).applied == ["repeatable/f"]


def test_dependants_of_a_function_that_are_no_views_are_made_again_in_a_second_migration(
    database: Database, write: WriteMigrations, write_repeatables: WriteRepeatables
) -> None:
    view = "create or replace view v as select f(1) as x;"
    write_repeatables(f=FUNCTION % ("int", "n"), v=view)
    migrate(database, write(m2_index="-- migrate: after=repeatable/f\ncreate index i on t (f(x))"))
    error = failure(database, write_repeatables(f=FUNCTION % ("text", "n::text")))
    assert "2 objects depend on function f(integer): index i, view v." in error.hint
    assert "a second migration, with the line `-- migrate: after=repeatable/f.sql`" in error.hint
    assert lines_of(error) == ""
    write(m3_drop="drop index if exists i; drop view if exists v; drop function if exists f(int)")
    write(m4_again="-- migrate: after=repeatable/f.sql\ncreate index i on t (f(x))")
    files = write_repeatables(v=f"-- again\n{view}")
    assert migrate(database, files).applied == ["3_drop", "repeatable/f", "4_again", "repeatable/v"]
    assert run_on_new_database(database, files) == ["1_t", "f", "2_index", "3_drop", "f", "4_again", "v"]


@pytest.mark.parametrize(
    "text", ["create view v as select 1 as x;", "create function g() returns int language sql as 'select 1';"]
)
def test_a_file_that_can_run_only_once_is_refused_with_advice(
    database: Database, write_repeatables: WriteRepeatables, text: str
) -> None:
    migrate(database, write_repeatables(a=text))
    error = failure(database, write_repeatables(a=f"-- again\n{text}"))
    assert "Write CREATE OR REPLACE, or a DROP ... IF EXISTS" in error.hint
    again = text.replace("create", "create or replace")
    assert migrate(database, write_repeatables(a=again)).applied == ["repeatable/a"]


def test_a_required_repeatable_that_needs_another_one_is_refused_with_advice(
    database: Database, write: WriteMigrations, write_repeatables: WriteRepeatables
) -> None:
    write_repeatables(v=VIEW % ("v", "x", "w"), w=VIEW % ("w", "x", "t"))
    error = failure(database, write(m2_u="-- migrate: after=repeatable/v\ncreate table u ()"))
    assert "has to name every repeatable that the named ones need" in error.hint
    files = write(m2_u="-- migrate: after=repeatable/v\n-- migrate: after=repeatable/w\ncreate table u ()")
    assert sorted(migrate(database, files).applied) == ["2_u", "repeatable/v", "repeatable/w"]


def test_an_overloaded_function_gets_the_hint_of_the_server(
    database: Database, write_repeatables: WriteRepeatables
) -> None:
    database.run("CREATE FUNCTION f(text) RETURNS int LANGUAGE sql AS 'SELECT 1'")
    migrate(database, write_repeatables(f=FUNCTION % ("int", "n")))
    error = failure(database, write_repeatables(f=FUNCTION % ("text", "n::text")))
    assert "Use DROP FUNCTION f(integer) first." in error.detail
    assert "f.sql; then run `invoke migrate` again." in error.hint


def test_a_view_in_another_schema_is_found_by_its_qualified_name(
    database: Database, write_repeatables: WriteRepeatables
) -> None:
    database.run("CREATE SCHEMA s")
    migrate(database, write_repeatables(v=VIEW % ("s.v", "x, y", "t"), w=VIEW % ("w", "x", "s.v")))
    error = failure(database, write_repeatables(v=VIEW % ("s.v", "x", "t")))
    assert lines_of(error).splitlines() == ["DROP VIEW IF EXISTS public.w;", "DROP VIEW IF EXISTS s.v;"]
