"""Repeatable migrations: run when their text changed, all of a run in one transaction, in an order that is found."""

from __future__ import annotations

import random
import threading

import pytest

from pgratchet import events
from pgratchet.database.history import History
from pgratchet.errors import HistoryDisagrees, MigrationFailed
from pgratchet.migrations.plan import make_plan
from tests.servers.databases import Database
from tests.servers.pgbouncer import StartPooler
from tests.support.migrations import HISTORY, WriteMigrations, WriteRepeatables, history, migrate

VIEW = "create or replace view %s as select x from %s;"
TABLE = {"m1_t": "create table t (x int)"}
CHAIN = {"a": VIEW % ("a", "b"), "b": VIEW % ("b", "c"), "c": VIEW % ("c", "t")}
"""Three views; each needs one whose file comes later."""


def states(database: Database, files: tuple[object, ...]) -> dict[str, str]:
    with database.connect() as connection:
        plan = make_plan(files, HISTORY.read(connection))  # type: ignore[arg-type]
    return {entry.name: entry.state for entry in plan.repeatables.entries}


def texts(database: Database) -> list[tuple[object, ...]]:
    return database.rows("SELECT name, body FROM ratchet.migrations WHERE name LIKE 'repeatable/%' ORDER BY id")


@pytest.mark.every_major
def test_views_in_the_wrong_order_of_names_are_created(
    database: Database, write: WriteMigrations, write_repeatables: WriteRepeatables
) -> None:
    write(**TABLE)
    files = write_repeatables(**CHAIN)
    ran = migrate(database, files)
    assert ran.events[0] == events.Planned(("1_t", "repeatable/a", "repeatable/b", "repeatable/c"), total=4, pending=4)
    assert ran.events[-1] == events.Finished(total=4, pending=0)
    assert sorted(ran.applied) == ["1_t", "repeatable/a", "repeatable/b", "repeatable/c"]
    assert database.rows("SELECT count(*) FROM a") == [(0,)]
    assert texts(database) == [(f"repeatable/{name}@1", text) for name, text in CHAIN.items()]
    assert migrate(database, files).events == [
        events.Planned((), total=4, pending=0),
        events.Finished(total=4, pending=0),
    ]
    assert states(database, files) == dict.fromkeys(("repeatable/a", "repeatable/b", "repeatable/c"), "up to date")


@pytest.mark.parametrize(
    "texts",
    [
        {"a": "select f(1); ", "b": "create function f(int) returns int language sql as 'select 1'"},
        {"a": "select 'x'::kind", "b": "do $$ begin create type kind as enum ('x'); end $$"},
        {"a": "create function g() returns int language sql as 'select f()'", "b": "create function f() returns int "
         "language sql as 'select 1'"},
        {"a": "create view s.v as select 1 as x", "b": "create schema s"},
        {"a": "create view v as select y from w", "b": "create or replace view w as select x, x as y from t"},
        {"a": "comment on view b is 'b'", "b": "create view b as select 1 as x"},
        {"a": "do $$ begin perform * from b; end $$", "b": "create view b as select 1 as x"},
    ],
)  # fmt: skip
def test_every_kind_of_object_may_come_from_a_later_file(
    database: Database, write_repeatables: WriteRepeatables, texts: dict[str, str]
) -> None:
    database.run("CREATE TABLE t (x int); CREATE VIEW w AS SELECT x FROM t")
    assert sorted(migrate(database, write_repeatables(**texts)).applied) == ["repeatable/a", "repeatable/b"]


def test_a_change_runs_exactly_the_changed_file_and_changes_back_run_again(
    database: Database, write: WriteMigrations, write_repeatables: WriteRepeatables
) -> None:
    write(**TABLE)
    migrate(database, write_repeatables(**CHAIN))
    changed = CHAIN["b"] + " -- again"
    files = write_repeatables(b=changed)
    assert states(database, files)["repeatable/b"] == "changed"
    assert migrate(database, files).applied == ["repeatable/b"]
    assert migrate(database, write_repeatables(b=CHAIN["b"])).applied == ["repeatable/b"]
    assert [row for row in texts(database) if "/b@" in str(row[0])] == [
        ("repeatable/b@1", CHAIN["b"]),
        ("repeatable/b@2", changed),
        ("repeatable/b@3", CHAIN["b"]),
    ]


def test_a_deleted_file_is_missing_drops_nothing_and_stops_nothing(
    database: Database, write: WriteMigrations, write_repeatables: WriteRepeatables
) -> None:
    write(**TABLE)
    migrate(database, write_repeatables(**CHAIN))
    files = write_repeatables(a=None)
    assert states(database, files)["repeatable/a"] == "missing"
    assert migrate(database, files).applied == []
    assert migrate(database, write(m2_u="create table u ()")).applied == ["2_u"]
    assert database.rows("SELECT count(*) FROM a") == [(0,)]
    assert migrate(database, write_repeatables(a=CHAIN["a"])).applied == [], "its text is the one that ran"


