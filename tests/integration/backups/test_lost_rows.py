"""Rows of an old database that the restored one lacks: found, exported, and loaded again by psql.

The oracle counts the rows of both databases in this process, as text.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from pgratchet.backups.lost_rows import Losses, SequenceLoss, TableLoss, choose_old_database, count, find_losses
from pgratchet.backups.lost_rows_export import LostRowsExport, connection_string
from pgratchet.backups.pg_programs import Programs
from pgratchet.database import connection
from pgratchet.database.history import History
from pgratchet.errors import BackupFailed, ConfigurationError
from tests.integration.backups.helpers import RestorableDatabase, temporary_roles
from tests.servers.databases import Database, Server

COMMON = """
CREATE TABLE people (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text,
    upper text GENERATED ALWAYS AS (upper(name)) STORED);
INSERT INTO people (name) SELECT 'name ' || n FROM generate_series(1, 2000) n;
CREATE TABLE pets (id int PRIMARY KEY, owner bigint REFERENCES people, "odd ""name)" text);
CREATE TABLE same AS SELECT n, n::text AS t FROM generate_series(1, 1000) n;
CREATE TABLE twins (x int, y text); INSERT INTO twins VALUES (1, 'a'), (1, 'a'), (NULL, NULL), (2, '');
CREATE TABLE documents (j json, b bytea, f float8, x jsonb, p point);
INSERT INTO documents VALUES ('{"a": 1}', '\\x00ff', 0.1, '[1]', '(1,2)');
CREATE SCHEMA "Odd, ""schema"" x"; CREATE TABLE "Odd, ""schema"" x"."a/b (c)'" ("x y" text, "?" int[]);
CREATE TABLE measured (at date, value money) PARTITION BY RANGE (at);
CREATE TABLE measured_1 PARTITION OF measured FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE parent (x int); CREATE TABLE child (y int) INHERITS (parent); INSERT INTO child VALUES (1, 1);
CREATE UNLOGGED TABLE hasty (x int); CREATE TABLE empty ();
CREATE TABLE wide (a int, b int, c int); INSERT INTO wide VALUES (1, 2, 3);
CREATE TABLE dropped_since (x int); INSERT INTO dropped_since VALUES (1);
CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE elsewhere (x int) SERVER s;
CREATE SEQUENCE plain; SELECT setval('plain', 10);
"""
WRITTEN_SINCE = r"""
INSERT INTO people (name) VALUES (E'tab\t line\n back\\slash'), (NULL), ('');
UPDATE people SET name = 'changed' WHERE id IN (7, 8); DELETE FROM people WHERE id = 9;
INSERT INTO pets VALUES (1, 2001, 'rex');
INSERT INTO twins VALUES (1, 'a'), (1, 'a'), (NULL, NULL), (NULL, ''), (NULL, 'NULL'), (NULL, '\N');
INSERT INTO documents VALUES ('{"a":  1}', '\\x00', 'NaN', '[2]', NULL), (NULL, '', '-0', NULL, NULL);
INSERT INTO "Odd, ""schema"" x"."a/b (c)'" VALUES ('x', '{1,NULL}');
INSERT INTO measured VALUES ('2026-05-05', 12.5); INSERT INTO hasty VALUES (5); INSERT INTO empty DEFAULT VALUES;
INSERT INTO parent VALUES (8); INSERT INTO child VALUES (9, 9);
DROP TABLE dropped_since; CREATE TABLE made_since (x int, y int GENERATED ALWAYS AS (x + 1) STORED);
INSERT INTO made_since VALUES (1), (2);
ALTER TABLE wide ADD COLUMN d text DEFAULT 'new', DROP COLUMN c; INSERT INTO wide VALUES (4, 5, 'x');
SELECT setval('plain', 12), lo_from_bytea(0, 'x');
"""
ODD = '"Odd, ""schema"" x"."a/b (c)\'"'
LOST = {
    "public.people": 5,
    "public.pets": 1,
    "public.twins": 6,
    "public.documents": 2,
    ODD: 1,
    "public.measured_1": 1,
    "public.parent": 1,
    "public.child": 1,
    "public.hasty": 1,
    "public.empty": 1,
    "public.made_since": 2,
    "public.wide": 1,
}
NOTES = {
    "public.made_since": "the restored database does not have this table",
    "public.wide": "columns only in the old database: d; columns only in the restored database: c",
}


@dataclass(frozen=True)
class OldAndNew:
    """An old database that a restore kept, and the restored one with the live name."""

    old: Database
    new: Database

    def find(self, **options: object) -> Losses:
        return find_losses(
            partial(connection.connect, self.old.parameters),
            partial(connection.connect, self.new.parameters),
            History(),
            **options,  # type: ignore[arg-type]
        )

    def lost_by_python(self, table: str, columns: str) -> Counter[object]:
        """The multiset of rows that the new database lacks, computed from all rows of both."""
        query = f"SELECT ROW({columns})::text FROM ONLY {table}"
        old, new = (Counter(row for (row,) in database.rows(query)) for database in (self.old, self.new))
        return old - new


@pytest.fixture
def databases(server: Server, database: Database) -> Iterator[OldAndNew]:
    database.run(COMMON)
    name = f"{database.name}_old_20260101000000"
    Database(server.parameters).run(f"CREATE DATABASE {name} TEMPLATE {database.name}")
    old = Database({**database.parameters, "dbname": name})
    yield OldAndNew(old, database)
    Database(server.parameters).run(f"DROP DATABASE {name} WITH (FORCE)")


def test_lost_rows_are_found_exported_and_loaded_again(
    databases: OldAndNew, tmp_path: Path, programs: Programs
) -> None:
    databases.old.run(WRITTEN_SINCE)
    before = databases.new.fingerprint(), databases.old.fingerprint()
    export = LostRowsExport(tmp_path / "lost", 1_000_000)
    losses = databases.find(write=export.write)
    export.finish(losses, {name: databases.new.parameters[name] for name in ("host", "port", "user")})
    assert {loss.table: loss.rows for loss in losses.tables} == LOST
    assert {loss.table: loss.note for loss in losses.tables if loss.note} == NOTES
    for loss in losses.tables:
        if loss.table != "public.made_since" and loss.columns:
            lost = databases.lost_by_python(loss.table, ", ".join(loss.columns))
            assert lost.total() == loss.rows, loss.table
    assert losses.sequences == (
        SequenceLoss("public.people_id_seq", 2003, 2000),
        SequenceLoss("public.plain", 12, 10),
    )
    assert (losses.large_objects, losses.large_objects_now) == (1, 0)
    assert (databases.new.fingerprint(), databases.old.fingerprint()) == before
    databases.new.run("DELETE FROM people WHERE id IN (7, 8)")
    load(databases.new, tmp_path / "lost", programs)
    assert {loss.table: loss.rows for loss in databases.find().tables if loss.rows} == {"public.made_since": 2}
    databases.new.run("CREATE TABLE made_since (x int, y int GENERATED ALWAYS AS (x + 1) STORED)")
    script = tmp_path / "lost" / "load.sql"
    commands = [line for line in script.read_text("utf-8").splitlines() if line.startswith("-- \\copy")]
    script.write_text("\n".join(line.removeprefix("-- ") for line in commands), "utf-8")
    load(databases.new, tmp_path / "lost", programs)
    left = {loss.table: loss.rows for loss in databases.find().tables if loss.rows}
    assert left == {}
    assert databases.find().sequences == (), "the next row gets a key that is free"
    assert databases.new.rows("SELECT count(*) FROM twins WHERE x = 1 AND y = 'a'") == [(4,)]


def load(database: Database, folder: Path, programs: Programs) -> None:
    psql = Path(programs.path("psql"))
    if not psql.exists():
        pytest.skip(f"no psql in {programs.folder}")
    readme = (folder / "README.txt").read_text("utf-8")
    (command,) = [line.strip() for line in readme.splitlines() if line.strip().startswith("psql ")]
    environ = {"PGPASSWORD": database.parameters.get("password", "")}
    command = command.replace("psql", f"'{psql}' --no-psqlrc", 1)
    done = subprocess.run(command, shell=True, cwd=folder, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_connection_string_has_quotes_where_they_are_needed() -> None:
    parameters = {"host": "/run/a b", "port": "5432", "user": r"it's \me", "password": "", "dbname": "shop-1"}
    assert connection_string(parameters) == r"host='/run/a b' port=5432 user='it\'s \\me' dbname=shop-1"


def test_nothing_is_lost_where_nothing_was_written(databases: OldAndNew, tmp_path: Path) -> None:
    assert databases.find().tables == ()
    databases.new.run("INSERT INTO twins VALUES (7, 'x'); UPDATE people SET id = DEFAULT WHERE id = 3")
    assert [(loss.table, loss.rows) for loss in databases.find().tables] == [("public.people", 1)]


def test_a_table_that_cannot_be_read_is_noted_and_the_others_are_compared(databases: OldAndNew) -> None:
    """A locked table, one without the right to read it, and one whose rows a policy hides."""
    reader = f"{databases.new.name}_reader"
    with temporary_roles(databases.new, reader):
        for database in (databases.old, databases.new):
            database.run(
                "CREATE TABLE ratchet_free (x int); CREATE TABLE hidden (x int); ALTER TABLE hidden ENABLE ROW LEVEL"
                f' SECURITY; GRANT USAGE ON SCHEMA public, "Odd, ""schema"" x" TO {reader};'
                f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}; REVOKE SELECT ON people FROM {reader};"
                f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {reader}"
            )
        databases.old.run("INSERT INTO twins VALUES (9, 'x')")
        login = {"user": reader, "password": "x"}
        as_reader = OldAndNew(*(Database({**each.parameters, **login}) for each in (databases.old, databases.new)))
        losses = as_reader.find()
        found = {loss.table: loss for loss in losses.tables}
        assert found["public.twins"].rows == 1
        assert found["public.people"] == TableLoss(
            "public.people", None, "not compared: permission denied for table people"
        )
        assert found["public.hidden"].rows is None
        assert "row-level security policy" in found["public.hidden"].note
        assert set(found) == {"public.twins", "public.people", "public.hidden", ODD}
        for database in (databases.old, databases.new):
            database.run(f"DROP OWNED BY {reader}")


def test_a_damaged_history_does_not_hide_rows(databases: OldAndNew) -> None:
    for database in (databases.old, databases.new):
        database.run("CREATE SCHEMA ratchet; CREATE TABLE ratchet.migrations (id int)")
    databases.old.run("INSERT INTO twins VALUES (9, 'x')")
    losses = databases.find()
    assert [(loss.table, loss.rows) for loss in losses.tables] == [("public.twins", 1), ("ratchet.migrations", None)]


def test_an_export_leaves_out_what_does_not_fit_and_overwrites_nothing(databases: OldAndNew, tmp_path: Path) -> None:
    databases.old.run("INSERT INTO twins VALUES (9, 'x'); UPDATE people SET name = 'longer ' || name")
    folder = tmp_path / "lost"
    export = LostRowsExport(folder, 1000)
    losses = databases.find(write=export.write)
    with pytest.raises(BackupFailed, match=r"larger than 1\.0 kB") as caught:
        export.finish(losses, {})
    assert "public.people (" in caught.value.detail
    assert sorted(path.name for path in folder.iterdir()) == [
        ".gitignore",
        "0002-public.twins.copy",
        "README.txt",
        "load.sql",
    ]
    assert "public.people was left out" in (folder / "README.txt").read_text("utf-8")
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    contents = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigurationError, match="is not an empty folder"):
        LostRowsExport(folder, 1000)
    assert {path: path.read_bytes() for path in folder.iterdir()} == contents


def test_the_newest_replaced_database_is_compared(databases: OldAndNew) -> None:
    kept = ("z_restore_20260101000000", "zz_old_20260101000000", "a_old_20270101000000")
    assert choose_old_database(kept, "z", None) == "a_old_20270101000000"
    assert choose_old_database(kept, "z", "z_restore_20260101000000") == "z_restore_20260101000000"
    for names, wanted in (((), None), (kept[:1], None), (kept, "other")):
        with pytest.raises(ConfigurationError, match="kept by a restore"):
            choose_old_database(names, "z", wanted)
    assert count("t", iter([b"a\n", b"b\n"])) == (2, None)


def test_rows_written_after_a_backup_are_found_after_its_restore(restorable: RestorableDatabase) -> None:
    live = restorable.database
    archive = restorable.back_up()
    live.run("INSERT INTO app_state (key, value) VALUES ('since', '1')")
    restorable.restore(archive)
    (old,) = restorable.beside()
    losses = OldAndNew(restorable.named(old), live).find()
    assert [(loss.table, loss.rows) for loss in losses.tables] == [("public.app_state", 1)]
    with closing(live.connect()) as session:
        assert session.execute("SELECT count(*) FROM app_state WHERE key = 'since'").fetchone() == (0,)
