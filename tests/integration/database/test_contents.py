"""A first run on a database that is not empty: what counts, what is named, and what the flag allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pgratchet.adopt.tools.registry import TOOLS
from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.database import contents
from pgratchet.database.contents import OTHER_HISTORIES, read_contents, require_empty
from pgratchet.database.history import History
from pgratchet.errors import HistoryDisagrees
from pgratchet.events import drain
from pgratchet.migrations.files import Migration
from pgratchet.operations.base import Machine
from pgratchet.operations.examine import Examine
from pgratchet.operations.migrate import Migrate, ReadHistory
from pgratchet.operations.migrate import prepare as prepare_migration
from tests.integration.checks.helpers import finding_about
from tests.servers.databases import Database
from tests.support.migrations import HISTORY, WriteMigrations, history, migrate
from tests.support.targets import target_of

HERE = Machine(Path())
FULL = {
    "a table": ("CREATE TABLE orders (id int)", "1 table (public.orders)"),
    "a table in another schema": ('CREATE SCHEMA "My App" CREATE TABLE t ()', '1 table ("My App".t)'),
    "a partitioned table": (
        "CREATE TABLE p (x int) PARTITION BY LIST (x); CREATE TABLE p1 PARTITION OF p DEFAULT",
        "1 table (public.p)",
    ),
    "a view": ("CREATE VIEW v AS SELECT 1 AS x", "1 view (public.v)"),
    "a materialized view": ("CREATE MATERIALIZED VIEW m AS SELECT 1 AS x", "1 view (public.m)"),
    "a sequence": ("CREATE SEQUENCE s", "1 sequence (public.s)"),
    "a table with a sequence": ("CREATE TABLE t (id serial, n int GENERATED ALWAYS AS IDENTITY)", "1 table (public.t)"),
    "an unlogged table": ("CREATE UNLOGGED TABLE u ()", "1 table (public.u)"),
    "a foreign table": (
        (
            "CREATE EXTENSION file_fdw; CREATE SERVER f FOREIGN DATA WRAPPER file_fdw;"
            "CREATE FOREIGN TABLE ft (x int) SERVER f OPTIONS (filename '/none')"
        ),
        "1 table (public.ft)",
    ),
    "several": (
        "CREATE TABLE b (); CREATE TABLE a (); CREATE VIEW v AS SELECT 1 AS x; CREATE SEQUENCE s",
        "2 tables (public.a, public.b), 1 view (public.v), 1 sequence (public.s).",
    ),
    "a history of ours without rows": (
        (
            "CREATE TABLE t (); CREATE SCHEMA ratchet; CREATE TABLE ratchet.migrations AS"
            " SELECT ''::text AS name, ''::text AS checksum, now() AS executed_at, 1 AS duration_ms,"
            " ''::text AS source, 1 AS id, 1 AS statements_done, 1 AS statement_begun WHERE false"
        ),
        "1 table (public.t)",
    ),
}
EMPTY = {
    "nothing": "SELECT 1",
    "an extension with tables and views": "CREATE EXTENSION pg_stat_statements; CREATE EXTENSION hstore",
    "a function and a type": "CREATE FUNCTION f() RETURNS int RETURN 1; CREATE TYPE mood AS ENUM ('good')",
    "a schema": "CREATE SCHEMA app; CREATE SCHEMA ratchet",
    "a monitoring schema": "CREATE SCHEMA metric_helpers CREATE VIEW bloat AS SELECT 1 AS x",
    "a large object": "SELECT lo_create(0)",
}


def attempt(database: Database, files: Sequence[Migration], *, not_empty: bool = False) -> None:
    options = MigrateOptions("run", not_empty=not_empty)
    drain(applier.migrate(database.connect, HISTORY, files, None, options))


@pytest.mark.parametrize("kind", FULL)
def test_a_first_run_on_a_database_with_tables_is_refused_and_names_them(
    database: Database, write: WriteMigrations, kind: str
) -> None:
    if kind == "a foreign table" and not database.rows("SELECT 1 FROM pg_available_extensions WHERE name = 'file_fdw'"):
        pytest.skip("the server has no file_fdw")
    statements, named = FULL[kind]
    database.run(statements)
    before = database.fingerprint()
    with pytest.raises(HistoryDisagrees, match="is empty, and the database is not") as caught:
        attempt(database, write(m1_a="create table made (); insert into made default values"))
    assert named in caught.value.detail
    assert "--not-empty" in caught.value.hint
    assert "invoke adopt --baseline=NAME" in caught.value.hint
    assert database.fingerprint() == before
    attempt(database, (), not_empty=False)  # nothing would run


@pytest.mark.parametrize("kind", EMPTY)
def test_a_first_run_on_a_database_without_tables_goes_on(
    database: Database, write: WriteMigrations, kind: str
) -> None:
    if "RETURN 1" in EMPTY[kind] and database.rows("SELECT current_setting('server_version_num')::int < 140000")[0][0]:
        pytest.skip("the server is too old for the function")
    database.run(EMPTY[kind])
    assert ReadHistory().run(target_of(database), HERE).warnings == ()
    attempt(database, write(m1_a="create table made ()"))
    assert history(database) == [("1_a", True)]
    assert ReadHistory().run(target_of(database), HERE).warnings == ()
    attempt(database, write(m2_b="create table more ()"))
    assert history(database) == [("1_a", True), ("2_b", True)], "later runs do not ask for an empty database"


def test_the_flag_allows_a_first_run(database: Database, write: WriteMigrations) -> None:
    database.run("CREATE TABLE t ()")
    attempt(database, write(m1_a="create table made ()"), not_empty=True)
    assert history(database) == [("1_a", True)]


def test_a_failed_first_run_is_repeated_without_the_flag(database: Database, write: WriteMigrations) -> None:
    with pytest.raises(Exception, match="division by zero"):
        attempt(database, write(m1_a="create table made (); select 1 / 0"))
    attempt(database, write(m1_a="create table made ()"))
    assert history(database) == [("1_a", True)]


@pytest.mark.parametrize(
    ("table", "tool", "command"),
    [
        (
            "CREATE TABLE flyway_schema_history ()",
            "public.flyway_schema_history is the history of flyway",
            "--from=flyway",
        ),
        ("CREATE TABLE schema_version ()", "public.schema_version is", "--from=flyway --table=public.schema_version"),
        (
            "CREATE SCHEMA drizzle CREATE TABLE __drizzle_migrations ()",
            "drizzle.__drizzle_migrations is the history of drizzle",
            "--from=drizzle",
        ),
        ("CREATE TABLE schema_migrations ()", "is the history of dbmate, golang-migrate or another tool", ""),
        ('CREATE TABLE "SequelizeMeta" ()', 'public."SequelizeMeta" is the history of Sequelize', None),
        ("CREATE TABLE django_migrations ()", "public.django_migrations is the history of Django", None),
    ],
)
@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_the_history_of_another_tool_is_named(
    database: Database, write: WriteMigrations, table: str, tool: str, command: str | None
) -> None:
    database.run(table)
    with pytest.raises(HistoryDisagrees) as caught:
        attempt(database, write(m2_a="select 1"))
    assert tool in caught.value.detail
    baseline = "run `invoke adopt --baseline=001`"
    adoption = baseline if command is None else f"run `invoke adopt{' ' if command else ''}{command}`"
    (warning,) = ReadHistory().run(target_of(database), HERE).warnings
    for text in (caught.value.hint.splitlines()[0], warning):
        assert adoption in text
    assert baseline in caught.value.hint


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_a_first_file_is_not_proposed_where_there_is_one(database: Database, write: WriteMigrations) -> None:
    database.run("CREATE TABLE orders ()")
    target, files = target_of(database, backup_policy="never"), write(m001_a="select 1")
    with pytest.raises(HistoryDisagrees) as caught, prepare_migration(target, HERE, files, Migrate("run", ())):
        pass
    (warning,) = ReadHistory(without_first=False).run(target, HERE).warnings
    finding = finding_about(Examine(has_pending=True, without_first=False).run(target, HERE), "contents")
    for text in (caught.value.hint, warning, finding.remedy):
        assert "--baseline=001" not in text
        assert "`invoke adopt --baseline=NAME`" in text


def test_a_history_of_ours_under_another_name_is_named(database: Database, write: WriteMigrations) -> None:
    files = write(m1_a="create table made ()")
    drain(applier.migrate(database.connect, History("other", "applied"), files, None, MigrateOptions("run")))
    with pytest.raises(HistoryDisagrees) as caught:
        attempt(database, files)
    assert "other.applied is a history of pgratchet under another name" in caught.value.detail
    assert "history_schema" in caught.value.hint


def test_every_tool_that_can_be_adopted_is_known_by_its_table() -> None:
    assert {tool.name for tool in TOOLS if tool.name not in OTHER_HISTORIES[tool.table]} == set()
    assert {tool.name for tool in TOOLS} == {*contents._ADOPTED, "dbmate", "golang-migrate"}


@pytest.fixture(params=["supabase_storage_admin", "azuresu"])
def provider(request: pytest.FixtureRequest, database: Database) -> Iterator[str]:
    """A role with a name that a provider of managed servers uses."""
    name = str(request.param)
    database.run(f"CREATE ROLE {name} LOGIN PASSWORD 'x'; GRANT CREATE ON DATABASE \"{database.name}\" TO {name}")
    yield name
    database.run(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_tables_of_a_provider_do_not_count_except_for_itself(database: Database, provider: str) -> None:
    database.run(f"CREATE SCHEMA auth AUTHORIZATION {provider} CREATE TABLE users ()")
    database.run(f"ALTER TABLE auth.users OWNER TO {provider}")
    with database.connect() as session:
        assert read_contents(session, HISTORY) is None
    with Database({**database.parameters, "user": provider, "password": "x"}).connect() as session:
        found = read_contents(session, HISTORY)
    assert found is not None
    assert found.relations == ("1 table (auth.users)",)


@pytest.mark.parametrize("name", ["azureuser", "supabase_app", "cloudsqluser"])
def test_tables_of_a_user_with_a_similar_name_count(database: Database, name: str) -> None:
    database.run(f"CREATE ROLE {name}; CREATE TABLE orders (); ALTER TABLE orders OWNER TO {name}")
    try:
        with database.connect() as session:
            assert read_contents(session, HISTORY) is not None
    finally:
        database.run(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_a_runner_that_another_one_overtakes_is_not_refused(database: Database, write: WriteMigrations) -> None:
    """The other run makes the first tables between this run's reading of the history and of the tables."""
    files = write(m1_a="create table made ()")
    migrate(database, files)
    with database.connect() as session:
        assert [row.name for row in require_empty(session, HISTORY)] == ["1_a"]


def test_tasks_refuse_and_the_doctor_reports(database: Database, write: WriteMigrations) -> None:
    database.run("CREATE TABLE orders ()")
    before = database.fingerprint()
    target, files = target_of(database, backup_policy="never"), write(m1_a="create table made ()")
    with pytest.raises(HistoryDisagrees, match="is empty, and the database is not"):
        ReadHistory(check_server=True, must_be_empty=True).run(target, HERE)
    with pytest.raises(HistoryDisagrees), prepare_migration(target, HERE, files, Migrate("run", ())):
        pass
    status = ReadHistory().run(target, HERE)
    assert status.rows == (), "status shows what is pending"
    assert "the database has 1 table (public.orders)" in status.warnings[0]
    finding = finding_about(Examine(has_pending=True).run(target, HERE), "contents")
    assert finding.severity == "problem"
    assert "public.orders" in finding.what
    assert "--not-empty" in finding.remedy
    assert [each for each in Examine().run(target, HERE) if each.subject == "contents"] == []
    assert database.fingerprint() == before
    with prepare_migration(target, HERE, files, Migrate("run", (), not_empty=True)) as run:
        drain(run.apply())
    assert history(database) == [("1_a", True)]