def test_a_failure_in_the_second_leaves_nothing_of_the_first(
    database: Database, write: WriteMigrations, write_repeatables: WriteRepeatables
) -> None:
    migrate(database, write(**TABLE))
    before = database.fingerprint()
    files = write_repeatables(a="create view a as select 1 as x;", b="create view b as\nselect 1/0 as x;\nselec")
    with pytest.raises(MigrationFailed, match=r"repeatable/b failed at .*repeatable/b.sql:3:1: syntax error") as caught:
        migrate(database, files)
    assert "repeatable/a and repeatable/b were rolled back." in caught.value.detail
    assert database.fingerprint() == before
    assert history(database) == [("1_t", True)]
    files = write_repeatables(b="create view b as select 1 as x;\nselect\n  1/0;")
    with pytest.raises(MigrationFailed, match=r"repeatable/b.sql:3:4: division by zero"):
        migrate(database, files)
    assert database.fingerprint() == before


def test_a_cycle_is_named_with_each_error_and_rolled_back(
    database: Database, write: WriteMigrations, write_repeatables: WriteRepeatables
) -> None:
    migrate(database, write(**TABLE))
    before = database.fingerprint()
    files = write_repeatables(
        a=VIEW % ("a", "b"), b=VIEW % ("b", "public.c"), c=VIEW % ("c", "a"), d="create view d as select 1 as x",
        e=VIEW % ("e", "a"),
    )  # fmt: skip
    with pytest.raises(MigrationFailed, match="cycle: repeatable/a -> repeatable/b -> repeatable/c -> repeatable/a"):
        migrate(database, files)
    with pytest.raises(MigrationFailed) as caught:
        migrate(database, files)
    lines = caught.value.detail.splitlines()
    assert [line.partition("repeatable/")[2].partition(":")[0] for line in lines[:4]] == [
        "a.sql", "b.sql", "c.sql", "e.sql",
    ]  # fmt: skip
    assert lines[0].endswith('a.sql:1:43: relation "b" does not exist. It is created by repeatable/b.')
    assert "repeatable/a to repeatable/e (5 migrations) were rolled back." in lines[-1]
    assert caught.value.location is not None
    assert caught.value.location.line == 1
    assert database.fingerprint() == before
    assert history(database) == [("1_t", True)]


def test_functions_that_need_each_other_run_as_the_advice_says(
    database: Database, write_repeatables: WriteRepeatables
) -> None:
    function = "create or replace function %s(n int) returns int language sql as $$ select %s(n) $$;"
    files = write_repeatables(f=function % ("f", "g"), g=function % ("g", "f"))
    with pytest.raises(MigrationFailed, match="repeatable/f -> repeatable/g") as caught:
        migrate(database, files)
    advice = "SET check_function_bodies = off;"
    assert advice in caught.value.hint
    files = write_repeatables(f=f"{advice}\n{function % ('f', 'g')}")
    assert len(migrate(database, files).applied) == 2


def test_what_nothing_creates_is_an_error_of_each_file(
    database: Database, write: WriteMigrations, write_repeatables: WriteRepeatables
) -> None:
    migrate(database, write(m1_x="create table x ()"))
    before = database.fingerprint()
    with pytest.raises(MigrationFailed, match=r'repeatable/a failed at .*a.sql:1:43: relation "t" does not exist'):
        migrate(database, write_repeatables(a=VIEW % ("a", "t"), b="create view b as select 1"))
    with pytest.raises(MigrationFailed, match="2 repeatables need what does not exist") as caught:
        migrate(database, write_repeatables(b=VIEW % ("b", "u")))
    assert 'relation "t" does not exist' in caught.value.detail
    assert 'relation "u" does not exist' in caught.value.detail
    assert database.fingerprint() == before


def test_a_file_leaves_no_setting_role_or_temporary_object_to_the_next(
    database: Database, write_repeatables: WriteRepeatables
) -> None:
    database.run("DROP ROLE IF EXISTS repeatable_role; CREATE ROLE repeatable_role")
    files = write_repeatables(
        a="set search_path = nowhere; set statement_timeout = 4321; create temp table e (); set role repeatable_role;",
        b="do $$ begin assert current_user = session_user; assert current_setting('search_path') like '%public%';"
        " assert to_regclass('e') is null; assert current_setting('statement_timeout') <> '4321ms'; end $$",
        c="create view c as select 1 as x; set session authorization repeatable_role;",
    )
    try:
        assert migrate(database, files).applied == ["repeatable/a", "repeatable/b", "repeatable/c"]
    finally:
        database.run("DROP ROLE repeatable_role")


