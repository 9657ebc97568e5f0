"""Building the schema of a database from adopted files, on a scratch server of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from pgratchet.adopt import rebuild
from pgratchet.adopt.conversion import converted_file, require_runnable
from tests.integration.adopt.helpers import live_schema
from tests.servers.databases import Database
from tests.support.targets import target_of

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


@pytest.fixture
def role(database: Database) -> Iterator[str]:
    """A role of the live server."""
    name = f"{database.name}_reader"
    database.run(f"CREATE ROLE {name}")
    yield name
    database.run(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_files_build_the_schema_with_the_roles_of_the_live_server(database: Database, role: str) -> None:
    text = f"CREATE TABLE one (a varchar CHECK (a IN ('x', 'y'))); GRANT SELECT ON one TO {role};\n"
    database.run(text)
    roles = database.rows("SELECT rolname FROM pg_roles ORDER BY 1")
    files = [converted_file("1_a", text.encode())]
    assert rebuild.try_rebuild(live_schema(database), files, ()).outcome == "same"
    makes_role = converted_file("0_role", f"CREATE ROLE {role};\n".encode())
    assert rebuild.try_rebuild(live_schema(database), [makes_role, *files], ()).outcome == "same"
    assert database.rows("SELECT rolname FROM pg_roles ORDER BY 1") == roles


def test_a_file_that_fails_and_a_schema_that_differs_are_named(database: Database) -> None:
    database.run("CREATE TABLE one (a int); CREATE TABLE two (a int)")
    live = live_schema(database)
    failed = rebuild.try_rebuild(live, [converted_file("1_a", b"ALTER TABLE schema_migrations ADD b int;\n")], ())
    assert failed.outcome == "fails"
    assert "1_a.sql:1:" in failed.detail[0]
    differing = rebuild.try_rebuild(live, [converted_file("1_a", b"CREATE TABLE one (a int);\n")], ())
    assert differing.outcome == "differs"
    assert "+CREATE TABLE public.two (" in differing.detail


def test_a_server_without_an_extension_of_the_database_is_not_tried(database: Database) -> None:
    live = replace(live_schema(database), extensions={"plpgsql": "1.0", "an_extension": "1"})
    result = rebuild.try_rebuild(live, [converted_file("1_a", b"SELECT 1;\n")], ())
    assert result.outcome == "not tried"
    assert result.detail[0] == "The scratch server lacks the extension an_extension."
    assert "drill_environment" in result.detail[1]


def test_the_server_for_drills_is_used_if_there_is_one(database: Database) -> None:
    database.run("CREATE TABLE one (a int)")
    before = database.rows("SELECT datname FROM pg_database ORDER BY 1")
    files = [converted_file("1_a", b"CREATE TABLE one (a int);\n")]
    assert rebuild.try_rebuild(live_schema(database), files, (), target_of(database)).outcome == "same"
    assert database.rows("SELECT datname FROM pg_database ORDER BY 1") == before


def test_files_that_cannot_run_are_refused_without_a_server(database: Database) -> None:
    files = [converted_file("1_a", b"-- migrate: stand-in\n"), converted_file("2_b", b"VACUUM;\n")]
    result = rebuild.try_rebuild(live_schema(database), files, ())
    assert (result.outcome, len(result.detail)) == ("refused", 2)
    assert "\n".join(result.detail) == require_runnable(files)


def test_files_run_with_the_search_path_of_the_live_database(database: Database) -> None:
    database.run("CREATE SCHEMA app; CREATE TABLE app.one (a int)")
    database.run(f"ALTER DATABASE {database.name} SET search_path = app")
    text = b"CREATE SCHEMA IF NOT EXISTS app;\nCREATE TABLE one (a int);\n"
    files = [converted_file("1_a", text)]
    assert rebuild.try_rebuild(live_schema(database), files, ()).outcome == "same"
    assert rebuild.try_rebuild(live_schema(database), files, (), target_of(database)).outcome == "same"
