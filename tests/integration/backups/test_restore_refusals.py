"""Restores that are refused or fail: the live database stays unchanged."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from pgratchet import embedded, events
from pgratchet.backups import pg_programs, restore
from pgratchet.backups.backup import BackupSource
from pgratchet.backups.manifest import Contents
from pgratchet.backups.pg_programs import find_programs
from pgratchet.backups.restore import RestoreOptions
from pgratchet.errors import BackupFailed, ConfigurationError
from tests.integration.backups.helpers import RestorableDatabase, assert_untouched, fake_pg_restore, temporary_roles
from tests.servers.databases import Database, Server


def test_a_missing_role_is_named_before_anything_changes(restorable: RestorableDatabase) -> None:
    role = f"{restorable.database.name}_role"
    with temporary_roles(restorable.database, role):
        restorable.database.run(f"GRANT SELECT ON jobs TO {role}")
        archived = restorable.back_up()
    missing_one = [restorable.programs.path("pg_restore"), "--file=-", str(archived.content)]
    assert role in subprocess.run(missing_one, capture_output=True, text=True, check=True).stdout
    with assert_untouched(restorable):
        with pytest.raises(ConfigurationError, match="cannot be restored on this server") as caught:
            restorable.restore(archived)
        assert f"The role {role}." in caught.value.detail
        with pytest.raises(BackupFailed, match="pg_restore failed"):
            restorable.restore(archived, into=f"{restorable.database.name}_into")


@pytest.mark.parametrize(
    "script",
    [
        'REAL "$@"; echo "pg_restore: error: no more" >&2; exit 1',
        'REAL --list "$6" | head -40 > "$0.list"; REAL --use-list="$0.list" "$@"; kill -9 $$',
    ],
    ids=["at its end", "killed half-way"],
)
def test_a_failing_pg_restore_leaves_the_live_database_unchanged(
    restorable: RestorableDatabase, tmp_path: Path, script: str
) -> None:
    archived = restorable.back_up()
    failing = replace(archived, programs=fake_pg_restore(restorable.programs, tmp_path / "bin", script))
    begun: list[list[str]] = []
    with assert_untouched(restorable):
        stream = restore.restore(restorable.site, restorable.database.name, failing, RestoreOptions())
        with pytest.raises(BackupFailed, match="pg_restore failed"):
            begun.extend(restorable.beside() for _ in stream)
        assert begun
        with pytest.raises(BackupFailed, match="pg_restore failed"):
            restorable.restore(failing, into=f"{restorable.database.name}_into")


def test_an_incomplete_archive_leaves_the_live_database_unchanged(restorable: RestorableDatabase) -> None:
    restorable.database.run("CREATE TABLE bytes AS SELECT sha256(n::text::bytea) FROM generate_series(1, 20000) n")
    archived = restorable.back_up()
    assert isinstance(archived.content, Path)
    whole = archived.content.read_bytes()
    archived.content.write_bytes(whole[: len(whole) * 2 // 3])
    with assert_untouched(restorable), pytest.raises(BackupFailed, match="pg_restore failed"):
        restorable.restore(archived)
    with assert_untouched(restorable), pytest.raises(BackupFailed, match="pg_restore failed"):
        restorable.restore(replace(archived, content=iter([whole[: len(whole) * 2 // 3]])))
    restorable.restore(replace(archived, content=iter([whole])))


def test_a_role_that_may_not_create_databases_is_refused(restorable: RestorableDatabase) -> None:
    role = f"{restorable.database.name}_role"
    with temporary_roles(restorable.database, role):
        restorable.database.run(f"ALTER DATABASE {restorable.database.name} OWNER TO {role}")
        restorable.database.run(
            f"GRANT USAGE ON SCHEMA ratchet TO {role}; GRANT SELECT ON ratchet.migrations TO {role}"
        )
        archived = restorable.back_up()
        login = {"user": role, "password": "x"}
        lesser = replace(restorable, database=Database({**restorable.database.parameters, **login}))
        with assert_untouched(restorable):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                lesser.postgres.run("CREATE DATABASE x")
            with pytest.raises(ConfigurationError, match="lacks rights for this restore") as caught:
                lesser.restore(archived)
            assert f"ALTER ROLE {role} CREATEDB;" in caught.value.hint
            with pytest.raises(ConfigurationError, match="cannot be made"):
                lesser.restore(archived, into="x")
        restorable.database.run(f"ALTER DATABASE {restorable.database.name} OWNER TO CURRENT_USER")


def test_a_refused_setting_keeps_the_restored_database(restorable: RestorableDatabase) -> None:
    """A connection limit that no server accepts stands for a server that refuses this step."""
    archived = restorable.back_up()
    manifest = archived.manifest
    odd = replace(manifest, database=replace(manifest.database, connection_limit=-7))
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        restorable.postgres.run(f"ALTER DATABASE {restorable.database.name} CONNECTION LIMIT -7")
    live_oid = restorable.oid()
    with pytest.raises(BackupFailed, match="the server refused settings") as caught:
        restorable.restore(replace(archived, manifest=odd))
    (kept,) = restorable.beside()
    assert f'ALTER DATABASE "{kept}" CONNECTION LIMIT  -7;' in caught.value.detail
    assert "invoke restore --continue" in caught.value.hint
    assert (restorable.oid(), restorable.is_open()) == (live_oid, True)
    other = replace(manifest, backup_id="20260101T000000-0000")
    with pytest.raises(ConfigurationError, match="there is no restored database of backup 20260101T0") as refused:
        list(restore.continue_restore(restorable.site, restorable.database.name, other, RestoreOptions()))
    assert refused.value.detail == f'The database "{kept}" was restored from {manifest.backup_id}.'
    assert f"invoke restore --continue --backup={manifest.backup_id}" in refused.value.hint
    continued = restore.continue_restore(restorable.site, restorable.database.name, manifest, RestoreOptions())
    assert isinstance(list(continued)[-1], events.Swapped)
    assert restorable.oid() != live_oid
    assert len(restorable.beside()) == 1


def test_a_prepared_transaction_has_to_be_ended_first(logical_restorable: RestorableDatabase) -> None:
    """A database with a prepared transaction cannot be renamed."""
    live = logical_restorable.database
    archived = logical_restorable.back_up()
    live.run("BEGIN; INSERT INTO app_state SELECT * FROM app_state WHERE false; PREPARE TRANSACTION 'it''s orphaned'")
    with pytest.raises(psycopg.errors.ObjectInUse):
        logical_restorable.postgres.run("ALTER DATABASE app RENAME TO other")
    prepared = "SELECT gid, database FROM pg_prepared_xacts"
    for leave_behind in (False, True):
        with assert_untouched(logical_restorable):
            with pytest.raises(ConfigurationError) as caught:
                logical_restorable.restore(archived, leave_behind=leave_behind)
            assert "The prepared transaction it's orphaned." in caught.value.detail
            assert "PREPARED" in caught.value.hint
            assert logical_restorable.postgres.rows(prepared) == [("it's orphaned", "app")]
    live.run("ROLLBACK PREPARED 'it''s orphaned'")
    logical_restorable.restore(archived)


def test_an_existing_name_is_refused_and_its_database_unchanged(restorable: RestorableDatabase, server: Server) -> None:
    other = server.create()
    try:
        other.run("CREATE TABLE theirs AS SELECT 1 AS x")
        archived, before = restorable.back_up(), other.fingerprint()
        for existing in (other.name, restorable.database.name):
            with assert_untouched(restorable), pytest.raises(ConfigurationError, match="cannot be restored into"):
                restorable.restore(archived, into=existing)
        assert other.fingerprint() == before
    finally:
        server.drop(other)


def test_the_maintenance_database_cannot_be_swapped(restorable: RestorableDatabase) -> None:
    archived = restorable.back_up()
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        restorable.database.run(f"ALTER DATABASE {restorable.database.name} RENAME TO x")
    working = replace(restorable.site, maintenance=restorable.database.name)
    with assert_untouched(restorable), pytest.raises(ConfigurationError) as caught:
        list(restore.restore(working, restorable.database.name, archived, RestoreOptions()))
    assert "pg_maintenance_dbname" in caught.value.hint


@pytest.mark.parametrize("name", ["", "x" * 64, "é" * 32, "a\0b"])
def test_an_invalid_database_name_is_refused(restorable: RestorableDatabase, name: str) -> None:
    archived = restorable.back_up()
    with assert_untouched(restorable), pytest.raises(ConfigurationError, match="is not a valid database name"):
        restorable.restore(archived, into=name)


def other_count(contents: Contents) -> Contents:
    return replace(contents, tables={**contents.tables, "public.app_state": 3})


def other_version(contents: Contents) -> Contents:
    return replace(contents, extensions={**contents.extensions, "plpgsql": "0.9"})


def other_history(contents: Contents) -> Contents:
    return replace(contents, history={**contents.history, "002_more": "0" * 64})


def without_table(contents: Contents) -> Contents:
    return replace(contents, tables={k: v for k, v in contents.tables.items() if k != "public.app_state"})


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (other_count, "Table public.app_state: 2 rows, and 3 rows in the backup."),
        (without_table, "Table public.app_state is not in the backup."),
        (other_version, "Extension plpgsql: 1.0, and 0.9 in the backup."),
        (other_history, "The history differs: 002_more."),
    ],
)
def test_a_database_that_differs_from_the_manifest_is_not_swapped_in(
    restorable: RestorableDatabase, tamper: Callable[[Contents], Contents], message: str
) -> None:
    archived, live_oid = restorable.back_up(), restorable.oid()
    other = replace(archived, manifest=replace(archived.manifest, contents=tamper(archived.manifest.contents)))
    with pytest.raises(BackupFailed, match="differs from the manifest of backup") as caught:
        restorable.restore(other)
    assert message in caught.value.detail
    (restored,) = restorable.beside()
    assert f'"{restored}"' in caught.value.detail
    assert (restorable.oid(), restorable.is_open()) == (live_oid, True)
    assert restorable.named(restored).rows("SELECT count(*) FROM app_state") == [(2,)]
    time.sleep(1)  # what is restored has the second in its name
    swapped = restorable.restore(other, accept=True)[-1]
    assert isinstance(swapped, events.Swapped)
    assert restorable.oid() != live_oid


def test_an_invalid_index_is_named(restorable: RestorableDatabase, tmp_path: Path) -> None:
    """The restore is real; another session makes the index INVALID before the check."""
    archived = restorable.back_up()
    psql = restorable.programs.path("psql") if (restorable.programs.folder / "psql").exists() else "psql"
    script = (
        f'REAL "$@" && exec {psql}'
        ' --no-psqlrc --quiet "$5" --command="UPDATE pg_index SET indisvalid = false WHERE indexrelid ='
        " (SELECT indexrelid FROM pg_index WHERE indrelid = 'public.jobs'::regclass LIMIT 1)\"\n"
    )
    script = script.replace('"$5"', '"${4#--}"').replace('"${4#--}"', '"$4"')
    spoiled = replace(archived, programs=fake_pg_restore(restorable.programs, tmp_path / "bin", script))
    with pytest.raises(BackupFailed, match="differs from the manifest of backup") as caught:
        restorable.restore(spoiled)
    assert "is INVALID." in caught.value.detail
    assert len(restorable.beside()) == 1


@pytest.mark.skipif(
    pg_programs.version_of(embedded.programs() / "pg_dump") is None, reason="the wheel does not run here"
)
def test_an_archive_of_a_later_pg_dump_is_refused_for_an_older_server(
    server: Server, backup_source: BackupSource
) -> None:
    written = pg_programs.version_of(embedded.programs() / "pg_dump")
    if backup_source.server_version >= 170000:
        assert find_programs(backup_source.server_version, archive_version=written).version == written
        return
    with pytest.raises(BackupFailed) as caught:
        find_programs(backup_source.server_version, archive_version=written)
    assert "transaction_timeout" in caught.value.detail
    assert "server of version 17 or later" in caught.value.hint