def test_rows_show_when_and_for_how_long_each_file_ran(database: Database, write_repeatables: WriteRepeatables) -> None:
    migrate(database, write_repeatables(a="select pg_sleep(0.3)", b="select 1", c="select pg_sleep(0.1)"))
    rows = database.rows("SELECT duration_ms, created_at < executed_at FROM ratchet.migrations ORDER BY executed_at")
    durations = [int(str(duration)) for duration, _ in rows]
    assert durations[0] >= 300
    assert durations[1] < 100 <= durations[2] < 300
    assert all(in_order for _, in_order in rows)


@pytest.mark.parametrize("runners", [2, 6])
def test_concurrent_runners_run_each_text_once(
    database: Database, write_repeatables: WriteRepeatables, runners: int
) -> None:
    files = write_repeatables(a="insert into e values ('a'); select pg_sleep(0.3)", b="insert into e values ('b')")
    database.run("CREATE TABLE e (name text)")
    assert sorted(_run_together(database, files, runners)) == ["repeatable/a", "repeatable/b"]
    assert database.rows("SELECT name FROM e ORDER BY name") == [("a",), ("b",)]


@pytest.mark.every_major
def test_the_unique_row_separates_two_runs_without_the_lock(
    database: Database, write_repeatables: WriteRepeatables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler. The first file fails at first, so the runs try their files in another order than planned."""
    database.run("CREATE TABLE e (name text)")
    files = write_repeatables(
        a="create or replace view v as select x from w; insert into e values ('a')",
        b="insert into e values ('b'); select pg_sleep(0.5)",
        c="create or replace view w as select 1 as x; insert into e values ('c')",
    )
    monkeypatch.setattr(History, "lock_key", property(lambda _: random.getrandbits(62)))
    names = ["repeatable/a", "repeatable/b", "repeatable/c"]
    assert sorted(_run_together(database, files, 2)) == names
    assert database.rows("SELECT name FROM e ORDER BY name") == [("a",), ("b",), ("c",)]
    assert history(database) == [(f"{name}@1", True) for name in names]


def test_a_runner_that_was_overtaken_without_the_lock_runs_its_own_text_afterwards(
    database: Database, write_repeatables: WriteRepeatables, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.run("CREATE TABLE e (name text)")
    monkeypatch.setattr(History, "lock_key", property(lambda _: random.getrandbits(62)))
    one = write_repeatables(a="insert into e values ('one'); select pg_sleep(0.5)", b="select 1")
    texts_of_one = {file.name: file.text() for file in one}
    migrate(database, write_repeatables(b="select 1", a="select 0"))
    files = write_repeatables(a=texts_of_one["repeatable/a"].decode())
    assert _run_together(database, files, 3) == ["repeatable/a"]
    assert history(database) == [("repeatable/a@1", True), ("repeatable/b@1", True), ("repeatable/a@2", True)]


def _run_together(database: Database, files: tuple[object, ...], runners: int) -> list[str]:
    """Run the files from several threads at once, and return what all of them applied."""
    barrier = threading.Barrier(runners)
    applied: list[str] = []
    errors: list[BaseException] = []

    def one(number: int) -> None:
        barrier.wait()
        try:
            applied.extend(migrate(database, files, run_id=f"run {number}").applied)  # type: ignore[arg-type]
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(runners)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    return applied


def test_a_table_lock_is_retried_and_all_files_run_then(
    database: Database, write: WriteMigrations, write_repeatables: WriteRepeatables
) -> None:
    migrate(database, write(**TABLE))
    files = write_repeatables(a="create view a as select 1 as x", b="alter table t add column if not exists y int")
    with database.connect() as holder:
        holder.execute("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE")
        threading.Timer(1.0, holder.rollback).start()
        ran = migrate(database, files, lock_timeout=200)
    assert ran.of(events.Retrying)
    assert ran.applied == ["repeatable/a", "repeatable/b"]
    assert history(database) == [("1_t", True), ("repeatable/a@1", True), ("repeatable/b@1", True)]


def test_directives_set_the_timeouts_of_their_own_file(database: Database, write_repeatables: WriteRepeatables) -> None:
    files = write_repeatables(
        a="-- migrate: statement-timeout=100ms\nselect 1", b="select pg_sleep(0.3)",
        c="-- migrate: statement-timeout=100ms\nselect pg_sleep(5)",
    )  # fmt: skip
    with pytest.raises(MigrationFailed, match=r"repeatable/c failed at .*c.sql:2:1.*statement timeout"):
        migrate(database, files)
    assert history(database) == []


def test_a_required_repeatable_runs_before_the_file_and_the_others_at_the_end(
    database: Database, write: WriteMigrations, write_repeatables: WriteRepeatables
) -> None:
    write_repeatables(
        key="create or replace function key(x int) returns int immutable language sql as 'select x % 10'",
        view="create or replace view v as select key(x) from t",
    )
    files = write(
        **TABLE,
        m2_index="-- migrate: after=repeatable/key.sql\ncreate index i on t (key(x))",
        m3_u="-- migrate: after=repeatable/key\ncreate table u ()",
    )
    ran = migrate(database, files)
    assert ran.events[0] == events.Planned(("1_t", "repeatable/key", "2_index", "3_u", "repeatable/view"), 5, 5)
    assert ran.applied == ["1_t", "repeatable/key", "2_index", "3_u", "repeatable/view"]
    assert database.rows("SELECT to_regclass('i') IS NOT NULL") == [(True,)]
    assert migrate(database, files).applied == []


def test_a_run_up_to_a_file_runs_only_the_repeatables_that_are_required(
    database: Database, write: WriteMigrations, write_repeatables: WriteRepeatables
) -> None:
    write_repeatables(a="create view a as select 1 as x", b="create view b as select 1 as x", c="select from later")
    write(m1_t="-- migrate: after=repeatable/b.sql\ncreate table t ()")
    files = write(m2_later="create table later ()")
    ran = migrate(database, files, to="1_t")
    assert ran.applied == ["repeatable/b", "1_t"]
    assert ran.events[0] == events.Planned(("repeatable/b", "1_t"), total=5, pending=5)
    assert ran.events[-1] == events.Finished(total=5, pending=3)
    assert migrate(database, files).applied == ["2_later", "repeatable/a", "repeatable/c"]


def test_pending_repeatables_need_a_backup(
    database: Database, write: WriteMigrations, write_repeatables: WriteRepeatables
) -> None:
    taken: list[str] = []

    def backup(_: object) -> events.Stream:
        taken.append("backup")
        yield events.BackupTaken("id", "path", 1, 1)

    migrate(database, write(**TABLE))
    files = write_repeatables(a="create view a as select 1 as x")
    migrate(database, files, backup=backup, only_destructive=True)
    assert taken == ["backup"]
    assert database.rows("SELECT backup_id FROM ratchet.migrations WHERE name LIKE 'repeatable/%'") == [("id",)]
    migrate(database, files, backup=backup)
    assert taken == ["backup"], "nothing was pending"


def test_disagreements_of_versioned_files_stop_repeatables_too(
    database: Database, write: WriteMigrations, write_repeatables: WriteRepeatables
) -> None:
    migrate(database, write(**TABLE))
    write_repeatables(a="create view a as select 1 as x")
    with pytest.raises(HistoryDisagrees):
        migrate(database, write(m1_t="create table other ()"))
    assert history(database) == [("1_t", True)]


def test_a_statement_that_ends_the_transaction_is_refused_with_advice(
    database: Database, write_repeatables: WriteRepeatables
) -> None:
    files = write_repeatables(a="create view a as select 1 as x", b="do $$ begin commit; end $$")
    with pytest.raises(MigrationFailed, match="repeatable/b failed") as caught:
        migrate(database, files)
    assert "Put that statement into a versioned migration with the line" in caught.value.hint
    assert history(database) == []
    assert database.rows("SELECT to_regclass('a')") == [(None,)]


def test_a_file_that_changes_its_own_row_is_not_recorded_as_applied(
    database: Database, write: WriteMigrations, write_repeatables: WriteRepeatables
) -> None:
    migrate(database, write(**TABLE))
    files = write_repeatables(a="update ratchet.migrations set checksum = 'x' where name = 'repeatable/a@1'")
    with pytest.raises(MigrationFailed, match="history row of this migration is not the one"):
        migrate(database, files)
    assert history(database) == [("1_t", True)]


def test_runners_through_and_past_a_pooler_run_each_text_once(
    database: Database, pool: StartPooler, write_repeatables: WriteRepeatables
) -> None:
    pooled, _ = pool()
    database.run("CREATE TABLE e (name text)")
    files = write_repeatables(
        a="set search_path = nowhere; insert into public.e values ('a'); create view public.v as table public.w",
        b="insert into e values ('b'); select pg_sleep(0.1); create view w as select 1 as x",
    )
    barrier = threading.Barrier(4)
    applied: list[str] = []

    def one(number: int) -> None:
        barrier.wait()
        applied.extend(migrate(database if number == 0 else pooled, files, run_id=f"run {number}").applied)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(applied) == ["repeatable/a", "repeatable/b"]
    assert database.rows("SELECT name FROM e ORDER BY name") == [("a",), ("b",)]
    with pooled.connect() as session:
        assert session.execute("SHOW search_path").fetchall() != [("nowhere",)]
