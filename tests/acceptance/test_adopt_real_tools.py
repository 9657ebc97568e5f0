"""`invoke adopt` with the database and files of a real tool, and a new migration afterwards."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgratchet.backups.pg_programs import find_programs
from tests.other_tools import OTHER_TOOLS, OtherTool
from tests.other_tools.java import Liquibase
from tests.other_tools.node import Drizzle, Prisma
from tests.other_tools.sample import BROKEN, CONTENT, FURTHER, LABELS, SAMPLE
from tests.servers.databases import Database, Server
from tests.support.invoke import PARTS, Invoke, InvokeOnDatabase, environment

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)
MakeDatabase = Callable[..., Database]


@pytest.fixture
def project(checkout: Path, tmp_path: Path) -> Path:
    """A folder for a tool's project, beside a checkout without migrations."""
    for path in (checkout / "sql").iterdir():
        path.unlink()
    return tmp_path / "project"


@pytest.fixture
def create_database(server: Server) -> Iterator[MakeDatabase]:
    """Create another database, empty or as a copy."""
    created: list[Database] = []

    def create(template: str = "template0") -> Database:
        created.append(server.create(template))
        return created[-1]

    yield create
    for each in created:
        server.drop(each)


@pytest.mark.parametrize("mover", OTHER_TOOLS, ids=lambda mover: mover.label)
def test_migrations_after_adoption_give_the_same_schema_as_the_tool(
    mover: OtherTool,
    project: Path,
    database: Database,
    create_database: MakeDatabase,
    invoke: Invoke,
    invoke_on_database: InvokeOnDatabase,
    checkout: Path,
) -> None:
    mover.lay_out(project, SAMPLE)
    mover.migrate(project, database)
    alone, before = create_database(database.name), history(database, mover)

    invoke_on_database("adopt", f"--from={mover.name}", f"--files={project / mover.files}")
    (checkout / invoke_on_database("new", FURTHER.name).stdout.strip()).write_text(FURTHER.text, encoding="utf-8")
    assert invoke_on_database("migrate", "--json").json["pending"] == 0
    assert history(database, mover) == before
    status = invoke_on_database("status", "--check", "--json").json
    assert (status["pending"], status["total"] - status["applied"]) == (0, 0)

    mover.lay_out(project, [*SAMPLE, FURTHER])
    mover.migrate(project, alone)
    expected = structure(alone, mover)
    assert structure(database, mover) == expected

    if mover.rebuilds:
        empty = create_database()
        invoke("migrate", env={"DATABASE_URL": empty.url})
        assert empty.rows(CONTENT) == LABELS
        assert structure(empty, mover) == expected


def test_a_file_skipped_by_drizzle_is_named_and_not_adopted(
    project: Path, database: Database, invoke_on_database: InvokeOnDatabase, checkout: Path
) -> None:
    first, late, newest = SAMPLE
    for steps in ((first, newest), (first, late, newest)):
        Drizzle().lay_out(project, steps)
        Drizzle().migrate(project, database)
    assert database.rows("SELECT count(*), to_regclass('labels') FROM drizzle.__drizzle_migrations") == [(2, None)]
    refused(invoke_on_database, database, checkout, project / Drizzle.files, "0001_label_items")


def test_a_file_changed_after_drizzle_applied_it_is_named(
    project: Path, database: Database, invoke_on_database: InvokeOnDatabase, checkout: Path
) -> None:
    Drizzle().lay_out(project, SAMPLE)
    Drizzle().migrate(project, database)
    path = project / Drizzle.files / "0000_create_items.sql"
    path.write_text(path.read_text() + "-- and more\n")
    refused(invoke_on_database, database, checkout, project / Drizzle.files, "0000_create_items")


def test_a_file_that_failed_in_prisma_is_named(
    project: Path, database: Database, invoke_on_database: InvokeOnDatabase, checkout: Path
) -> None:
    Prisma().lay_out(project, [*SAMPLE, BROKEN])
    with pytest.raises(AssertionError, match="division by zero"):
        Prisma().migrate(project, database)
    unfinished = "SELECT migration_name, rolled_back_at FROM _prisma_migrations WHERE finished_at IS NULL"
    assert database.rows(unfinished) == [("20240101000400_break_off", None)]
    refused(invoke_on_database, database, checkout, project / Prisma.files, "20240101000400_break_off")


def refused(on: InvokeOnDatabase, database: Database, clone: Path, files: Path, name: str) -> None:
    """Check that adopt refuses, names the migration, and changes nothing."""
    before = database.fingerprint()
    done = on("adopt", f"--files={files}", status=None)
    assert done.status not in (0, 1)
    assert PARTS.search(done.stderr)
    assert name in done.stderr
    assert database.fingerprint() == before
    assert not list((clone / "sql").iterdir())


def history(database: Database, mover: OtherTool) -> list[tuple[object, ...]]:
    return [row for table in mover.history for row in database.rows(f"SELECT * FROM {table} ORDER BY 1")]


def structure(database: Database, mover: OtherTool) -> str:
    """The schema without the tables of any history."""
    with database.connect() as session:
        programs = find_programs(session.info.server_version)
    left_out = [f"--exclude-table={table}*" for table in mover.history]  # and their sequences
    command = [programs.path("pg_dump"), "--schema-only", "--exclude-schema=ratchet", "--exclude-schema=drizzle"]
    done = subprocess.run(
        [*command, *left_out, "--dbname", database.url], env=environment({}), capture_output=True, text=True, check=True
    )
    # These two carry a word made up for each dump.
    return "\n".join(line for line in done.stdout.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))


@pytest.mark.parametrize("flag", ["context", "labels"])
def test_changesets_that_liquibase_left_out_are_named_and_do_not_run(
    flag: str,
    project: Path,
    database: Database,
    create_database: MakeDatabase,
    invoke: Invoke,
    invoke_on_database: InvokeOnDatabase,
    checkout: Path,
) -> None:
    tool = Liquibase()
    tool.lay_out(project, SAMPLE)
    (project / tool.files / "900_test_data.sql").write_text(
        "--liquibase formatted sql\n--changeset a:wipe\nDELETE FROM labels;\n", encoding="utf-8"
    )
    master = project / "changelog.yaml"
    include = f"  - include:\n      file: {tool.files}/900_test_data.sql\n      {flag}: test\n"
    master.write_text(master.read_text() + include, encoding="utf-8")
    tool.migrate(project, database, "--label-filter=prod" if flag == "labels" else "--contexts=prod")
    assert database.rows(CONTENT) == LABELS

    refused(invoke_on_database, database, checkout, project / tool.files, f'the {flag} "test" of the include of')
    invoke_on_database("adopt", f"--files={project / tool.files}", "--exclude")
    assert invoke_on_database("migrate", "--json").json["pending"] == 0
    assert database.rows(CONTENT) == LABELS
    empty = create_database()
    invoke("migrate", env={"DATABASE_URL": empty.url})
    assert structure(empty, tool) == structure(database, tool)
    assert empty.rows(CONTENT) == LABELS
