"""Unusual databases and roles: accepted, or refused with the reason; the history is never left half made."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone

import psycopg
import pytest

from pgratchet.database import connection
from pgratchet.database.history import History
from pgratchet.errors import ConfigurationError, MigrationFailed
from pgratchet.migrations.scripts import SIZE_LIMIT
from tests.servers.databases import Database, Server
from tests.support.migrations import Attempt, WriteMigrations, history, migrate

HEAD = "-- migrate: no-transaction\n"


def set_for(database: Database, **settings: str) -> None:
    """Set defaults for every session of the database."""
    for name, value in settings.items():
        database.run(f"ALTER DATABASE {database.name} SET {name} = '{value}'")


def refuse_ddl(database: Database, moment: str, tag: str) -> None:
    """Create an event trigger that refuses a command, at its start or its end."""
    database.run(
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no % today', tg_tag; END $$"
    )
    database.run(f"CREATE EVENT TRIGGER no_ddl ON ddl_command_{moment} WHEN TAG IN ('{tag}') EXECUTE FUNCTION refuse()")


@pytest.fixture
def role(database: Database) -> Iterator[str]:
    """A role that may only log in."""
    database.run("CREATE ROLE plain LOGIN PASSWORD 'x'")
    yield "plain"
    database.run("DROP OWNED BY plain; DROP ROLE plain")


def as_role(database: Database, role: str) -> Database:
    return Database({**database.parameters, "user": role, "password": "x"})


@pytest.mark.parametrize("moment", ["start", "end"])
@pytest.mark.parametrize(
    ("tag", "command"), [("CREATE TABLE", "create table x ()"), ("CREATE SCHEMA", "create schema x")]
)
def test_an_event_trigger_that_refuses_the_history_leaves_nothing_of_it(
    database: Database, write: WriteMigrations, moment: str, tag: str, command: str
) -> None:
    files = write(m1_a="select 1")
    refuse_ddl(database, moment, tag)
    with pytest.raises(psycopg.errors.RaiseException):
        database.run(command)
    before = database.fingerprint()
    with pytest.raises(MigrationFailed, match=f"refused to create or change the history: no {tag} today"):
        migrate(database, files)
    assert database.rows("SELECT to_regnamespace('ratchet')") == [(None,)], "no schema without its table"
    assert database.fingerprint() == before
    database.run("DROP EVENT TRIGGER no_ddl")
    assert migrate(database, files).applied == ["1_a"]


def test_an_event_trigger_that_refuses_a_migration_rolls_it_back(database: Database, write: WriteMigrations) -> None:
    migrate(database, write(m1_a="create table a ()"))
    refuse_ddl(database, "end", "ALTER TABLE")
    files = write(m2_b="create table b ();\nalter table a add column x int")
    before = database.fingerprint()
    with pytest.raises(MigrationFailed, match=r"2_b\.sql:2:1: no ALTER TABLE today"):
        migrate(database, files)
    assert database.fingerprint() == before
    assert history(database) == [("1_a", True)]


def test_a_role_that_may_not_create_in_the_history_schema_is_refused(
    database: Database, role: str, write: WriteMigrations
) -> None:
    database.run(f"CREATE SCHEMA ratchet; GRANT USAGE ON SCHEMA ratchet TO {role}")
    before = database.fingerprint()
    with pytest.raises(MigrationFailed, match="permission denied for schema ratchet") as caught:
        migrate(as_role(database, role), write(m1_a="select 1"))
    assert "CREATE" in caught.value.hint
    assert database.fingerprint() == before


def test_a_role_that_may_only_read_the_history_is_refused(
    database: Database, role: str, write: WriteMigrations
) -> None:
    migrate(database, write(m1_a="create table a ()"))
    database.run(f"GRANT USAGE ON SCHEMA ratchet TO {role}; GRANT SELECT ON ratchet.migrations TO {role}")
    before = database.fingerprint()
    with pytest.raises(MigrationFailed, match="permission denied for table migrations"):
        migrate(as_role(database, role), write(m2_b="select 1"))
    assert database.fingerprint() == before
    assert history(database) == [("1_a", True)]


def test_a_role_that_owns_the_schema_needs_no_privilege_on_the_database(
    database: Database, role: str, write: WriteMigrations
) -> None:
    database.run(f"CREATE SCHEMA ratchet AUTHORIZATION {role}; CREATE SCHEMA own AUTHORIZATION {role}")
    assert migrate(as_role(database, role), write(m1_a="create table own.a ()")).applied == ["1_a"]


LARGE = "create table big (x text);\n" + "insert into big values (repeat('x', 50));\n" * (SIZE_LIMIT // 30)


@pytest.mark.parametrize(
    "settings",
    [
        {"datestyle": "German, DMY", "timezone": "Asia/Kathmandu", "intervalstyle": "sql_standard"},
        {"datestyle": "SQL, MDY", "timezone": "Pacific/Chatham", "extra_float_digits": "-15", "bytea_output": "escape"},
        {"default_transaction_isolation": "serializable"},
        {"default_transaction_isolation": "repeatable read"},
        {"default_transaction_isolation": "serializable", "default_transaction_deferrable": "on"},
        {"search_path": "pg_catalog", "standard_conforming_strings": "off", "quote_all_identifiers": "on"},
        {"statement_timeout": "250ms", "lock_timeout": "1ms", "idle_in_transaction_session_timeout": "1ms"},
        {"synchronous_commit": "off", "client_min_messages": "debug1", "track_activities": "off"},
    ],
    ids=lambda settings: next(iter(settings)) + "=" + next(iter(settings.values())),
)
def test_settings_of_the_database_change_neither_history_nor_outcome(
    database: Database, write: WriteMigrations, settings: dict[str, str]
) -> None:
    files = write(
        m1_a="create schema own; create table own.t (x int); select pg_sleep(0.3)",
        m2_b=HEAD + "insert into own.t values (1);\ncreate index concurrently i on own.t (x);",
        m3_c=LARGE.replace("big", "own.big"),
    )
    set_for(database, **settings)
    rows = database.rows("SELECT name FROM pg_settings WHERE source = 'database'")
    assert {str(name).lower() for (name,) in rows} == set(settings), "a session begins with them"
    began = datetime.now(timezone.utc)
    assert migrate(database, files).applied == ["1_a", "2_b", "3_c"]
    assert migrate(database, files).applied == []
    with database.connect() as session:
        moments = [record.executed_at for record in History().read(session)]
    assert all(moment and abs(moment - began) < timedelta(minutes=1) for moment in moments)
    assert database.rows("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('own.i')") == [(True,)]


@pytest.mark.parametrize("isolation", ["serializable", "repeatable read"])
def test_concurrent_runs_work_at_stricter_isolation_levels(
    database: Database, write: WriteMigrations, isolation: str
) -> None:
    """Each run reads the history in its own snapshot, and must not rely on an old one."""
    set_for(database, default_transaction_isolation=isolation)
    assert database.rows("SHOW transaction_isolation") == [(isolation,)]
    files = write(**{f"m{n}_x": f"create table t{n} (); select pg_sleep(0.02)" for n in range(1, 6)})
    attempts = [Attempt(database, files, run_id=f"run {n}", batch_size=2) for n in range(4)]
    threads = [threading.Thread(target=attempt.run) for attempt in attempts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [attempt.error for attempt in attempts] == [None] * 4
    assert sorted(name for attempt in attempts for name in attempt.applied) == [file.name for file in files]


Encoded = Callable[[str], Database]


@pytest.fixture
def create_encoded(server: Server) -> Iterator[Encoded]:
    """Create a database in another encoding."""
    created: list[Database] = []

    def make(encoding: str) -> Database:
        name = f"test_{encoding.lower()}"
        with connection.connect(server.parameters) as session:
            command = "CREATE DATABASE %s TEMPLATE template0 ENCODING '%s' LOCALE 'C'"
            session.execute((command % (name, encoding)).encode())
        server.created.append(name)
        created.append(Database({**server.parameters, "dbname": name}))
        return created[-1]

    yield make
    for each in created:
        server.drop(each)


@pytest.mark.parametrize("head", ["", HEAD, "create table u (x text);\ncopy u from stdin;\na\n\\.\n"])
def test_a_database_without_an_encoding_accepts_ascii_only(
    create_encoded: Encoded, write: WriteMigrations, head: str
) -> None:
    database = create_encoded("SQL_ASCII")
    database.run("CREATE TABLE unchecked AS SELECT E'\\xff'::text AS x")
    assert migrate(database, write(m1_a=f"{head}create table a as select 'cafe'::text as x")).applied == ["1_a"]
    before = database.fingerprint()
    with pytest.raises(ConfigurationError, match="has the encoding SQL_ASCII, and 2_b is not all ASCII"):
        migrate(database, write(m2_b=f"{head.replace(' u', ' v')}create table b (); -- caf\u00e9", m3_c="select 1"))
    assert database.fingerprint() == before
    assert database.rows("SELECT x FROM a") == [("cafe",)]


def test_a_database_in_another_encoding_accepts_what_it_can_hold(
    create_encoded: Encoded, write: WriteMigrations
) -> None:
    database = create_encoded("LATIN1")
    files = write(m1_a="create table a as select 'café'::text as x -- né")
    assert migrate(database, files).applied == ["1_a"]
    assert database.rows("SELECT x, length(x) FROM a") == [("café", 4)]
    assert migrate(database, files).applied == []


@pytest.mark.parametrize(("batch_size", "behind"), [(1, ["m3_c"]), (10, ["m3_c"]), (10, [])])
def test_a_file_that_the_encoding_cannot_hold_is_named(
    create_encoded: Encoded, write: WriteMigrations, batch_size: int, behind: list[str]
) -> None:
    database = create_encoded("LATIN1")
    texts = {"m1_a": "create table a ()", "m2_b": "create table b ();\n-- 100 €\n"}
    files = write(**texts, **dict.fromkeys(behind, "create table c ()"))
    with pytest.raises(MigrationFailed, match=r"2_b failed.* has no equivalent in encoding") as caught:
        migrate(database, files, batch_size=batch_size)
    assert "1_a was applied; 2_b was rolled back." in caught.value.detail
    assert history(database) == [("1_a", True)]
