"""Restores by an owner who is no superuser: what this role cannot restore is told before anything is read."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest

from pgratchet import events
from pgratchet.backups import kept_databases, restore
from pgratchet.backups.restore import RestoreOptions
from pgratchet.errors import BackupFailed, ConfigurationError, Interrupted
from tests.integration.backups.helpers import Owned


def test_an_owner_with_createdb_restores_what_it_owns(owned: Owned) -> None:
    archive, before = owned.own.back_up(), owned.privileged.likeness()
    owned.own.database.run("DROP TABLE notes")
    assert isinstance(owned.own.restore(archive)[-1], events.Swapped)
    assert owned.privileged.likeness() == before


FOR_SUPERUSERS = {
    "event trigger": "CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';\n"
    "CREATE EVENT TRIGGER on_ddl ON ddl_command_end EXECUTE FUNCTION f()",
    "publication": "CREATE PUBLICATION everything FOR ALL TABLES",
    "cast": "CREATE FUNCTION days(date) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';\n"
    "CREATE CAST (date AS int) WITH FUNCTION days(date)",
    "LEAKPROOF": "CREATE FUNCTION g(int) RETURNS int LANGUAGE sql IMMUTABLE LEAKPROOF AS 'SELECT 1';\n"
    "ALTER FUNCTION g(int) OWNER TO {role}",
    "language internal": "CREATE FUNCTION h(float8) RETURNS float8 LANGUAGE internal AS 'dsin'",
    "foreign-data wrapper": "CREATE FOREIGN DATA WRAPPER nowhere",
    "operator class": "CREATE OPERATOR CLASS ours FOR TYPE int USING btree AS OPERATOR 3 =,"
    " FUNCTION 1 btint4cmp(int, int)",
    "grant by": "GRANT SELECT ON notes TO {other} WITH GRANT OPTION;\n"
    "SET ROLE {other};GRANT SELECT ON notes TO pg_monitor",
}


@pytest.mark.parametrize("kind", FOR_SUPERUSERS)
def test_an_object_for_superusers_is_named_before_anything_is_read(owned: Owned, kind: str) -> None:
    owned.prepare(FOR_SUPERUSERS[kind])
    archive = owned.own.back_up()
    error = owned.assert_refused(archive, kind, "restore_environment")
    assert "Only a superuser may create the" in error.detail
    owned.privileged.restore(archive)
    assert len(owned.privileged.beside()) == 1


TEMPORARY = {
    "ended sessions": [],
    "a table of a superuser": ["CREATE TEMP TABLE t (x int, big text)"],
    "a table of another role": [
        "GRANT TEMP ON DATABASE {name} TO {other}",
        "SET ROLE {other}",
        "CREATE TEMP TABLE t ()",
    ],
    "a type, a view and a function": [
        "CREATE TYPE pg_temp.e AS ENUM ('a')",
        "CREATE TEMP VIEW v AS SELECT 1 AS x",
        "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE internal AS 'dsin'",
    ],
}


@pytest.mark.parametrize("kind", TEMPORARY)
def test_temporary_objects_do_not_keep_an_owner_from_restoring(owned: Owned, kind: str) -> None:
    """Their schemas belong to the bootstrap superuser, and stay in the catalog for the next session."""
    before = owned.own.back_up().manifest.contents
    owned.privileged.database.run("CREATE TEMP TABLE t (x int, big text)")
    with closing(owned.privileged.database.connect()) as session:
        for statement in TEMPORARY[kind]:
            session.execute(statement.format(name=owned.own.database.name, other=owned.other).encode())
        archive = owned.own.back_up()
    assert archive.manifest.contents.owners == before.owners
    assert archive.manifest.contents.roles == before.roles or kind == "a table of another role"  # the grant stays
    owned.own.restore(archive)
    assert len(owned.privileged.beside()) == 1


GRANTABLE = {
    "a schema of another role": (
        "CREATE SCHEMA theirs AUTHORIZATION {other};\nGRANT USAGE ON SCHEMA theirs TO {role}",
        "GRANT {other} TO {role};",
    ),
    "default privileges of another role": (
        "ALTER DEFAULT PRIVILEGES FOR ROLE {other} GRANT SELECT ON TABLES TO {role}",
        "GRANT {other} TO {role};",
    ),
    "creating databases": ("ALTER ROLE {role} NOCREATEDB", "ALTER ROLE {role} CREATEDB;"),
    "the live database": (
        "ALTER DATABASE {name} OWNER TO {other};\nGRANT ALL ON SCHEMA public TO {role}",
        "GRANT {other} TO {role};",
    ),
}


@pytest.mark.parametrize("what", GRANTABLE)
def test_the_statements_named_give_the_rights_that_were_missing(owned: Owned, what: str) -> None:
    statements, remedy = GRANTABLE[what]
    owned.prepare("GRANT {other} TO CURRENT_USER;\n" + statements)
    archive, before = owned.own.back_up(), owned.privileged.likeness()
    error = owned.assert_refused(archive, remedy)
    owned.prepare("\n".join(line for line in error.hint.splitlines() if line.endswith(";")).rstrip(";"))
    owned.own.restore(archive)
    assert owned.privileged.likeness() == before


def test_what_another_role_owns_in_a_schema_of_others_is_for_superusers(owned: Owned) -> None:
    """Through pg_restore too: ALTER TABLE ... OWNER TO asks CREATE on the schema of the new owner."""
    if owned.own.database.rows("SELECT current_setting('server_version_num')::int >= 150000") == [(False,)]:
        owned.prepare("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    owned.prepare("CREATE SCHEMA shared AUTHORIZATION {role};\nCREATE TABLE shared.theirs ()")
    owned.prepare("ALTER TABLE shared.theirs OWNER TO {other};\nGRANT {other} TO {role}")
    archive = owned.own.back_up()
    owned.assert_refused(archive, "what {other} owns in schemas of other roles")
    with pytest.raises(BackupFailed, match="pg_restore failed") as caught:
        owned.own.restore(archive, into=f"{owned.own.database.name}_into")
    assert "permission denied for schema" in caught.value.detail
    owned.privileged.restore(archive)


SETTINGS = {
    "a superuser's parameter": "ALTER DATABASE {name} SET log_statement = 'all'",
    "a parameter of nobody": "ALTER DATABASE {name} SET app.tenant = 'north'",
    "another role's setting": "ALTER ROLE {other} IN DATABASE {name} SET work_mem = '7MB'",
}


@pytest.mark.parametrize("what", SETTINGS)
def test_settings_that_the_role_may_not_make_can_be_left_out_or_granted(owned: Owned, what: str) -> None:
    owned.prepare(SETTINGS[what])
    archive, before = owned.own.back_up(), owned.privileged.likeness()
    error = owned.assert_refused(archive, "--accept-differences")
    owned.own.restore(archive, accept=True)
    assert owned.own.database.rows("SELECT count(*) FROM notes") == [(10,)]
    assert owned.privileged.likeness() != before
    if "SET ON PARAMETER" in error.hint:
        (grant,) = [line for line in error.hint.splitlines() if line.endswith(";")]
        owned.privileged.postgres.run(grant)
        time.sleep(1)  # what is kept has the second in its name
        owned.own.restore(archive)
        assert owned.privileged.likeness() == before
        owned.privileged.postgres.run(grant.replace("GRANT", "REVOKE").replace(" TO ", " FROM "))


def test_sessions_of_a_superuser_are_waited_for_and_the_swap_is_continued(owned: Owned) -> None:
    archive, before, live_oid = owned.own.back_up(), owned.privileged.likeness(), owned.privileged.oid()
    live = owned.own.database.name
    with closing(owned.privileged.database.connect()) as monitoring:
        preview = restore.preview(owned.own.site, live, archive.manifest)
        pid = monitoring.info.backend_pid
        assert [each.split(",")[0] for each in preview.sessions] == [f"pid {pid}"]
        with pytest.raises(BackupFailed, match="did not end") as caught:
            owned.own.restore(archive, wait=500)
        assert f"pid {pid}" in caught.value.detail
        assert "invoke restore --continue" in caught.value.hint
        assert monitoring.execute("SELECT 1").fetchone() == (1,)
        assert (owned.privileged.oid(), owned.privileged.is_open()) == (live_oid, True)
        threading.Timer(1, monitoring.close).start()
        continued = list(restore.continue_restore(owned.own.site, live, archive.manifest, RestoreOptions()))
    assert isinstance(continued[-1], events.Swapped)
    assert any(isinstance(event, events.SessionsAwaited) for event in continued)
    assert owned.privileged.oid() != live_oid
    assert owned.privileged.likeness() == before
    with pytest.raises(ConfigurationError, match="no restored database"):
        list(restore.continue_restore(owned.own.site, live, archive.manifest, RestoreOptions()))
    old = kept_databases.list_kept_databases(owned.own.site, live)
    kept_databases.drop_kept_databases(owned.own.site, live, old)
    assert owned.privileged.beside() == []


def test_a_signal_while_the_swap_waits_keeps_the_restored_database(owned: Owned) -> None:
    archive, before, live_oid = owned.own.back_up(), owned.privileged.likeness(), owned.privileged.oid()
    live = owned.own.database.name
    with closing(owned.privileged.database.connect()):
        stream = restore.restore(owned.own.site, live, archive, RestoreOptions())
        assert any(isinstance(event, events.SessionsAwaited) for event in iter(stream.__next__, None))
        with pytest.raises(Interrupted) as caught:
            stream.throw(KeyboardInterrupt())
    (kept,) = owned.privileged.beside()
    assert f'kept as "{kept}"' in caught.value.detail
    assert "invoke restore --continue" in caught.value.hint
    assert (owned.privileged.oid(), owned.privileged.is_open()) == (live_oid, True)
    *_, swapped = restore.continue_restore(owned.own.site, live, archive.manifest, RestoreOptions())
    assert isinstance(swapped, events.Swapped)
    assert owned.privileged.likeness() == before
    old = kept_databases.list_kept_databases(owned.own.site, live)
    kept_databases.drop_kept_databases(owned.own.site, live, old)


def test_a_role_without_createdb_restores_into_a_database_made_for_it(owned: Owned) -> None:
    archive, before = owned.own.back_up(), owned.privileged.likeness()
    into = f"{owned.own.database.name}_into"
    owned.privileged.postgres.run(f"ALTER ROLE {owned.role} NOCREATEDB")
    owned.privileged.postgres.run(f"CREATE DATABASE {into} OWNER {owned.role} TEMPLATE template0 ENCODING 'UTF8'")
    preview = restore.preview(owned.own.site, owned.own.database.name, archive.manifest, into)
    restore.require_restorable(preview, archive.manifest, RestoreOptions(into))
    owned.own.restore(archive, into=into)
    assert owned.privileged.likeness(into)[1] == before[1], "the names of roles begin with the live name"
    with pytest.raises(ConfigurationError, match="cannot be restored into") as caught:
        owned.own.restore(archive, into=into)
    assert "1 table (public.notes)" in caught.value.detail
