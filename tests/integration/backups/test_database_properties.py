"""Properties of a database that a dump lacks, and objects that a dump leaves out without an error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from pgratchet import events
from pgratchet.backups import backup, kept_databases
from pgratchet.backups.backup import BackupOptions
from pgratchet.backups.disk_store import DiskStore
from pgratchet.backups.pg_programs import Programs
from pgratchet.checks.doctor import DoctorOptions, check_server
from pgratchet.database.history import History
from pgratchet.errors import ConfigurationError
from tests.integration.backups.helpers import (
    RestorableDatabase,
    assert_untouched,
    backup_source_of,
    manifest_of,
    temporary_roles,
)
from tests.servers.databases import Database

COLUMNS = "datistemplate, datconnlimit, datallowconn, spcname, datcollate, datctype, datcollversion, datlocprovider"
SCHEMAS = (
    "SELECT nspname, pg_get_userbyid(nspowner), coalesce(nspacl, acldefault('n', nspowner))::text,"
    " obj_description(oid, 'pg_namespace')"
    " FROM pg_namespace WHERE nspname !~ '^pg_' ORDER BY 1"
)


def properties(database: Database) -> list[list[tuple[object, ...]]]:
    """The columns of pg_database, and what every new database has at first."""
    query = f"SELECT {COLUMNS} FROM pg_database JOIN pg_tablespace t ON t.oid = dattablespace WHERE datname = %s"
    return [
        database.rows(query, database.name),
        database.rows(SCHEMAS),
        database.rows("SELECT extname, obj_description(oid, 'pg_extension') FROM pg_extension ORDER BY 1"),
    ]


@pytest.fixture
def tablespace(restorable: RestorableDatabase) -> Iterator[str]:
    name = f"{restorable.database.name}_space"
    with restorable.postgres.connect() as session:
        session.execute("SET allow_in_place_tablespaces = on")
        session.execute(f"CREATE TABLESPACE {name} LOCATION ''".encode())
    yield name
    for each in (restorable.database.name, *restorable.beside()):
        restorable.postgres.run(f'ALTER DATABASE "{each}" SET TABLESPACE pg_default')
    restorable.postgres.run(f"DROP TABLESPACE {name}")


@pytest.mark.parametrize(
    "change",
    [
        "DROP SCHEMA public CASCADE",
        "DROP SCHEMA public CASCADE; DROP EXTENSION plpgsql CASCADE; CREATE SCHEMA other",
        "COMMENT ON SCHEMA public IS NULL; REVOKE ALL ON SCHEMA public FROM PUBLIC",
        "ALTER SCHEMA public OWNER TO pg_monitor; GRANT USAGE ON SCHEMA public TO PUBLIC",
        "DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION pg_monitor",
    ],
)
def test_what_every_new_database_has_is_restored(restorable: RestorableDatabase, change: str) -> None:
    live = restorable.database
    live.run(change)
    before, likeness, archive = properties(live), restorable.likeness(), restorable.back_up()
    live.run("DROP SCHEMA IF EXISTS public CASCADE; CREATE SCHEMA public; CREATE EXTENSION IF NOT EXISTS plpgsql")
    assert properties(live) != before
    *_, compared, _ = restorable.restore(archive)
    assert isinstance(compared, events.Compared)
    assert (compared.differences, compared.notes) == ((), ())
    assert properties(live) == before
    assert restorable.likeness() == likeness


def test_a_template_in_a_tablespace_is_restored_and_dropped(restorable: RestorableDatabase, tablespace: str) -> None:
    live, name = restorable.database, restorable.database.name
    restorable.postgres.run(f"ALTER DATABASE {name} SET TABLESPACE {tablespace}")
    restorable.postgres.run(f"ALTER DATABASE {name} IS_TEMPLATE true CONNECTION LIMIT 17")
    before, archive = properties(live), restorable.back_up()
    assert before[0][0][:4] == (True, 17, True, tablespace)
    restorable.postgres.run(f"ALTER DATABASE {name} CONNECTION LIMIT -1")
    restorable.restore(archive)
    assert properties(live) == before
    names = kept_databases.list_kept_databases(restorable.site, name)
    assert len(names) == 1
    kept_databases.drop_kept_databases(restorable.site, name, names)
    assert restorable.beside() == []
    gone = replace(archive.manifest, database=replace(archive.manifest.database, tablespace="gone"))
    restorable.postgres.run(f"ALTER DATABASE {name} IS_TEMPLATE false")
    with assert_untouched(restorable), pytest.raises(ConfigurationError, match="cannot be made") as caught:
        restorable.restore(replace(archive, manifest=gone))
    assert 'tablespace "gone" does not exist' in caught.value.detail


def test_an_owner_restores_a_database_without_public(
    database: Database, disk_store: DiskStore, programs: Programs
) -> None:
    owner = f"{database.name}_owner"
    with temporary_roles(database, owner, options="LOGIN CREATEDB PASSWORD 'x'"):
        database.run(f"ALTER DATABASE {database.name} OWNER TO {owner}; DROP EXTENSION plpgsql; DROP SCHEMA public")
        live = Database({**database.parameters, "user": owner, "password": "x"})
        live.run("CREATE SCHEMA app; CREATE TABLE app.t AS SELECT 1 AS x")
        scene = RestorableDatabase(live, disk_store, programs)
        try:
            before, archive = properties(live), scene.back_up()
            live.run("DROP SCHEMA app CASCADE")
            *_, compared, _ = scene.restore(archive)
            assert isinstance(compared, events.Compared)
            assert compared.notes == ("The extension plpgsql is not in the backup. This role may not drop it.",)
            assert properties(live)[:2] == before[:2]
            database.run(f"CREATE DATABASE {live.name}_into OWNER {owner}")
            assert scene.restore(archive, into=f"{live.name}_into")
            assert properties(scene.named(f"{live.name}_into"))[1] == before[1]
        finally:
            for name in scene.beside():
                scene.postgres.run(f'DROP DATABASE "{name}" WITH (FORCE)')
            database.run(f"ALTER DATABASE {database.name} OWNER TO CURRENT_USER")


LEFT_OUT = """
CREATE SUBSCRIPTION "the ""feed"" x" CONNECTION 'host=/nowhere' PUBLICATION p
    WITH (connect = false, slot_name = NONE, enabled = false);
