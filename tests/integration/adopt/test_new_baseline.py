"""`adopt --baseline=001` without a file writes the schema of the database, and marks it as applied."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgratchet import events
from pgratchet.adopt import live_schema
from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.checks import ci
from pgratchet.config.settings import RenderedTarget
from pgratchet.database.roles import create_missing_roles
from pgratchet.errors import ConfigurationError, HistoryDisagrees
from pgratchet.migrations import files as migrations
from pgratchet.operations.base import Machine
from pgratchet.operations.examine import Examine
from pgratchet.tasks import adopting
from tests.servers.databases import Database, Server
from tests.support.migrations import HISTORY, WriteMigrations, history
from tests.support.targets import target_of

bundled_only = pytest.mark.parametrize("server", ["embedded"], indirect=True)

SCHEMA = """
CREATE TABLE public.customers (id int PRIMARY KEY, name text DEFAULT 'x;y');
CREATE VIEW public.names AS SELECT name FROM public.customers;
ALTER TABLE public.customers ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON public.customers TO "Base Reader" USING (name = current_user);
GRANT SELECT, INSERT ON public.customers TO base_app;
GRANT SELECT ON public.names TO "Base Reader" WITH GRANT OPTION;
GRANT SELECT (name) ON public.customers TO base_column;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO base_default;
CREATE FUNCTION public.f() RETURNS text LANGUAGE sql AS $$ SELECT 'GRANT x TO nobody' $$;
REVOKE ALL ON FUNCTION public.f() FROM PUBLIC;
"""
ROLES = ("Base Reader", "base_app", "base_column", "base_default")


@pytest.fixture
def owned(server: Server, database: Database) -> Iterator[Database]:
    """A database of a role that may not create others, with tables, privileges and no history."""
    with database.connect() as session:
        create_missing_roles(session, ROLES)
    database.run("CREATE ROLE base_owner LOGIN")
    database.run(f"ALTER SCHEMA public OWNER TO base_owner; GRANT ALL ON DATABASE {database.name} TO base_owner")
    owner = Database({**database.parameters, "user": "base_owner"})
    owner.run(SCHEMA)
    yield owner
    database.run("ALTER SCHEMA public OWNER TO postgres")
    for name in ("base_owner", *ROLES):
        database.run(f'DROP OWNED BY "{name}" CASCADE')
    for name in ("base_owner", *ROLES):
        database.run(f'DROP ROLE "{name}"')


def adopt(target: RenderedTarget, sql: Path, name: str = "001", *, dry_run: bool = False) -> tuple[str, ...]:
    with adopting._session(target) as session:
        return adopting._mark_baseline(target, session, sql, name, lambda: None, yes=False, dry_run=dry_run)


@bundled_only
def test_the_schema_is_written_compared_on_another_server_and_marked(
    owned: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, sql = target_of(owned), tmp_path / "sql"
    databases = owned.rows("SELECT datname FROM pg_database ORDER BY 1")
    assert adopt(target, sql, dry_run=True) == ("001_baseline",)
    assert not sql.exists()
    assert history(owned) == []
    assert adopt(target, sql) == ("001_baseline",)
    said = capsys.readouterr().err
    assert "may not create databases here: the schemas are compared on another server" in said
    assert "the schemas are the same" in said
    assert "roles: [Base Reader, base_app, base_column, base_default]" in said
    assert history(owned) == [("001_baseline", True)]
    assert adopt(target, sql) == (), "a second time, there is nothing to do"
    text = (sql / "001_baseline.sql").read_text()
    assert "Roles that it needs: Base Reader, base_app, base_column, base_default" in text
    assert not re.search(r"base_owner|ratchet|OWNER TO", text)
    assert owned.rows("SELECT datname FROM pg_database ORDER BY 1") == databases
    assert ci.is_baseline(migrations.read(sql)[0], migrations.read(sql))


@bundled_only
def test_a_new_database_gets_the_privileges(owned: Database, server: Server, tmp_path: Path) -> None:
    adopt(target_of(owned), tmp_path / "sql")
    copy = server.create()
    try:
        files = migrations.read(tmp_path / "sql")
        events.drain(applier.migrate(copy.connect, HISTORY, files, None, MigrateOptions("run")))
        granted = (
            "SELECT has_table_privilege('base_app', 'customers', 'INSERT'),"
            " has_function_privilege('base_app', 'f()', 'EXECUTE')"
        )
        assert copy.rows(granted) == [(True, False)]
        copy.run("CREATE TABLE later ()")
        assert copy.rows("SELECT has_table_privilege('base_default', 'later', 'SELECT')") == [(True,)]
    finally:
        server.drop(copy)


@bundled_only
def test_a_database_without_a_history_is_told_the_command(database: Database, write: WriteMigrations) -> None:
    database.run("CREATE TABLE here ()")
    with pytest.raises(HistoryDisagrees) as caught:
        applier_run(database, write(m2_a="create table t ()"))
    assert "run `invoke adopt --baseline=001`" in caught.value.hint
    (notice,) = [event for event in applier_run(database, ()) if isinstance(event, events.ServerNotice)]
    assert "run `invoke adopt --baseline=001`" in notice.message
    (finding,) = [
        each
        for each in Examine(has_files=False).run(target_of(database, backup_policy="never"), Machine(Path()))
        if each.subject == "contents"
    ]
    assert finding.severity == "warning"
    assert "run `invoke adopt --baseline=001`" in finding.remedy
    assert history(database) == []


def applier_run(database: Database, files: tuple[migrations.Migration, ...]) -> list[events.Event]:
    return list(applier.migrate(database.connect, HISTORY, files, None, MigrateOptions("run")))


@pytest.mark.parametrize(
    ("name", "is_new"),
    [("001", True), ("1_baseline", True), ("0_baseline.sql", True), ("2", False), ("5", False), ("1_other", False)],
)
def test_only_the_name_of_a_first_baseline_stands_for_a_new_file(
    write: WriteMigrations, name: str, is_new: bool
) -> None:
    assert live_schema.is_new(name, write(m2_a="select 1", m4_b="select 1")) is is_new


def test_a_first_file_named_baseline_is_not_linted(write: WriteMigrations) -> None:
    files = write(m1_baseline="select 1", m2_baseline="select 1", m3_more="select 1")
    assert [file.name for file in files if ci.is_baseline(file, files)] == ["1_baseline"]


@bundled_only
def test_another_unknown_name_is_a_mistake(database: Database, write: WriteMigrations, sql_folder: Path) -> None:
    write(m1_a="create table t ()")
    with pytest.raises(ConfigurationError, match="no migration is named"):
        adopt(target_of(database), sql_folder, "7")
    assert [path.name for path in sql_folder.iterdir()] == ["1_a.sql"]
