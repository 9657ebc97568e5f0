"""Other tools' histories, in tables as their sources make them: taken over, or refused with nothing changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgratchet.adopt import adoption, baseline
from pgratchet.adopt.adoption import Adoption, AdoptionOptions
from pgratchet.adopt.tools.registry import TOOLS
from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.console import report
from pgratchet.database import connection
from pgratchet.database.history import History
from pgratchet.database.session import Session
from pgratchet.errors import ConfigurationError, HistoryDisagrees, LockBusy, MigrationFailed, RatchetError
from pgratchet.migrations import files as migrations
from pgratchet.migrations.plan import make_plan
from pgratchet.operations.restore import restore_server
from pgratchet.operations.schema import schema_dumper
from pgratchet.tasks import adopting
from tests.integration.conftest import settings_of
from tests.other_tools import handwritten
from tests.other_tools.handwritten import ONE, SAMPLES, THREE, TWO, Sample
from tests.servers.databases import Database

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)

LEDGER = History()


@dataclass
class Place:
    """A database that a tool has been at work in, its files, and a folder for ours."""

    database: Database
    files: Path
    sql: Path

    def given(self, name: str, rows: str | None = None) -> Sample:
        """The sample's tables and files, its rows or others."""
        sample = SAMPLES[name]
        for path, text in sample.files.items():
            self.write(path, text)
        self.database.run(f"{ONE} {TWO}")
        self.database.run(sample.table)
        self.database.run(sample.rows if rows is None else rows)
        return sample

    def write(self, path: str, text: str) -> None:
        whole = self.files / path
        whole.parent.mkdir(parents=True, exist_ok=True)
        whole.write_bytes(text.encode())

    def look(self, **wishes: Path | str) -> Adoption:
        return self._run(dry=True, wait=100, wishes=wishes)

    def adopt(self, wait: int = 100, **wishes: Path | str) -> Adoption:
        return self._run(dry=False, wait=wait, wishes=wishes)

    def _run(self, *, dry: bool, wait: int, wishes: Mapping[str, Path | str]) -> Adoption:
        given = AdoptionOptions(**{"sql": self.sql, "files": self.files, **wishes})  # type: ignore[arg-type]
        with closing(Session(self.database.connect, LEDGER, wait)) as session, connection.translate_errors():
            past = session.open()
            found = adoption.preview(session, past, given)
            adoption.require_adoptable(found, past, given.sql)
            if not dry:
                adoption.write(session, found, given, "run")
        return found

    def migrate(self) -> list[str]:
        files = migrations.read(self.sql)
        list(applier.migrate(self.database.connect, LEDGER, files, None, MigrateOptions("later")))
        with self.database.connect() as session:
            plan = make_plan(files, LEDGER.read(session))
        return [entry.state for entry in plan.entries]

    def refuses(self, kind: type[RatchetError] = HistoryDisagrees) -> str:
        """What it is refused with; nothing changes by it, on the server or in the folder."""
        before = self.database.fingerprint()
        with pytest.raises(kind) as caught:
            self.adopt()
        assert self.database.fingerprint() == before
        assert not self.sql.exists()
        assert caught.value.hint
        return str(caught.value)


@pytest.fixture
def place(database: Database, tmp_path: Path) -> Place:
    (tmp_path / "files").mkdir()
    return Place(database, tmp_path / "files", tmp_path / "sql")