CREATE FOREIGN DATA WRAPPER wrapper; CREATE SERVER far FOREIGN DATA WRAPPER wrapper;
CREATE USER MAPPING FOR CURRENT_USER SERVER far OPTIONS (password 'secret');
CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (password 'secret');
"""
IN_SERVER_SCHEMAS = """
CREATE TABLE information_schema.rows AS SELECT 1 AS x;
CREATE FUNCTION pg_catalog.ours() RETURNS int LANGUAGE sql AS 'SELECT 1';
"""


def test_what_a_dump_leaves_out_is_told_by_the_backup_and_the_doctor(
    database: Database, disk_store: DiskStore, programs: Programs
) -> None:
    reader = f"{database.name}_reader"
    with temporary_roles(database, reader):
        database.run(f"CREATE TABLE t (x int); GRANT pg_read_all_data TO {reader}; {LEFT_OUT}")
        role = Database({**database.parameters, "user": reader, "password": "x"})
        try:
            ((me,),) = database.rows("SELECT quote_ident(current_user)")
            hidden = "this role cannot read them."
            expected = (
                f"The options of the user mapping of PUBLIC for the server far: {hidden}",
                f"The options of the user mapping of {me} for the server far: {hidden}",
                'The subscription "the ""feed"" x": only a superuser can dump it.',
            )
            happened = list(backup.take(backup_source_of(role), disk_store, programs, BackupOptions()))
            (left_out,) = [event for event in happened if isinstance(event, events.LeftOut)]
            assert sorted(left_out.objects) == sorted(expected)
            assert manifest_of(iter(happened), disk_store).contents.left_out == left_out.objects
            assert sorted(dump_findings(role)) == sorted(f"not in a backup: t{each[1:-1]}" for each in expected)
            assert dump_findings(database) == []
            database.run(IN_SERVER_SCHEMAS)
            assert dump_findings(database) == [
                "not in a backup: the function pg_catalog.ours: pg_dump skips the schemas of the server",
                "not in a backup: the table information_schema.rows: pg_dump skips the schemas of the server",
            ]
        finally:
            database.run('DROP SUBSCRIPTION "the ""feed"" x"')


def dump_findings(database: Database) -> list[str]:
    with database.connect() as session:
        found = list(check_server(session, DoctorOptions(History())))
    return [finding.what for finding in found if finding.subject == "dump"]


def test_what_is_said_to_be_left_out_is_not_in_the_dump(
    database: Database, disk_store: DiskStore, programs: Programs
) -> None:
    """The query tells what this pg_dump does, for a superuser and for another role."""
    reader, words = f"{database.name}_reader", ("CREATE SUBSCRIPTION", "secret", "ours", "information_schema")
    with temporary_roles(database, reader):
        database.run(f"GRANT pg_read_all_data TO {reader}; {LEFT_OUT} {IN_SERVER_SCHEMAS}")
        role = Database({**database.parameters, "user": reader, "password": "x"})
        try:
            for user, dumped in ((database, ["CREATE SUBSCRIPTION", "secret"]), (role, [])):
                text = "\n".join(RestorableDatabase(user, disk_store, programs).likeness()[0])
                assert [word for word in words if word in text] == dumped
        finally:
            database.run('DROP SUBSCRIPTION "the ""feed"" x"')
