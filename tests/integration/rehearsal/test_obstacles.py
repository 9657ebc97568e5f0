"""A migration that fails on the data: the rows in the way are counted, and named by their keys alone."""

from __future__ import annotations

import pytest

from pgratchet.adopt.conversion import converted_file
from pgratchet.migrations.scripts import prepare_scripts
from pgratchet.rehearsal import obstacles
from pgratchet.rehearsal.report import Failure
from pgratchet.rehearsal.trace import StatementFailed, Trace
from tests.servers.databases import Database

SCHEMA = """
CREATE TABLE "Odd Name" (id int, kind text, "a b" int, parent int, note text, PRIMARY KEY (kind, id));
CREATE TABLE parents (id int PRIMARY KEY);
INSERT INTO parents SELECT generate_series(1, 10);
INSERT INTO "Odd Name" SELECT g, 'k', nullif(g, 7), g, 'secret' || g % 90 FROM generate_series(1, 100) AS g;
"""
CASES = {
    'ALTER TABLE "Odd Name" ALTER COLUMN "a b" SET NOT NULL': ("23502", 1, ("k, 7",)),
    'ALTER TABLE "Odd Name" ADD CONSTRAINT c CHECK ("a b" < 50)': ("23514", 51, None),
    'ALTER TABLE "Odd Name" ADD CONSTRAINT f FOREIGN KEY (parent) REFERENCES parents': ("23503", 90, None),
    'ALTER TABLE "Odd Name" ADD CONSTRAINT u UNIQUE (note)': ("23505", 20, None),
    'CREATE UNIQUE INDEX u ON "Odd Name" (lower(note))': ("23505", 20, None),
    'ALTER TABLE "Odd Name" ALTER COLUMN note TYPE int USING note::int': ("22P02", None, ()),
    'ALTER TABLE "Odd Name" ALTER COLUMN note TYPE varchar(3)': ("22001", None, ()),
    "DO $$ BEGIN RAISE 'the value secret7 is wrong'; END $$": ("P0001", None, ()),
    "SELECT 1 / 0": ("22012", None, ()),
    "SELECT missing FROM parents": ("42703", None, ()),
    'CREATE UNIQUE INDEX u ON "Odd Name" (kind) WHERE id > 40': ("23505", 60, None),
    "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '23514', MESSAGE = (SELECT note FROM \"Odd Name\" LIMIT 1); END $$": (
        "23514",
        None,
        (),
    ),
    'DO $$ BEGIN ASSERT false, (SELECT note FROM "Odd Name" LIMIT 1); END $$': ("P0004", None, ()),
    'SELECT note::regclass FROM "Odd Name" LIMIT 1': ("42P01", None, ()),
    "INSERT INTO parents VALUES (1)": ("23505", None, ()),
}


def failure_of(database: Database, text: str) -> Failure:
    trace = Trace(database.connect, prepare_scripts([converted_file("1_a", text.encode())]))
    with pytest.raises(StatementFailed) as caught:
        for _ in trace.run():
            pass
    return obstacles.describe(caught.value, database.connect)


@pytest.mark.parametrize("sql", CASES)
def test_rows_in_the_way_are_counted_and_no_value_is_shown(database: Database, sql: str) -> None:
    database.run(SCHEMA)
    sqlstate, rows, keys = CASES[sql]
    failure = failure_of(database, f"SELECT 1;\n{sql};")
    assert (failure.migration, failure.line, failure.sqlstate, failure.rows) == ("1_a", 2, sqlstate, rows)
    assert failure.keys == keys or (keys is None and len(failure.keys) == 5)
    assert "secret" not in str(failure)
    assert failure.message
    if rows:
        assert failure.relation == 'public."Odd Name"'
        assert failure.key_columns == ("kind", "id")


def test_earlier_statements_of_the_file_count(database: Database) -> None:
    database.run(SCHEMA)
    failure = failure_of(
        database,
        'ALTER TABLE "Odd Name" ADD COLUMN n int;\nUPDATE "Odd Name" SET n = id WHERE id > 30;\n'
        'ALTER TABLE "Odd Name" ALTER COLUMN n SET NOT NULL;\n',
    )
    assert (failure.line, failure.rows) == (3, 30)
    assert database.rows("SELECT count(*) FROM pg_attribute WHERE attname = 'n'") == [(0,)]


def test_a_deferred_constraint_fails_at_the_end_of_the_file(database: Database) -> None:
    database.run(
        SCHEMA
        + "CREATE TABLE late (p int REFERENCES parents DEFERRABLE INITIALLY DEFERRED, note text DEFAULT 'secret')"
    )
    failure = failure_of(database, "INSERT INTO late VALUES (99);\nSELECT 1;\n")
    assert (failure.migration, failure.sqlstate) == ("1_a", "23503")


def test_a_value_of_a_row_is_never_run(database: Database) -> None:
    value = "NULL); DROP TABLE parents; SELECT (1)=(2"
    database.run(SCHEMA + "CREATE TABLE texts (id int PRIMARY KEY, note text)")
    with database.connect() as session:
        session.execute("INSERT INTO texts SELECT g, %s FROM generate_series(1, 2) AS g", (value,))
    failure = failure_of(database, "ALTER TABLE texts ADD UNIQUE (note);")
    assert (failure.rows, failure.keys) == (2, ("1", "2"))
    assert database.rows("SELECT count(*) FROM parents") == [(10,)]
