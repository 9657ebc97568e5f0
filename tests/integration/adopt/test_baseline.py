"""A database without a history is adopted if its schema equals the files'."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgratchet.adopt import baseline
from pgratchet.errors import HistoryDisagrees, MigrationFailed
from pgratchet.migrations import files as migrations
from pgratchet.operations.restore import restore_server
from pgratchet.operations.schema import schema_dumper
from pgratchet.tasks import adopting
from tests.integration.adopt.helpers import ToolProject
from tests.other_tools.handwritten import TWO
from tests.servers.databases import Database
from tests.support.targets import target_of

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


def take_baseline(database: Database, folder: Path, name: str, *, yes: bool = False) -> list[str]:
    target, files = target_of(database), migrations.read(folder)
    with adopting._session(target) as session:
        marked = baseline.select(session.open(), files, name)
        dump = schema_dumper(target, session)
        differences = baseline.differences(restore_server(target), database.name, dump, files, name)
        baseline.require_equal(differences, yes=yes)
        baseline.mark(session, files, name, "run")
    return [each.name for each in marked]


BASE = "create table one (a int primary key, b text default 'x;y');\ncreate view v as select a from one;\n"


@pytest.fixture
def baseline_project(project: ToolProject) -> Iterator[ToolProject]:
    project.sql.mkdir()
    (project.sql / "1_base.sql").write_text(BASE)
    (project.sql / "2_more.sql").write_text(TWO)
    databases = project.database.rows("SELECT datname FROM pg_database ORDER BY 1")
    yield project
    assert project.database.rows("SELECT datname FROM pg_database ORDER BY 1") == databases


def test_a_database_with_the_schema_of_the_files_is_adopted(baseline_project: ToolProject) -> None:
    baseline_project.database.run(BASE)
    assert take_baseline(baseline_project.database, baseline_project.sql, "1_base") == ["1_base"]
    rows = "SELECT name, source, executed_at = '-infinity' FROM ratchet.migrations"
    assert baseline_project.database.rows(rows) == [("1_base", "adopted:baseline", True)]
    assert baseline_project.migrate() == ["applied", "applied"]
    assert take_baseline(baseline_project.database, baseline_project.sql, "2_more") == []


def test_a_database_with_another_schema_is_refused_with_the_differences(baseline_project: ToolProject) -> None:
    baseline_project.database.run(BASE.replace("b text", "b varchar(9)"))
    before = baseline_project.database.fingerprint()
    with pytest.raises(HistoryDisagrees, match="does not have the schema") as caught:
        take_baseline(baseline_project.database, baseline_project.sql, "1_base")
    assert "-    b text DEFAULT 'x;y'::text" in caught.value.detail
    assert "+    b character varying(9) DEFAULT 'x;y'::character varying" in caught.value.detail
    assert baseline_project.database.fingerprint() == before
    assert take_baseline(baseline_project.database, baseline_project.sql, "1_base", yes=True) == ["1_base"]


def test_files_that_fail_are_reported_as_by_migrate(baseline_project: ToolProject) -> None:
    (baseline_project.sql / "1_base.sql").write_text("create table one (a int);\nselect nothing;\n")
    with pytest.raises(MigrationFailed, match=r"1_base\.sql:2:8"):
        take_baseline(baseline_project.database, baseline_project.sql, "1_base")
    assert not baseline_project.database.rows("SELECT 1 FROM pg_namespace WHERE nspname = 'ratchet'")


ROUND_TRIPS = {
    "a check with IN": "create table one (a varchar(9) check (a in ('x', 'y')))",
    "a domain": "create domain one as varchar check (value in ('m', 'n'))",
    "a view": "create view one as select t.a in ('x', 'y') as b from (values ('x'::varchar)) as t (a)",
    "a generated column": "create table one (a varchar, b bool generated always as (a in ('x', 'y')) stored)",
    "a policy": "create table one (a varchar); create policy p on one using (a in ('x', 'y'))",
    "a partial index": "create table one (a varchar); create index on one (a) where a in ('x', 'y')",
    "a trigger": (
        "create table one (a varchar); create function f() returns trigger language plpgsql as 'begin return new; end';"
        "create trigger t before update on one for each row when (new.a in ('x', 'y')) execute function f()"
    ),
    "an owned schema": "comment on schema public is 'ours'; create table one (a int)",
}


@pytest.mark.parametrize("kind", ROUND_TRIPS)
def test_the_dump_of_a_database_is_accepted_as_its_baseline(baseline_project: ToolProject, kind: str) -> None:
    baseline_project.database.run(ROUND_TRIPS[kind])
    target = target_of(baseline_project.database)
    with adopting._session(target) as session:
        session.open()
        dump = schema_dumper(target, session)(baseline_project.database.name).decode()
    body = "".join(line for line in dump.splitlines(keepends=True) if "restrict " not in line)
    (baseline_project.sql / "1_base.sql").write_text(body)
    assert take_baseline(baseline_project.database, baseline_project.sql, "1_base") == ["1_base"]


def test_a_difference_behind_equal_texts_is_found(baseline_project: ToolProject) -> None:
    baseline_project.database.run("create table one (a varchar(9) check (a in ('x', 'z')))")
    (baseline_project.sql / "1_base.sql").write_text("create table one (a varchar(9) check (a in ('x', 'y')));")
    with pytest.raises(HistoryDisagrees) as caught:
        take_baseline(baseline_project.database, baseline_project.sql, "1_base")
    assert "'z'" in caught.value.detail


def test_files_run_with_the_search_path_of_the_database(baseline_project: ToolProject) -> None:
    database = baseline_project.database
    database.run("CREATE SCHEMA app; CREATE TABLE app.one (a int)")
    database.run(f"ALTER DATABASE {database.name} SET search_path = app")
    (baseline_project.sql / "1_base.sql").write_text("create schema app;\ncreate table one (a int);\n")
    assert take_baseline(database, baseline_project.sql, "1_base") == ["1_base"]


def test_a_file_that_requires_a_repeatable_is_compared_with_what_both_make(baseline_project: ToolProject) -> None:
    function = "create or replace function key(x int) returns int immutable language sql as 'select x';"
    index = "create index i on one (key(a));"
    folder = baseline_project.sql / "repeatable"
    folder.mkdir()
    (folder / "key.sql").write_text(function)
    (folder / "later.sql").write_text("create or replace view later as select 1 as x;")
    (baseline_project.sql / "2_more.sql").write_text(f"-- migrate: after=repeatable/key.sql\n{index}")
    baseline_project.database.run(f"{BASE} {function} {index}")
    marked = take_baseline(baseline_project.database, baseline_project.sql, "2_more")
    assert marked == ["1_base", "2_more"]
    assert baseline_project.migrate() == ["applied", "applied"]
    rows = baseline_project.database.rows("SELECT name FROM ratchet.migrations ORDER BY id")
    assert rows == [("1_base",), ("2_more",), ("repeatable/key@1",), ("repeatable/later@1",)]