@pytest.mark.parametrize("name", SAMPLES)
def test_a_history_is_taken_over_and_migrations_go_on_top(place: Place, name: str) -> None:
    sample = place.given(name)
    before = place.database.fingerprint()
    seen = place.look()
    assert place.database.fingerprint() == before
    assert not place.sql.exists()
    assert (seen.tool, tuple(each.state for each in seen.items)) == (name, sample.states)
    theirs = place.database.rows(f"SELECT to_jsonb(t) FROM {seen.origin.partition(' ')[0]} t")
    assert place.adopt() == seen
    assert place.database.rows(f"SELECT to_jsonb(t) FROM {seen.origin.partition(' ')[0]} t") == theirs
    columns = "name, source, run_id, body IS NOT NULL, executed_at IS NOT NULL"
    assert place.database.rows(f"SELECT {columns} FROM ratchet.migrations ORDER BY id") == [
        (adopted, f"adopted:{name}", "run", True, True) for adopted in seen.adopted
    ]
    texts = [path.read_bytes() for path in place.sql.iterdir()]
    assert not any(b"\r" in text or b"drop table" in text for text in texts)
    last = max(path.name for path in place.sql.iterdir())
    (place.sql / f"{int(last.partition('_')[0]) + 1}_mine.sql").write_text("create table mine (a int);")
    assert set(place.migrate()) == {"applied"}
    assert place.database.rows("SELECT to_regclass('mine')::text, to_regclass('one')::text") == [("mine", "one")]
    again = place.adopt()
    assert again.is_complete
    assert set(again.names("applied")) == set(seen.pending)


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
def test_a_moment_is_kept_where_it_is_known_to_be_one(place: Place, name: str, moment: str) -> None:
    place.given(name)
    place.database.run(f"ALTER DATABASE {place.database.name} SET timezone = 'UTC'")
    place.adopt()
    query = "SELECT executed_at = %s::timestamptz, duration_ms FROM ratchet.migrations ORDER BY id LIMIT 1"
    assert place.database.rows(query, moment) == [(True, 7 if name == "flyway" else None)]
    with place.database.connect() as session:
        first = LEDGER.read(session)[0]
    assert (first.moment is None) == (moment == "-infinity")
    assert first.source == f"adopted:{name}"
    shape = report.migrations(make_plan(migrations.read(place.sql), [first]))["migrations"][0]
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
        "V1__one: skipped. Taken back by a row of type UNDO_SQL.",
    ),
    "a deleted migration of Flyway below another": (
        "flyway",
        handwritten.flyway_rows((3, "1", "DELETE")),
        "V1__one: skipped. Taken back by a row of type DELETE.",
    ),
    "files below a baseline of Flyway": (
        "flyway",
        "INSERT INTO flyway_schema_history VALUES (1, '2', 'x', 'BASELINE', 'x', null, 'me', now(), 0, true)",
        "V1__one: failed. Below Flyway's baseline, so never run here",
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
def test_a_trap_is_named_and_nothing_is_changed(place: Place, trap: str) -> None:
    name, rows, told = TRAPS[trap]
    place.given(name, rows)
    assert told in place.refuses()


def test_what_was_rolled_back_last_is_pending_again(place: Place) -> None:
    rolled_back = ("20240102000000_two", TWO, "NULL", "now()")
    place.given("prisma", handwritten.prisma(handwritten.PRISMA_ONE, rolled_back) + "; DROP TABLE two")
    found = place.adopt()
    assert [each.state for each in found.items] == ["verified", "rolled back", "pending"]
    assert found.items[1].remarks == ("Prisma has marked it as rolled back.",)
    assert place.migrate() == ["applied"] * 3


def test_down_then_up_counts_as_up_and_down_last_as_pending(place: Place) -> None:
    place.given("goose", handwritten.goose((0, True), (1, True), (1, False), (1, True), (2, True), (2, False)))
    assert [each.state for each in place.look().items] == ["claimed", "rolled back", "pending"]


def test_a_table_that_says_it_is_locked_is_left_alone(place: Place) -> None:
    place.given("liquibase")
    place.database.run("UPDATE databasechangeloglock SET locked = true")
    assert "liquibase is running" in place.refuses(LockBusy)


def test_yoyos_lock_is_a_row(place: Place) -> None:
    place.given("yoyo")
    place.database.run("INSERT INTO yoyo_lock (pid) VALUES (1)")
    assert "yoyo is running" in place.refuses(LockBusy)


@pytest.mark.parametrize("name", [tool.name for tool in TOOLS if tool.lock_key])
def test_a_tool_that_holds_its_lock_is_not_taken_over(place: Place, name: str) -> None:
    place.given(name)
    key = place.look().lock_key
    with place.database.connect() as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", (key,))
        assert f"{name} is running" in place.refuses(LockBusy)
    place.adopt()


def test_our_own_lock_is_waited_for(place: Place) -> None:
    place.given("dbmate")
    with place.database.connect() as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", (LEDGER.lock_key,))
        assert "another run holds the migration lock" in place.refuses(LockBusy)


def test_what_changed_since_it_was_looked_at_is_looked_at_again(place: Place) -> None:
    place.given("dbmate")
    wishes = AdoptionOptions(place.sql, files=place.files)
    with closing(Session(place.database.connect, LEDGER, 100)) as session:
        seen = adoption.preview(session, session.open(), wishes)
        place.database.run("INSERT INTO schema_migrations VALUES ('20240103000000')")
        before = place.database.rows("SELECT count(*) FROM pg_class")
        with pytest.raises(HistoryDisagrees, match="has changed since it was looked at"):
            adoption.write(session, seen, wishes, "run")
    assert place.database.rows("SELECT count(*) FROM pg_class") == before
    assert not place.sql.exists()


def test_runs_that_start_together_adopt_once(place: Place) -> None:
    place.given("drizzle")
    with ThreadPoolExecutor() as pool:
        found = [done.exception() for done in [pool.submit(place.adopt, wait=10_000) for _ in range(4)]]
    assert all(each is None or isinstance(each, HistoryDisagrees) for each in found)
    assert None in found
    assert place.database.rows("SELECT name FROM ratchet.migrations ORDER BY id") == [("0000_one",), ("0001_two",)]
    assert place.adopt().is_complete


def test_a_pending_migration_that_is_no_sql_is_refused_until_it_is_written(place: Place) -> None:
    place.given("node-pg-migrate", "INSERT INTO pgmigrations (name, run_on) VALUES ('1700000000002_two', now())")
    (place.files / "1700000000001_one.js").rename(place.files / "1700000000003_zero.js")
    assert "1700000000003_zero: cannot run. It is JavaScript" in place.refuses()
    place.sql.mkdir()
    (place.files / "1700000000003_three.sql").unlink()
    (place.sql / "1700000000003_zero.sql").write_text("create table zero (a int);")
    assert place.adopt().pending == ("1700000000003_zero",)
    assert place.migrate() == ["applied", "applied"]


def test_a_run_that_broke_off_behind_its_files_is_brought_to_its_end(place: Place) -> None:
    place.given("drizzle")
    place.adopt()
    place.database.run("DELETE FROM ratchet.migrations WHERE name = '0001_two'")
    (place.sql / "0002_three.sql").unlink()
    found = place.adopt()
    assert [each.file.name for each in found.rows if each.file] == ["0001_two"]
    assert [each.name for each in found.files] == ["0002_three"]
    assert place.look().is_complete


def test_a_file_of_ours_is_never_written_over(place: Place) -> None:
    place.given("drizzle")
    place.sql.mkdir()
    (place.sql / "0000_one.sql").write_text("select 1;")
    (place.sql / "1_other.sql").write_text("select 1;")
    before = place.database.fingerprint()
    with pytest.raises(ConfigurationError, match="in the way: 2 mistakes"):
        place.adopt()
    assert place.database.fingerprint() == before
    assert (place.sql / "0000_one.sql").read_text() == "select 1;"


def test_files_of_ours_that_would_come_too_late_are_named(place: Place) -> None:
    place.given("dbmate")
    place.sql.mkdir()
    (place.sql / "001_initial.sql").write_text("select 1;")
    with pytest.raises(HistoryDisagrees, match="disagree") as caught:
        place.adopt()
    assert "001_initial: not applied, but the newer 20240102000000_two is." in caught.value.detail
    assert not place.database.rows("SELECT 1 FROM pg_namespace WHERE nspname = 'ratchet'")


def test_which_tool_and_which_files_are_found_or_asked_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.files.parent)
    with pytest.raises(ConfigurationError, match="no history of another tool"):
        place.look()
    with pytest.raises(ConfigurationError, match="names no tool"):
        place.look(tool="ant")
    place.given("drizzle")
    with pytest.raises(ConfigurationError, match="no files of drizzle"):
        place.look(files=Path("nowhere"))
    place.files.rename(place.files.parent / "drizzle")
    assert place.look(files="").origin == "drizzle.__drizzle_migrations and drizzle"
    place.database.run(SAMPLES["goose"].table)
    with pytest.raises(ConfigurationError, match="more than one history"):
        place.look(files="")
    assert place.look(files="", tool="drizzle").tool == "drizzle"


