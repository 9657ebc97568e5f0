"""The backup before a run: taken under the lock, before the first statement, or the run stops."""

from __future__ import annotations

import psycopg
import pytest

from pgratchet import events
from pgratchet.apply import applier
from pgratchet.errors import (
    BackupFailed,
    ConfigurationError,
    MigrationFailed,
)
from tests.servers.databases import Database
from tests.support.migrations import WriteMigrations, migrate

pytestmark = pytest.mark.every_major


def test_the_backup_comes_before_the_first_statement_and_under_the_lock(
    database: Database, write: WriteMigrations
) -> None:
    observed: list[object] = []

    def backup(_: psycopg.Connection) -> events.Stream:
        observed.append(database.rows("SELECT to_regclass('a'), to_regclass('ratchet.migrations')"))
        observed.append(database.rows("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"))
        yield events.BackupTaken("id", "path", 1, 1)

    migrate(database, write(m1_a="create table a ()"), backup)
    assert observed == [[(None, None)], [(1,)]]
    assert database.rows("SELECT backup_id FROM ratchet.migrations") == [("id",)]
    assert len(observed) == 2


def test_a_failing_migration_names_the_backup(database: Database, write: WriteMigrations) -> None:
    def backup(_: psycopg.Connection) -> events.Stream:
        yield events.BackupTaken("20250111T093000-abcd", "path", 1, 1)

    files = write(m1_a="select 1 / 0")
    with pytest.raises(MigrationFailed) as caught:
        migrate(database, files, backup)
    assert caught.value.hint.endswith(" The backup taken before this run is 20250111T093000-abcd.")
    with pytest.raises(MigrationFailed) as caught:
        migrate(database, files)
    assert caught.value.hint.endswith("; then run `invoke migrate` again.")


def test_a_failing_backup_stops_the_run(database: Database, write: WriteMigrations) -> None:
    def backup(_: psycopg.Connection) -> events.Stream:
        yield from ()
        raise BackupFailed("no", hint="None.")

    before = database.fingerprint()
    with pytest.raises(BackupFailed):
        migrate(database, write(m1_a="create table a ()"), backup)
    assert database.fingerprint() == before


def test_the_destructive_only_policy_skips_backups_for_additions(database: Database, write: WriteMigrations) -> None:
    def backup(_: psycopg.Connection) -> events.Stream:
        yield events.BackupTaken("id", "path", 1, 1)

    files = write(m1_a="create table a (x int)", m2_b="insert into a values (1)")
    migrate(database, files, backup, only_destructive=True)
    files = write(m3_c="alter table a add y int", m4_d="drop table a")
    migrate(database, files, backup, only_destructive=True, to="3")
    migrate(database, files, backup, only_destructive=True)
    migrate(database, write(m5_e="create table b ()"), backup, only_destructive=True, without_backup="said so")
    assert database.rows("SELECT name, backup_id, backup_waived FROM ratchet.migrations ORDER BY id") == [
        ("1_a", None, "nothing destructive"),
        ("2_b", None, "nothing destructive"),
        ("3_c", None, "nothing destructive"),
        ("4_d", "id", None),
        ("5_e", None, "said so"),
    ]


WIPE = (
    "create table kept as select 1 as x; create function wipe() returns int language plpgsql immutable as"
    " $$ begin perform public.really_wipe(); return 1; end $$;"
    "create function really_wipe() returns int language sql volatile as 'delete from public.kept; select 1';"
    "create function wipe_trigger() returns trigger language plpgsql as"
    " 'begin perform public.really_wipe(); return new; end';"
    "create function wipe_event() returns event_trigger language plpgsql as 'begin perform public.really_wipe(); end'"
)


EMPTY = "create table t (x int)"
FILLED = "create table t (x int); insert into t values (1)"
TRIGGER = f"{EMPTY}; create trigger w before insert on t for each row execute function wipe_trigger()"


@pytest.mark.parametrize(
    ("prepared", "text"),
    [
        ("", "create table r as select wipe()"),
        ("", "create materialized view r as select wipe()"),
        (EMPTY, "insert into t select wipe()"),
        (FILLED, "alter table t add y int default really_wipe()"),
        (FILLED, "alter table t add check (wipe() = x)"),
        (
            "create table t (x int); insert into t values (1)",
            "alter table t add constraint c check (really_wipe() = x)",
        ),
        (FILLED, "create index on t ((x + wipe()))"),
        (EMPTY, "alter table t add y int generated always as (x + wipe()) stored"),
        ("create domain d as int check (wipe() = 1)", "create table t (x int); alter table t add y d default 1"),
        ("create table t (x int default really_wipe())", "insert into t values (default)"),
        ("create table t (x int check (really_wipe() = 1))", "insert into t values (1)"),
        (
            "create table t (x int);create trigger w before insert on t for each row execute function wipe_trigger()",
            "insert into t values (1)",
        ),
        (
            "create table t (x int);create trigger w before insert on t for each row execute function wipe_trigger()",
            "copy t from stdin;\n1\n\\.\n",
        ),
        (
            "create table t (x int); create rule r as on insert to t do also delete from kept",
            "insert into t values (1)",
        ),
        (TRIGGER, "create table if not exists t (x int); insert into t values (1)"),
        ("create event trigger e on ddl_command_end execute function wipe_event()", "create table t ()"),
    ],
)
def test_whatever_can_call_a_function_is_preceded_by_a_backup(
    database: Database, write: WriteMigrations, prepared: str, text: str
) -> None:
    database.run(WIPE)
    for statement in filter(None, prepared.split(";")):
        database.run(statement)
    rows: list[object] = []

    def backup(session: psycopg.Connection) -> events.Stream:
        rows.extend(session.execute("SELECT x FROM kept").fetchall())
        yield events.BackupTaken("id", "path", 1, 1)

    migrate(database, write(m1_a=text), backup, only_destructive=True)
    assert rows == [(1,)]
    assert database.rows("SELECT backup_id FROM ratchet.migrations") == [("id",)]


def test_a_waiver_needs_a_reason() -> None:
    assert applier.needs_backup("always", None)
    assert applier.needs_backup("when-destructive", None)
    assert not applier.needs_backup("always", "a reason")
    assert not applier.needs_backup("never", None)
    with pytest.raises(ConfigurationError, match="needs a reason"):
        applier.needs_backup("always", " ")
