"""Adopted files: they rebuild an empty database, or adopt names those that keep it from that and takes mended ones."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from pgratchet.adopt.matching import Choice
from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.errors import ConfigurationError, HistoryDisagrees
from pgratchet.migrations import files as migrations
from tests.integration.adopt.helpers import LEDGER, ToolProject
from tests.other_tools import handwritten
from tests.other_tools.handwritten import ONE, SAMPLES, TWO
from tests.servers.databases import Server

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)
FRAMED = "begin;\ncreate type mood as enum ('a');\ncommit;\ncreate table one (a int);\n"


def rebuild(server: Server, folder: Path) -> list[str]:
    """The tables of a new database that has only run the files."""
    empty = server.create()
    try:
        files = migrations.read(folder)
        list(applier.migrate(empty.connect, LEDGER, files, None, MigrateOptions("rebuild")))
        rows = empty.rows("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
        return [str(name) for (name,) in rows]
    finally:
        server.drop(empty)


FRAMED_FILES: Mapping[str, dict[str, str]] = {
    "prisma": {"20240101000000_one/migration.sql": FRAMED},
    "dbmate": {"20240101000000_one.sql": f"-- migrate:up\n{FRAMED}-- migrate:down\n"},
    "flyway": {"V1__one.sql": FRAMED},
    "drizzle": {"0000_one.sql": FRAMED.replace("commit;\n", "commit;\n--> statement-breakpoint\n")},
    "goose": {"00001_x.sql": f"-- +goose Up\n{FRAMED}"},
    "golang-migrate": {"000001_x.up.sql": FRAMED},
    "yoyo": {"0001.one.sql": FRAMED},
    "node-pg-migrate": {"1700000000001_one.sql": FRAMED},
    "liquibase": {"one.sql": f"--liquibase formatted sql\n--changeset nene:a\n{FRAMED}"},
}
ROWS = {
    "prisma": handwritten.prisma(("20240101000000_one", FRAMED, "now()", "NULL")),
    "flyway": handwritten.flyway_rows(one=FRAMED),
    "drizzle": handwritten.drizzle((FRAMED_FILES["drizzle"]["0000_one.sql"], 1000)),
    "node-pg-migrate": "INSERT INTO pgmigrations (name, run_on) VALUES ('1700000000001_one', now())",
}


@pytest.mark.parametrize("name", FRAMED_FILES)
def test_files_with_begin_and_commit_rebuild_an_empty_database(project: ToolProject, server: Server, name: str) -> None:
    sample = SAMPLES[name]
    (project.files / "1700000000001_one.js").unlink(missing_ok=True)
    for path, text in {**sample.files, **FRAMED_FILES[name]}.items():
        if not path.endswith(".js"):
            project.write(path, text)
    project.database.run(f"{FRAMED} {TWO}")
    project.database.run(sample.table)
    rows = ROWS.get(name, sample.rows)
    project.database.run(rows)
    adopted = project.adopt()
    taken_out = [item for item in adopted.items if "BEGIN and COMMIT are taken out" in " ".join(item.remarks)]
    assert taken_out
    assert "one" in rebuild(server, project.sql)


def test_a_stand_in_is_refused_on_an_empty_database_before_anything_runs(project: ToolProject, server: Server) -> None:
    project.given("node-pg-migrate")
    project.adopt()
    assert set(project.migrate()) == {"applied"}
    empty = server.create()
    try:
        before = empty.fingerprint()
        with pytest.raises(ConfigurationError, match="cannot be run: 1 mistake") as caught:
            list(applier.migrate(empty.connect, LEDGER, migrations.read(project.sql), None, MigrateOptions("x")))
        assert "1700000000001_one" in caught.value.detail
        assert "invoke adopt --write-baseline" in caught.value.hint
        assert empty.fingerprint() == before
    finally:
        server.drop(empty)


@pytest.mark.parametrize("name", ["node-pg-migrate", "alembic", "dbmate"])
def test_a_file_mended_after_the_adoption_is_adopted(project: ToolProject, server: Server, name: str) -> None:
    project.given(name)
    adopted = project.adopt()
    path = project.sql / f"{adopted.adopted[0]}.sql"
    path.write_text("-- mended\ncreate table one (a int);\n")
    if name == "dbmate":  # its text could run, so another text has to be chosen
        with pytest.raises(ConfigurationError, match="in the way"):
            project.adopt()
    choice = Choice(mended=(adopted.adopted[0],))
    again = project.adopt(choice=choice)
    assert [item.file.name for item in again.mended if item.file] == [adopted.adopted[0]]
    if name == "alembic":
        (project.sql / f"{adopted.adopted[1]}.sql").write_text(TWO)
        project.adopt()
    assert set(project.migrate()) == {"applied"}
    assert project.adopt().is_complete
    assert project.database.rows("SELECT body FROM ratchet.migrations ORDER BY id LIMIT 1") == [(path.read_text(),)]
    assert {"one", "two"} <= set(rebuild(server, project.sql))


def test_a_file_changed_after_the_adoption_is_refused(project: ToolProject) -> None:
    project.given("drizzle")
    project.adopt()
    (project.sql / "0000_one.sql").write_text("select 1;\n")
    before = project.database.fingerprint()
    with pytest.raises(ConfigurationError, match="in the way"):
        project.adopt()
    assert project.database.fingerprint() == before


def test_a_file_that_uses_the_tools_own_table_is_named(project: ToolProject) -> None:
    project.given("golang-migrate")
    project.write("000002_x.up.sql", "alter table schema_migrations set (fillfactor = 90);\n")
    project.write("000003_x.up.sql", "-- schema_migrations\ncreate table my_schema_migrations (a int);\n")
    remarks = [" ".join(item.remarks) for item in project.look().items]
    assert "It uses schema_migrations, a table of golang-migrate" in remarks[1]
    assert remarks[2] == ""


def test_files_that_no_tool_reads_are_named(project: ToolProject) -> None:
    project.given("goose")
    for name in ("00004_d.SQL", "old/00005_e.sql", "00006_f.sql.txt", "notes.md", ".hidden.sql", "seed.pgsql"):
        project.write(name, "-- +goose Up\nselect 1;\n")
    (note,) = project.look().notes
    assert note == (
        "Not adopted, because goose reads no migration from it: "
        "00004_d.SQL, 00006_f.sql.txt, seed.pgsql, old/00005_e.sql."
    )


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "drizzle"])
def test_a_history_in_a_table_of_another_name_is_adopted(project: ToolProject, name: str) -> None:
    project.given(name)
    table = project.look().origin.partition(" ")[0]
    project.database.run(f"CREATE SCHEMA other; ALTER TABLE {table} RENAME TO past; ALTER TABLE past SET SCHEMA other")
    if name == "liquibase":
        project.database.run("ALTER TABLE databasechangeloglock SET SCHEMA other")
    with pytest.raises(ConfigurationError, match="no history of another tool"):
        project.look()
    assert project.look(table="past", tool=name).tool == name
    adopted = project.adopt(table="other.past")
    assert (adopted.tool, adopted.origin.partition(" ")[0]) == (name, "other.past")
    assert tuple(item.state for item in adopted.items) == SAMPLES[name].states


OTHER_TABLES = {
    "yoyo": "CREATE TABLE _yoyo_log (id text PRIMARY KEY); CREATE TABLE _yoyo_version (version int PRIMARY KEY)",
    "liquibase": "CREATE TABLE databasechangeloghistory (id serial PRIMARY KEY)",
}


@pytest.mark.parametrize("name", OTHER_TABLES)
def test_further_tables_of_the_tool_are_no_part_of_the_schema(project: ToolProject, server: Server, name: str) -> None:
    project.given(name)
    project.database.run(OTHER_TABLES[name])
    project.adopt(write_baseline=True)
    assert rebuild(server, project.sql) == ["one", "three", "two"]


@pytest.mark.parametrize(
    "content",
    [
        "ALTER TABLE one SET SCHEMA drizzle",
        "CREATE TYPE drizzle.mood AS ENUM ('a'); ALTER TABLE one ADD m drizzle.mood",
        "CREATE FUNCTION drizzle.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE DOMAIN drizzle.name AS text",
    ],
)
def test_a_baseline_has_the_schema_of_the_history_if_it_holds_more(
    project: ToolProject, server: Server, content: str
) -> None:
    project.given("drizzle")
    assert project.look(write_baseline=True).schema == "drizzle"
    project.database.run(content)
    project.adopt(write_baseline=True)
    assert "two" in rebuild(server, project.sql)


@pytest.mark.parametrize("name", ["flyway", "prisma", "goose"])
def test_a_tool_that_was_set_to_a_schema_is_named(project: ToolProject, name: str) -> None:
    project.given(name)
    table = project.look().origin.partition(" ")[0]
    assert not any("schema" in note for note in project.look().notes)
    project.database.run(f'CREATE SCHEMA "a b"; ALTER TABLE {table} SET SCHEMA "a b"')
    assert not any("schema" in note for note in project.look().notes)
    project.database.run('ALTER TABLE one SET SCHEMA "a b"')
    (note,) = [note for note in project.look().notes if "schema" in note]
    assert "is in the schema a b, and this connection creates objects in public" in note
    project.database.run(note.split("`")[1])
    assert not any("schema" in note for note in project.look().notes)
    assert project.adopt().pending
    project.migrate()
    assert project.database.rows("SELECT schemaname::text FROM pg_tables WHERE tablename = 'three'") == [("a b",)]


def test_migrations_that_are_code_have_a_stand_in(project: ToolProject) -> None:
    rows = handwritten.flyway_rows((3, "4", "JDBC"), (4, "5", "SPRING_JDBC"), (5, "6", "CUSTOM"), (6, "7", "SCRIPT"))
    project.given("flyway", rows)
    (project.files / "V3__three.sql").unlink()
    project.write("V7__x.java", "class V7__x {}")
    adopted = project.adopt()
    assert [item.state for item in adopted.items] == ["verified", "verified", *["claimed"] * 4]
    assert [path.name for path in sorted(project.sql.iterdir())] == [
        *("1_one.sql", "2_two.sql"),
        *("4_x.sql", "5_x.sql", "6_x.sql", "7_x.sql"),
    ]
    assert all("-- migrate: stand-in\n" in (project.sql / f"{n}_x.sql").read_text() for n in (4, 5, 6, 7))


def test_a_baseline_of_the_live_schema_replaces_the_applied_migrations(project: ToolProject, server: Server) -> None:
    project.given("node-pg-migrate")
    project.database.run(
        "CREATE VIEW ones AS SELECT a FROM one; CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT count(*)::int "
        "FROM ones'; CREATE SCHEMA extra; CREATE TABLE extra.t (a varchar CHECK (a IN ('x', 'y')))"
    )
    adopted = project.adopt(write_baseline=True)
    assert [item.state for item in adopted.items] == ["replaced", "replaced", "verified", "pending"]
    assert [path.name for path in sorted(project.sql.iterdir())] == [
        "1700000000002_baseline.sql",
        "1700000000003_three.sql",
    ]
    assert "pgmigrations" not in (project.sql / "1700000000002_baseline.sql").read_text()
    assert project.migrate() == ["applied", "applied"]
    assert rebuild(server, project.sql) == ["one", "three", "two"]
    again = project.adopt()
    assert again.is_complete
    assert [item.state for item in again.items] == ["replaced", "replaced", "applied"]


def test_a_database_without_a_history_gets_a_baseline_of_its_schema(project: ToolProject, server: Server) -> None:
    project.database.run(f"{ONE} {TWO}")
    assert project.adopt(write_baseline=True, files=None).adopted == ("0001_baseline",)
    assert project.migrate() == ["applied"]
    assert project.adopt(write_baseline=True, files=None).is_complete
    assert rebuild(server, project.sql) == ["one", "two"]


def test_a_baseline_replaces_migrations_that_were_adopted_before(project: ToolProject, server: Server) -> None:
    project.given("alembic")
    project.adopt()
    adopted = project.adopt(write_baseline=True)
    assert adopted.replaced == ("0001_one", "0002_two")
    assert [path.name for path in project.sql.iterdir()] == ["0002_baseline.sql"]
    assert project.database.rows("SELECT name, source FROM ratchet.migrations") == [
        ("0002_baseline", "adopted:baseline")
    ]
    assert project.migrate() == ["applied"]
    assert rebuild(server, project.sql) == ["one", "two"]


def test_a_baseline_does_not_replace_migrations_that_pgratchet_has_applied(project: ToolProject) -> None:
    project.given("dbmate")
    project.adopt()
    project.migrate()
    before = project.database.fingerprint()
    with pytest.raises(ConfigurationError, match="cannot replace migrations that pgratchet has applied"):
        project.adopt(write_baseline=True)
    assert project.database.fingerprint() == before


def test_excluded_changesets_are_pending_only_by_choice(project: ToolProject) -> None:
    project.given("liquibase")
    project.write("three.sql", "--liquibase formatted sql\n--changeset nene:test context:test\nDELETE FROM one;\n")
    project.write("four.sql", '--liquibase formatted sql\n--changeset nene:never labels:"never"\nDELETE FROM two;\n')
    message = project.refuses()
    assert 'three.sql: nene:test: excluded. Liquibase runs it by the context "test" of the changeset.' in message
    assert 'four.sql: nene:never: excluded. Liquibase runs it by the labels "never" of the changeset.' in message
    assert "--exclude" in message
    partly = Choice(exclude=("three.sql*",))
    with pytest.raises(HistoryDisagrees, match="before 1 migration is settled"):
        project.adopt(choice=partly)
    with pytest.raises(ConfigurationError, match="that the tool does not have"):
        project.adopt(choice=Choice(exclude=("nothing",)))
    assert not project.sql.exists()
    adopted = project.adopt(choice=Choice(exclude=("*",), include=("four.sql: nene:never",)))
    assert sorted((item.original, item.state) for item in adopted.items) == [
        ("four.sql: nene:never", "pending"),
        ("one.sql: nene:a", "claimed"),
        ("three.sql: nene:test", "left out"),
        ("two.sql: nene:b", "claimed"),
        ("two.sql: nene:c", "pending"),
    ]
    assert not any(b"DELETE FROM one" in path.read_bytes() for path in project.sql.iterdir())
    with closing(project.database.connect()) as connection:
        assert len(LEDGER.read(connection)) == 2


def test_a_file_of_a_changeset_that_is_left_out_is_refused(project: ToolProject) -> None:
    """Another database of the same folder may have run it."""
    project.given("liquibase")
    project.write("zero.sql", "--liquibase formatted sql\n--changeset nene:test context:test\nDELETE FROM one;\n")
    project.sql.mkdir()
    (project.sql / "0009_zero_test.sql").write_text("DELETE FROM one;\n")
    before = project.database.fingerprint()
    with pytest.raises(ConfigurationError, match="files would run here that are left out") as caught:
        project.adopt(choice=Choice(exclude=("*",)))
    assert "0009_zero_test.sql: has the text of zero.sql: nene:test" in caught.value.detail
    assert project.database.fingerprint() == before
    assert [path.name for path in project.sql.iterdir()] == ["0009_zero_test.sql"]


def test_files_below_a_baseline_of_flyway_can_be_left_out(project: ToolProject) -> None:
    rows = "INSERT INTO flyway_schema_history VALUES (1, '2', 'x', 'BASELINE', 'x', null, 'me', now(), 0, true)"
    project.given("flyway", rows)
    assert "V1__one: excluded." in project.refuses()
    adopted = project.adopt(choice=Choice(exclude=("*",)))
    assert [item.state for item in adopted.items] == ["left out", "left out", "pending"]