def test_rails_table_is_not_taken_for_dbmates_without_its_files(place: Place) -> None:
    place.database.run(SAMPLES["dbmate"].table)
    place.write("20240101000000_one.rb", "class One; end")
    with pytest.raises(ConfigurationError, match="no files of dbmate"):
        place.look()


def test_of_an_sqlite_history_the_order_is_taken_over_and_what_differs_is_said(place: Place, tmp_path: Path) -> None:
    place.write("meta/_journal.json", handwritten.journal("0000_one", "0001_two"))
    place.write("0000_one.sql", ONE)
    sqlites = "CREATE TABLE `two` (`a` integer PRIMARY KEY AUTOINCREMENT);"
    place.write("0001_two.sql", sqlites)
    past = tmp_path / "app.sqlite"
    with closing(sqlite3.connect(past)) as made:
        made.execute(
            "CREATE TABLE __drizzle_migrations (id INTEGER PRIMARY KEY, hash text NOT NULL, created_at numeric)"
        )
        made.execute("INSERT INTO __drizzle_migrations (hash, created_at) VALUES (?, 1000)", (handwritten.sha(ONE),))
        made.commit()
    before = place.database.fingerprint()
    with pytest.raises(HistoryDisagrees) as caught:
        place.adopt(history=past)
    assert "0001_two: cannot run. There it was not run. It is SQLite's SQL: backticks, AUTOINCREMENT." in str(
        caught.value
    )
    place.sql.mkdir()
    (place.sql / "0001_two.sql").write_text(TWO)
    found = place.adopt(history=past)
    assert [(each.state, each.remarks) for each in found.items] == [
        ("pending", ("There it is verified.",)),
        ("pending", ("There it was not run.",)),
    ]
    assert place.database.fingerprint() == before
    assert place.migrate() == ["applied", "applied"]
    with pytest.raises(ConfigurationError, match="holds no history"):
        place.look(history=tmp_path / "none.sqlite")


