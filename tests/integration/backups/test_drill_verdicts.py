"""A drill calls a backup bad for an error of the data only. For an error of the scratch server it is not testable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from pgratchet import embedded
from pgratchet.backups import listing
from pgratchet.backups.disk_store import DiskStore
from pgratchet.backups.drill import Drill
from pgratchet.backups.drill_records import DrillRecord, Verdict
from pgratchet.backups.drill_verdict import Circumstances, is_of_server
from pgratchet.backups.manifest import Manifest
from pgratchet.backups.pg_programs import Programs, find_programs
from pgratchet.backups.restore_server import RestoreServer
from pgratchet.operations.drill import drilling
from pgratchet.variables import DrillVariables
from tests.integration.backups.helpers import backup_source_of, restore_server_of, run_drill, take
from tests.servers.clusters import Clusters
from tests.servers.databases import Database

outside = pytest.mark.parametrize("server", ["outside"], indirect=True)
embedded_only = pytest.mark.parametrize("server", ["embedded"], indirect=True)
NEWER = 180000


@pytest.fixture(scope="module")
def bundled() -> Iterator[RestoreServer]:
    """A bundled server, which has no ICU, OpenSSL and lz4."""
    with embedded.scratch() as server:
        yield restore_server_of(Database({**server.parameters(), "dbname": "postgres"}))


def take_from(database: Database, store: DiskStore) -> Manifest:
    source = backup_source_of(database)
    return take(source, store, find_programs(source.server_version))


def drill_on(site: RestoreServer, manifest: Manifest, store: DiskStore) -> DrillRecord:
    from pgratchet.backups import verification
    from pgratchet.backups.loading import BackupArchive

    programs = find_programs(NEWER, archive_version=manifest.client_version)
    content = verification.open_content(manifest, store, None)
    return run_drill(Drill(site, BackupArchive(manifest, content, programs), create_roles=True))


@outside
@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("CREATE EXTENSION pgcrypto", "the scratch server lacks extensions: pgcrypto"),
        ('CREATE EXTENSION "uuid-ossp"', "the scratch server lacks extensions: uuid-ossp"),
        ('CREATE TABLE t (a text COLLATE "de-x-icu")', "de-x-icu"),
        ("CREATE COLLATION c (provider = icu, locale = 'de'); CREATE TABLE t (a text COLLATE c)", "ICU"),
        ("CREATE TABLE t (a text COMPRESSION lz4)", "lz4"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE c AS '$libdir/pgcrypto', 'pg_digest'", "pgcrypto"),
    ],
)
def test_a_scratch_server_that_lacks_something_cannot_test(
    migrated: Database, disk_store: DiskStore, bundled: RestoreServer, schema: str, reason: str
) -> None:
    migrated.run(schema)
    record = drill_on(bundled, take_from(migrated, disk_store), disk_store)
    assert (record.verdict, record.problem, record.good) == (Verdict.UNTESTABLE, "", False)
    assert reason in record.reason
    with closing(bundled.open_session("postgres")) as session:
        assert session.execute("SELECT count(*) FROM pg_database").fetchone() == (3,), "the scratch database is dropped"


@outside
def test_tablespaces_and_locales_of_the_backup_are_not_needed(
    migrated: Database, disk_store: DiskStore, bundled: RestoreServer
) -> None:
    space = f"{migrated.name}_space"
    with migrated.connect() as session:
        session.execute("SET allow_in_place_tablespaces = on")
        session.execute(f"CREATE TABLESPACE {space} LOCATION ''")
        session.execute(f"CREATE TABLE t (a int) TABLESPACE {space}")
    try:
        manifest = take_from(migrated, disk_store)
        manifest = replace(manifest, database=replace(manifest.database, provider="i", locale="de"))
        record = drill_on(bundled, manifest, disk_store)
    finally:
        migrated.run("DROP TABLE IF EXISTS t")
        migrated.run(f"DROP TABLESPACE {space}")
    assert (record.verdict, record.reason) == (Verdict.GOOD, "")
    assert f"Tablespace: what is in {space} was restored into the default tablespace." in record.notes
    assert any(note.startswith("Locale: ") and "ICU" in note for note in record.notes)


BAD = {
    "check": "CREATE TABLE t (a int CHECK (ok(a))); INSERT INTO t VALUES (1);"
    " CREATE OR REPLACE FUNCTION ok(int) RETURNS bool LANGUAGE sql AS 'SELECT $1 > 1'",
    "foreign key": "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE t (p int REFERENCES p);"
    " SET session_replication_role = replica; INSERT INTO t VALUES (7)",
    "unique": "CREATE TABLE t (a int); CREATE UNIQUE INDEX ON t (key(a)); INSERT INTO t VALUES (1), (2);"
    " CREATE OR REPLACE FUNCTION key(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1'",
    "search_path of an index": "CREATE TABLE other (a int); CREATE TABLE t (a int);"
    " CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM other); END'"
    "; CREATE INDEX ON t (f(a)); INSERT INTO t VALUES (1)",
    "search_path of a view": "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql SET search_path = public"
    " AS 'BEGIN RETURN ok(1)::int; END'; CREATE MATERIALIZED VIEW v AS SELECT f(); ALTER FUNCTION f RESET search_path",
    "setting of a session": "SET app.tenant = '7'; CREATE MATERIALIZED VIEW v AS SELECT current_setting('app.tenant')",
}


@embedded_only
@pytest.mark.parametrize("cause", BAD)
def test_a_backup_that_no_server_restores_is_bad(
    migrated: Database, disk_store: DiskStore, bundled: RestoreServer, cause: str
) -> None:
    migrated.run(
        "CREATE FUNCTION ok(int) RETURNS bool LANGUAGE sql AS 'SELECT true';"
        "CREATE FUNCTION key(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1'"
    )
    migrated.run(BAD[cause])
    record = drill_on(bundled, take_from(migrated, disk_store), disk_store)
    assert record.verdict is Verdict.BAD
    assert record.problem.startswith("pg_restore failed\n")


@embedded_only
def test_a_server_with_too_few_locks_cannot_test_and_the_bundled_one_has_enough(
    migrated: Database, disk_store: DiskStore, clusters: Clusters
) -> None:
    migrated.run(
        "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE t (p int);"
        "DO $$ BEGIN FOR i IN 1..400 LOOP EXECUTE format('CREATE TABLE p%s PARTITION OF p FOR VALUES FROM (%s) TO (%s)'"
        ", i, i, i + 1); END LOOP; END $$;"
    )
    migrated.run("ALTER TABLE t ADD FOREIGN KEY (p) REFERENCES p")
    manifest = take_from(migrated, disk_store)
    few = clusters.make("locks", max_connections="5", max_locks_per_transaction="10")
    record = drill_on(restore_server_of(few.database), manifest, disk_store)
    assert record.verdict is Verdict.UNTESTABLE
    assert "out of shared memory" in record.reason
    entry = listing.inspect_backup(disk_store, manifest.backup_id)
    with drilling(entry, manifest, disk_store, DrillVariables(), None) as drill:
        assert isinstance(drill, Drill)
        with closing(drill.server.open_session("postgres")) as session:
            locks = session.execute("SHOW max_locks_per_transaction").fetchone()
    assert locks == (str(64 + len(manifest.contents.tables) // 10),)


@embedded_only
def test_a_missing_or_killed_program_and_an_older_server_cannot_test(
    migrated: Database, disk_store: DiskStore, programs: Programs, bundled: RestoreServer, tmp_path: Path
) -> None:
    from pgratchet.backups import verification
    from pgratchet.backups.loading import BackupArchive

    manifest = take_from(migrated, disk_store)
    content = verification.open_content(manifest, disk_store, None)
    (tmp_path / "pg_restore").write_text("#!/bin/sh\nkill -9 $$\n")
    (tmp_path / "pg_restore").chmod(0o755)
    for folder in (Path("/nonexistent"), tmp_path):
        record = run_drill(Drill(bundled, BackupArchive(manifest, content, replace(programs, folder=folder))))
        assert record.verdict is Verdict.UNTESTABLE, record
    newer = replace(manifest, server_version=990000)
    entry = listing.inspect_backup(disk_store, manifest.backup_id)
    with drilling(entry, newer, disk_store, DrillVariables(), None) as drill:
        record = run_drill(drill)
    assert record.verdict is Verdict.UNTESTABLE
    assert record.reason.startswith("a backup of PostgreSQL 99 cannot be restored on the bundled PostgreSQL")
    assert "drill_environment" in drill.remedy
    dump = disk_store.folder(manifest.backup_id)
    assert dump
    (dump / "database.dump").write_bytes(b"rot")
    with drilling(entry, newer, disk_store, DrillVariables(), None) as drill:
        assert run_drill(drill).verdict is Verdict.BAD, "damage is found without a server"


ERRORS = [
    ("CREATE FUNCTION f() RETURNS int LANGUAGE sql SET no_such_parameter = 1 AS 'SELECT 1'", "FUNCTION f", True),
    ("SELECT current_setting('app.tenant')", "MATERIALIZED VIEW DATA v", False),
    ('CREATE TABLE t (a text COLLATE pg_catalog."xx-x-icu")', "TABLE t", True),
    ("CREATE TABLE t (a int) TABLESPACE nowhere", "TABLE t", True),
    ("CREATE TABLE t (a int) USING columnar", "TABLE t", True),
    ("CREATE TABLE t (a int) WITH (no_such_option = 1)", "TABLE t", True),
    ("CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'no_such_library', 'f'", "FUNCTION f", True),
    ("CREATE FUNCTION f() RETURNS int LANGUAGE plperl AS ''", "FUNCTION f", False),
    ("GRANT no_such_role TO no_such_role", "ACL t", True),
    ("CREATE TEXT SEARCH DICTIONARY d (template = ispell, dictfile = 'xx', afffile = 'xx')", "TEXT SEARCH d", True),
    (
        "CREATE FUNCTION f(int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN f($1 + 1); END'; SELECT f(1)",
        "MATERIALIZED VIEW DATA v",
        True,
    ),
    ("CREATE EXTENSION no_such_extension", "EXTENSION e", True),
    ("CREATE TABLE t (a no_such_type)", "TABLE t", False),
    ("SELECT no_such_function()", "VIEW v", False),
    ("SELECT * FROM no_such_table", "VIEW v", False),
    ("CREATE TABLE t (a int CHECK (a > 1)); INSERT INTO t VALUES (1)", "TABLE DATA t", False),
    ("CREATE TABLE t (a int); INSERT INTO t VALUES (1), (1); CREATE UNIQUE INDEX ON t (a)", "INDEX i", False),
    ("SELECT 1 / 0", "MATERIALIZED VIEW DATA v", False),
    ("DO $$ BEGIN PERFORM current_setting('app.tenant'); END $$", "INDEX i", False),
    ("DO $$ BEGIN PERFORM 'x' COLLATE nowhere; END $$", "INDEX i", False),
]


def test_errors_of_the_server_and_of_the_backup_are_told_apart(database: Database) -> None:
    wrong = []
    for statement, item, is_servers in ERRORS:
        with closing(database.connect()) as session, pytest.raises(psycopg.Error) as caught:
            session.execute(f"BEGIN; {statement}".encode())
        if is_of_server(caught.value, item, Circumstances()) is not is_servers:
            wrong.append((statement, caught.value.sqlstate, caught.value.diag.source_file, caught.value.diag.context))
    assert wrong == []


def test_a_violation_under_another_locale_and_a_missing_privilege_prove_nothing(database: Database) -> None:
    for statement, there in (
        ("CREATE TABLE t (a int CHECK (a > 1)); INSERT INTO t VALUES (1)", Circumstances(same_locale=False)),
        ("SET ROLE pg_monitor; CREATE TABLE public.t ()", Circumstances(is_superuser=False)),
        ("SELECT no_such_function()", Circumstances(same_major=False)),
        ("SELECT no_such_function()", Circumstances(same_extensions=False)),
        ("DO $$ BEGIN PERFORM current_setting('app.tenant'); END $$", Circumstances(same_settings=False)),
    ):
        with closing(database.connect()) as session, pytest.raises(psycopg.Error) as caught:
            session.execute(f"BEGIN; {statement}".encode())
        assert not is_of_server(caught.value, "TABLE t", Circumstances())
        assert is_of_server(caught.value, "TABLE t", there), caught.value
