"""Traces of several statements and migrations: what each of them did, and what is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgratchet.adopt.conversion import converted_file
from pgratchet.migrations.files import read
from pgratchet.migrations.scripts import prepare_scripts
from pgratchet.rehearsal.report import Changes, Position
from pgratchet.rehearsal.trace import StatementFailed, Trace
from tests.servers.databases import Database

SCHEMA = """
CREATE TABLE one (id int PRIMARY KEY, n int);
CREATE TABLE two (id int PRIMARY KEY, n int);
INSERT INTO one SELECT g, g FROM generate_series(1, 5000) AS g;
INSERT INTO two SELECT g, g FROM generate_series(1, 5000) AS g;
"""


def trace_of(database: Database, *texts: str) -> Trace:
    files = [converted_file(f"{number}_a", text.encode()) for number, text in enumerate(texts, 1)]
    return Trace(database.connect, prepare_scripts(files))


def traced(database: Database, *texts: str) -> Trace:
    trace = trace_of(database, *texts)
    for _ in trace.run():
        pass
    return trace


def test_counters_that_the_server_zeroes_between_migrations_are_no_loss(database: Database) -> None:
    database.run(SCHEMA)
    trace = traced(
        database,
        "UPDATE one SET n = 1;",
        "SELECT pg_sleep(1.2);",  # after a second, the server takes what the session has counted
        "UPDATE one SET n = 2 WHERE id <= 10;",
        "UPDATE one SET n = 3 WHERE id <= 7;",
    )
    assert [each.changes for each in trace.statements] == [
        (Changes("public.one", updated=5000),),
        (),
        (Changes("public.one", updated=10),),
        (Changes("public.one", updated=7),),
    ]


def test_each_statement_has_its_own_locks_rows_and_log(database: Database) -> None:
    database.run(SCHEMA)
    trace = traced(database, "UPDATE one SET n = 0;\nALTER TABLE two ADD x int;\n\nDELETE FROM one;\nSELECT 1;")
    first, second, third, fourth = trace.statements
    assert [each.line for each in trace.statements] == [1, 2, 4, 5]
    assert {lock.relation for lock in first.locks if not lock.table} == {"public.one"}
    assert {(lock.relation, lock.mode) for lock in second.locks} == {("public.two", "ACCESS EXCLUSIVE")}
    assert third.locks == fourth.locks == ()
    assert third.changes == (Changes("public.one", deleted=5000),)
    assert first.wal_bytes > 100_000 > second.wal_bytes > fourth.wal_bytes == 0
    assert first.growth_bytes > 0
    (migration,) = trace.migrations
    assert migration.wal_bytes == sum(each.wal_bytes for each in trace.statements)
    assert migration.growth_bytes > 0


def test_relations_of_the_migration_itself_are_left_out(database: Database) -> None:
    trace = traced(database, "CREATE TABLE made (id int);\nCREATE INDEX ON made (id);\nALTER TABLE made ADD x int;")
    assert [each.locks for each in trace.statements] == [(), (), ()]
    assert trace.stops == []


def test_a_lock_is_measured_by_another_session_from_its_begin(database: Database) -> None:
    database.run(SCHEMA)
    text = "DO $$ BEGIN PERFORM pg_sleep(0.3); ALTER TABLE one ADD x int; PERFORM pg_sleep(0.4); END $$;"
    (stop,) = traced(database, text).stops
    assert stop.relation == "public.one"
    assert 350 < stop.duration_ms < 600
    assert stop.is_confirmed


def test_locks_of_a_caught_exception_are_seen_where_they_last(database: Database) -> None:
    database.run(SCHEMA)
    body = "BEGIN LOCK TABLE two; PERFORM pg_sleep(0.2); RAISE 'x'; EXCEPTION WHEN raise_exception THEN NULL; END"
    trace = traced(database, f"DO $$ {body} $$;", f"-- migrate: no-transaction\nDO $$ {body} $$;")
    inside, alone = trace.statements
    assert inside.locks == ()  # given back with the exception
    assert [(stop.relation, stop.blocks) for stop in trace.stops[:1]] == [("public.two", "reads")]  # others met it
    assert [(lock.relation, lock.mode) for lock in alone.locks] == [("public.two", "ACCESS EXCLUSIVE")]


def test_rows_of_copy_are_loaded(database: Database) -> None:
    database.run(SCHEMA)
    trace = traced(database, "COPY one FROM stdin;\n9001\t1\n9002\t2\n\\.\nSELECT 1;\n")
    assert trace.statements[0].changes == (Changes("public.one", inserted=2),)


def test_settings_of_a_file_end_with_it(database: Database) -> None:
    database.run(SCHEMA)
    trace = traced(database, "SET search_path = pg_catalog;\nSET ROLE pg_monitor;", "UPDATE one SET n = 1;")
    assert trace.statements[2].rows_changed == 5000


@pytest.mark.parametrize("prefix", ["", "-- migrate: no-transaction\n"])
def test_a_failure_undoes_its_transaction_and_keeps_the_reports_before(database: Database, prefix: str) -> None:
    database.run(SCHEMA)
    trace = trace_of(database, "ALTER TABLE one ADD x int;", f"{prefix}SELECT 1;\nALTER TABLE one ADD x int;")
    with pytest.raises(StatementFailed) as caught:
        for _ in trace.run():
            pass
    assert caught.value.error.sqlstate == "42701"
    assert [each.name for each in trace.migrations] == ["1_a"]
    assert trace.stops[0].locked_at == Position("1_a", 1)


def test_repeatables_run_together_and_find_their_order(database: Database, tmp_path: Path) -> None:
    database.run(SCHEMA)
    (tmp_path / "repeatable").mkdir()
    for name, source in {"a": "b", "b": "one", "c": "nowhere"}.items():
        (tmp_path / "repeatable" / f"{name}.sql").write_text(f"CREATE VIEW {name} AS SELECT * FROM {source};")
    files = read(tmp_path)
    names = {file.name for file in files}
    trace = Trace(database.connect, prepare_scripts(files[:2], names))
    for _ in trace.run():
        pass
    assert [each.migration for each in trace.statements] == ["repeatable/b", "repeatable/a"]
    assert [each.name for each in trace.migrations] == ["repeatable/a", "repeatable/b"]
    with pytest.raises(StatementFailed, match="repeatable/c"):
        for _ in Trace(database.connect, prepare_scripts(files[2:], names)).run():
            pass


def test_files_without_a_transaction_follow_each_other(database: Database) -> None:
    database.run(SCHEMA)
    alone = "-- migrate: no-transaction\n"
    trace = traced(database, f"{alone}VACUUM one;", f"{alone}CREATE INDEX CONCURRENTLY i ON one (n);", "SELECT 1;")
    assert [each.name for each in trace.migrations] == ["1_a", "2_a", "3_a"]
    assert trace.statements[1].indexes_built == ("i",)


def test_the_reports_before_a_failure_stay(database: Database) -> None:
    database.run(SCHEMA)
    trace = trace_of(database, "ALTER TABLE one ADD x int;\nSELECT pg_sleep(0.1);\nSELECT 1 / 0;")
    with pytest.raises(StatementFailed):
        for _ in trace.run():
            pass
    assert [each.line for each in trace.statements] == [1, 2]
    assert trace.stops[0].relation == "public.one"


def test_rows_of_a_table_that_was_rewritten_are_counted(database: Database) -> None:
    database.run(SCHEMA)
    database.run("ANALYZE")
    trace = traced(database, "ALTER TABLE one ALTER n TYPE bigint;", "CREATE INDEX ON one (n);")
    assert [(scan.relation, scan.rows) for scan in trace.statements[1].scans] == [("public.one", 5000)]


def test_a_lock_given_back_to_a_savepoint_stops_nobody_afterwards(database: Database) -> None:
    database.run(SCHEMA)
    text = (
        "SAVEPOINT a;\nLOCK TABLE one;\nROLLBACK TO a;\nSELECT pg_sleep(0.3);\nLOCK TABLE one;\nSELECT pg_sleep(0.1);"
    )
    first, *_ = traced(database, text).stops
    assert first.relation == "public.one"
    assert first.duration_ms < 50


def test_a_deferred_check_of_a_statement_alone_is_a_failure_of_its_file(database: Database) -> None:
    database.run(SCHEMA + "CREATE TABLE late (p int REFERENCES one DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(StatementFailed, match="1_a"):
        traced(database, "-- migrate: no-transaction\nINSERT INTO late VALUES (-5);\n")


def test_a_role_of_a_file_without_a_transaction_lasts_to_its_end(database: Database) -> None:
    database.run(SCHEMA)
    check = "DO $$ BEGIN IF current_user <> 'pg_monitor' THEN RAISE 'x'; END IF; END $$;"
    traced(database, f"-- migrate: no-transaction\nSET ROLE pg_monitor;\nSELECT 1;\n{check}\n", "DELETE FROM one;")
