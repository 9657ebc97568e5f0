"""Histories of other tools, in tables as their sources create them: adopted, or refused without a change."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from pgratchet.adopt import adoption
from pgratchet.adopt.adoption import AdoptionOptions
from pgratchet.adopt.tools.registry import TOOLS
from pgratchet.console.migrations import status_json
from pgratchet.database.session import Session
from pgratchet.errors import ConfigurationError, HistoryDisagrees, LockBusy
from pgratchet.migrations import files as migrations
from pgratchet.migrations.plan import make_plan
from tests.integration.adopt.helpers import LEDGER, ToolProject
from tests.other_tools import handwritten
from tests.other_tools.handwritten import ONE, SAMPLES, THREE, TWO
from tests.support.waiting import until

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_history_is_adopted_and_new_migrations_follow(project: ToolProject, name: str) -> None:
    sample = project.given(name)
    before = project.database.fingerprint()
    preview = project.look()
    assert project.database.fingerprint() == before
    assert not project.sql.exists()
    assert (preview.tool, tuple(each.state for each in preview.items)) == (name, sample.states)
    theirs = project.database.rows(f"SELECT to_jsonb(t) FROM {preview.origin.partition(' ')[0]} t")
    assert project.adopt() == preview
    assert project.database.rows(f"SELECT to_jsonb(t) FROM {preview.origin.partition(' ')[0]} t") == theirs
    columns = "name, source, run_id, body IS NOT NULL, executed_at IS NOT NULL"
    assert project.database.rows(f"SELECT {columns} FROM ratchet.migrations ORDER BY id") == [
        (adopted, f"adopted:{name}", "run", True, True) for adopted in preview.adopted
    ]
    texts = [path.read_bytes() for path in project.sql.iterdir()]
    assert not any(b"\r" in text or b"drop table" in text for text in texts)
    last = max(path.name for path in project.sql.iterdir())
    (project.sql / f"{int(last.partition('_')[0]) + 1}_mine.sql").write_text("create table mine (a int);")
    assert set(project.migrate()) == {"applied"}
    assert project.database.rows("SELECT to_regclass('mine')::text, to_regclass('one')::text") == [("mine", "one")]
    again = project.adopt()
    assert again.is_complete
    assert set(again.names("applied")) == set(preview.pending)


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("drizzle", "-infinity"),
        ("dbmate", "-infinity"),
        ("alembic", "-infinity"),
        ("flyway", "2024-01-02 03:04:05"),
        ("yoyo", "2024-01-02 03:04:05"),
    ],
)
def test_the_time_of_a_migration_is_kept_if_the_tool_records_it(project: ToolProject, name: str, moment: str) -> None:
    project.given(name)
    project.database.run(f"ALTER DATABASE {project.database.name} SET timezone = 'UTC'")
    project.adopt()
    query = "SELECT executed_at = %s::timestamptz, duration_ms FROM ratchet.migrations ORDER BY id LIMIT 1"
    assert project.database.rows(query, moment) == [(True, 7 if name == "flyway" else None)]
    with project.database.connect() as session:
        first = LEDGER.read(session)[0]
    assert (first.moment is None) == (moment == "-infinity")
    assert first.source == f"adopted:{name}"
    shape = status_json(make_plan(migrations.read(project.sql), [first]))["migrations"][0]
    assert (shape["status"], shape["applied_at"] is None) == ("applied", moment == "-infinity")


TRAPS = {
    "a file that Drizzle skipped": ("drizzle", handwritten.drizzle((ONE, 1000), (THREE, 3000)), "0001_two: skipped."),
    "a file edited since, by Drizzle's hash": (
        "drizzle",
        handwritten.drizzle((ONE, 1000), ("other", 2000)),
        "0001_two: changed.",
    ),
    "a file edited since, by Flyway's checksum": ("flyway", handwritten.flyway_rows(two="other"), "V2__two: changed."),
    "a file edited since, by Prisma's checksum": (
        "prisma",
        handwritten.prisma(handwritten.PRISMA_ONE, ("20240102000000_two", "other", "now()", "NULL")),
        "20240102000000_two: changed.",
    ),
    "a dirty row of golang-migrate": (
        "golang-migrate",
        "INSERT INTO schema_migrations VALUES (2, true)",
        "000002_x.up: failed. golang-migrate's table is dirty at version 2.",
    ),
    "a failed row of Flyway": (
        "flyway",
        handwritten.flyway_rows(success=False),
        "V2__two: failed. Flyway's row 2 says that it failed.",
    ),
    "an undone migration of Flyway below another": (
        "flyway",
        handwritten.flyway_rows((3, "1", "UNDO_SQL")),
        "V1__one: skipped. A row of type UNDO_SQL has undone it.",
    ),
    "a deleted migration of Flyway below another": (
        "flyway",
        handwritten.flyway_rows((3, "1", "DELETE")),
        "V1__one: skipped. A row of type DELETE has undone it.",
    ),
    "files below a baseline of Flyway": (
        "flyway",
        "INSERT INTO flyway_schema_history VALUES (1, '2', 'x', 'BASELINE', 'x', null, 'me', now(), 0, true)",
        "V1__one: excluded. It is not above Flyway's baseline, so it has never run here.",
    ),
    "a run of Prisma that has no end": (
        "prisma",
        handwritten.prisma(handwritten.PRISMA_ONE, ("20240102000000_two", TWO, "NULL", "NULL")),
        "20240102000000_two: failed. Prisma's row has no end",
    ),
    "a row without a file": (
        "dbmate",
        "INSERT INTO schema_migrations VALUES ('20240101000000'), ('20240102000000'), ('20240102000001')",
        "20240102000001: no file.",
    ),
    "a way down of goose below a way up": (
        "goose",
        handwritten.goose((0, True), (1, True), (2, True), (1, False)),
        "00001_x: skipped.",
    ),
    "a failed changeset of Liquibase": (
        "liquibase",
        handwritten.liquibase("FAILED"),
        "two.sql: nene:b: failed. Liquibase's row says FAILED.",
    ),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_history_that_cannot_be_adopted_is_refused(project: ToolProject, trap: str) -> None:
    name, rows, message = TRAPS[trap]
    project.given(name, rows)
    assert message in project.refuses()


def test_a_migration_that_was_rolled_back_is_pending(project: ToolProject) -> None:
    rolled_back = ("20240102000000_two", TWO, "NULL", "now()")
    project.given("prisma", handwritten.prisma(handwritten.PRISMA_ONE, rolled_back) + "; DROP TABLE two")
    adopted = project.adopt()
    assert [each.state for each in adopted.items] == ["verified", "rolled back", "pending"]
    assert adopted.items[1].remarks == ("Prisma has marked it as rolled back.",)
    assert project.migrate() == ["applied"] * 3


def test_the_last_of_up_and_down_decides(project: ToolProject) -> None:
    project.given("goose", handwritten.goose((0, True), (1, True), (1, False), (1, True), (2, True), (2, False)))
    assert [each.state for each in project.look().items] == ["claimed", "rolled back", "pending"]


def test_a_locked_history_table_is_refused(project: ToolProject) -> None:
    project.given("liquibase")
    project.database.run("UPDATE databasechangeloglock SET locked = true")
    assert "liquibase is running" in project.refuses(LockBusy)


def test_the_lock_row_of_yoyo_is_respected(project: ToolProject) -> None:
    project.given("yoyo")
    project.database.run("INSERT INTO yoyo_lock (pid) VALUES (1)")
    assert "yoyo is running" in project.refuses(LockBusy)


@pytest.mark.parametrize("name", [tool.name for tool in TOOLS if tool.lock_key])
def test_a_running_tool_is_not_adopted(project: ToolProject, name: str) -> None:
    project.given(name)
    key = project.look().lock_key
    with project.database.connect() as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", (key,))
        assert f"{name} is running" in project.refuses(LockBusy)
    until(lambda: project.database.rows("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'") == [])
    project.adopt()


def test_adoption_waits_for_the_migration_lock(project: ToolProject) -> None:
    project.given("dbmate")
    with project.database.connect() as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", (LEDGER.lock_key,))
        assert "another run holds the migration lock" in project.refuses(LockBusy)


def test_a_change_between_preview_and_write_is_refused(project: ToolProject) -> None:
    project.given("dbmate")
    wishes = AdoptionOptions(project.sql, files=project.files)
    with closing(Session(project.database.connect, LEDGER, 100)) as session:
        preview = adoption.preview(session, session.open(), wishes)
        project.database.run("INSERT INTO schema_migrations VALUES ('20240103000000')")
        before = project.database.rows("SELECT count(*) FROM pg_class")
        with pytest.raises(HistoryDisagrees, match="has changed since the preview"):
            adoption.write(session, preview, wishes, "run")
    assert project.database.rows("SELECT count(*) FROM pg_class") == before
    assert not project.sql.exists()


def test_concurrent_adoptions_adopt_once(project: ToolProject) -> None:
    project.given("drizzle")
    with ThreadPoolExecutor() as pool:
        errors = [done.exception() for done in [pool.submit(project.adopt, wait=10_000) for _ in range(4)]]
    assert all(each is None or isinstance(each, HistoryDisagrees) for each in errors)
    assert None in errors
    assert project.database.rows("SELECT name FROM ratchet.migrations ORDER BY id") == [("0000_one",), ("0001_two",)]
    assert project.adopt().is_complete


def test_a_pending_migration_in_another_language_is_refused_until_a_file_replaces_it(project: ToolProject) -> None:
    project.given("node-pg-migrate", "INSERT INTO pgmigrations (name, run_on) VALUES ('1700000000002_two', now())")
    (project.files / "1700000000001_one.js").rename(project.files / "1700000000003_zero.js")
    assert "1700000000003_zero: cannot run. It is JavaScript" in project.refuses()
    project.sql.mkdir()
    (project.files / "1700000000003_three.sql").unlink()
    (project.sql / "1700000000003_zero.sql").write_text("create table zero (a int);")
    assert project.adopt().pending == ("1700000000003_zero",)
    assert project.migrate() == ["applied", "applied"]


def test_an_interrupted_adoption_is_completed(project: ToolProject) -> None:
    project.given("drizzle")
    project.adopt()
    project.database.run("DELETE FROM ratchet.migrations WHERE name = '0001_two'")
    (project.sql / "0002_three.sql").unlink()
    adopted = project.adopt()
    assert [each.file.name for each in adopted.rows if each.file] == ["0001_two"]
    assert [each.name for each in adopted.files] == ["0002_three"]
    assert project.look().is_complete


def test_an_existing_migration_is_never_overwritten(project: ToolProject) -> None:
    project.given("drizzle")
    project.sql.mkdir()
    (project.sql / "0000_one.sql").write_text("select 1;")
    (project.sql / "1_other.sql").write_text("select 1;")
    before = project.database.fingerprint()
    with pytest.raises(ConfigurationError, match="in the way: 2 mistakes"):
        project.adopt()
    assert project.database.fingerprint() == before
    assert (project.sql / "0000_one.sql").read_text() == "select 1;"


def test_existing_files_before_adopted_files_are_named(project: ToolProject) -> None:
    project.given("dbmate")
    project.sql.mkdir()
    (project.sql / "001_initial.sql").write_text("select 1;")
    with pytest.raises(HistoryDisagrees, match="disagree") as caught:
        project.adopt()
    assert "001_initial: not applied, but the newer 20240102000000_two is." in caught.value.detail
    assert not project.database.rows("SELECT 1 FROM pg_namespace WHERE nspname = 'ratchet'")


def test_tool_and_folder_are_detected_or_requested(project: ToolProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.files.parent)
    with pytest.raises(ConfigurationError, match="no history of another tool"):
        project.look()
    with pytest.raises(ConfigurationError, match="names no known tool"):
        project.look(tool="ant")
    project.given("drizzle")
    with pytest.raises(ConfigurationError, match="no files of drizzle"):
        project.look(files=Path("nowhere"))
    project.files.rename(project.files.parent / "drizzle")
    assert project.look(files="").origin == "drizzle.__drizzle_migrations and drizzle"
    project.database.run(SAMPLES["goose"].table)
    with pytest.raises(ConfigurationError, match="more than one history"):
        project.look(files="")
    assert project.look(files="", tool="drizzle").tool == "drizzle"


def test_the_table_of_rails_is_not_mistaken_for_dbmate(project: ToolProject) -> None:
    project.database.run(SAMPLES["dbmate"].table)
    project.write("20240101000000_one.rb", "class One; end")
    with pytest.raises(ConfigurationError, match="no files of dbmate"):
        project.look()


def test_an_sqlite_history_gives_the_order_and_the_differences(project: ToolProject, tmp_path: Path) -> None:
    project.write("meta/_journal.json", handwritten.journal("0000_one", "0001_two"))
    project.write("0000_one.sql", ONE)
    sqlites = "CREATE TABLE `two` (`a` integer PRIMARY KEY AUTOINCREMENT);"
    project.write("0001_two.sql", sqlites)
    past = tmp_path / "app.sqlite"
    with closing(sqlite3.connect(past)) as connection:
        connection.execute(
            "CREATE TABLE __drizzle_migrations (id INTEGER PRIMARY KEY, hash text NOT NULL, created_at numeric)"
        )
        connection.execute(
            "INSERT INTO __drizzle_migrations (hash, created_at) VALUES (?, 1000)", (handwritten.sha(ONE),)
        )
        connection.commit()
    before = project.database.fingerprint()
    with pytest.raises(HistoryDisagrees) as caught:
        project.adopt(history=past)
    assert "0001_two: cannot run. There it was not run. It is SQLite's SQL: backticks, AUTOINCREMENT." in str(
        caught.value
    )
    project.sql.mkdir()
    (project.sql / "0001_two.sql").write_text(TWO)
    adopted = project.adopt(history=past)
    assert [(each.state, each.remarks) for each in adopted.items] == [
        ("pending", ("There it is verified.",)),
        ("pending", ("There it was not run.",)),
    ]
    assert project.database.fingerprint() == before
    assert project.migrate() == ["applied", "applied"]
    with pytest.raises(ConfigurationError, match="has no history"):
        project.look(history=tmp_path / "none.sqlite")


# A database without a history.


def test_repeatables_and_their_rows_are_no_part_of_an_adoption(project: ToolProject) -> None:
    project.given("drizzle")
    (project.sql / "repeatable").mkdir(parents=True)
    view = project.sql / "repeatable" / "v.sql"
    view.write_text("create or replace view v as select * from one;")
    preview = project.adopt()
    assert set(project.migrate()) == {"applied"}
    view.unlink()
    assert project.database.rows("SELECT count(*) FROM ratchet.migrations WHERE name = 'repeatable/v@1'") == [(1,)]
    again = project.adopt()
    assert again.is_complete
    assert [item.original for item in again.items] == [item.original for item in preview.items]


def test_a_baseline_replaces_adopted_migrations_also_after_a_repeatable_ran(project: ToolProject) -> None:
    project.given("dbmate")
    project.adopt()
    (project.sql / "repeatable").mkdir()
    (project.sql / "repeatable" / "v.sql").write_text("create or replace view v as select 1 as x;")
    three = next(path for path in project.sql.iterdir() if "three" in path.name)
    text = three.read_text()
    three.unlink()
    assert set(project.migrate()) == {"applied"}
    three.write_text(text)
    baseline = project.adopt(write_baseline=True)
    assert baseline.replaced
    assert project.database.rows("SELECT count(*) FROM ratchet.migrations WHERE name = 'repeatable/v@1'") == [(1,)]