# A database without a history.


def take_baseline(database: Database, folder: Path, name: str, *, yes: bool = False) -> list[str]:
    given, files = settings_of(database), migrations.read(folder)
    with adopting._session(given) as session:
        marked = baseline.select(session.open(), files, name)
        dump = schema_dumper(given, session)
        told = baseline.differences(restore_server(given), database.name, dump, files, name)
        baseline.require_equal(told, yes=yes)
        baseline.mark(session, files, name, "run")
    return [each.name for each in marked]


BASE = "create table one (a int primary key, b text default 'x;y');\ncreate view v as select a from one;\n"


@pytest.fixture
def based(place: Place) -> Iterator[Place]:
    place.sql.mkdir()
    (place.sql / "1_base.sql").write_text(BASE)
    (place.sql / "2_more.sql").write_text(TWO)
    databases = place.database.rows("SELECT datname FROM pg_database ORDER BY 1")
    yield place
    assert place.database.rows("SELECT datname FROM pg_database ORDER BY 1") == databases


def test_a_database_that_is_what_the_files_make_is_taken_over(based: Place) -> None:
    based.database.run(BASE)
    assert take_baseline(based.database, based.sql, "1_base") == ["1_base"]
    rows = "SELECT name, source, executed_at = '-infinity' FROM ratchet.migrations"
    assert based.database.rows(rows) == [("1_base", "adopted:baseline", True)]
    assert based.migrate() == ["applied", "applied"]
    assert take_baseline(based.database, based.sql, "2_more") == []


def test_one_that_is_not_is_refused_with_the_differences_shown(based: Place) -> None:
    based.database.run(BASE.replace("b text", "b varchar(9)"))
    before = based.database.fingerprint()
    with pytest.raises(HistoryDisagrees, match="not what these files make") as caught:
        take_baseline(based.database, based.sql, "1_base")
    assert "-    b text DEFAULT 'x;y'::text" in caught.value.detail
    assert "+    b character varying(9) DEFAULT 'x;y'::character varying" in caught.value.detail
    assert based.database.fingerprint() == before
    assert take_baseline(based.database, based.sql, "1_base", yes=True) == ["1_base"]


def test_files_that_do_not_run_there_are_told_as_by_migrate(based: Place) -> None:
    (based.sql / "1_base.sql").write_text("create table one (a int);\nselect nothing;\n")
    with pytest.raises(MigrationFailed, match=r"1_base failed at line 2, column 8"):
        take_baseline(based.database, based.sql, "1_base")
    assert not based.database.rows("SELECT 1 FROM pg_namespace WHERE nspname = 'ratchet'")
