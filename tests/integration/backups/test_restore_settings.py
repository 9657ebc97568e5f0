"""The properties of a database during and after its restore: settings that its functions read, and who may connect."""

from __future__ import annotations

import pytest

from pgratchet import events
from pgratchet.backups import restore
from pgratchet.backups.drill import Drill
from pgratchet.backups.restore import RestoreOptions
from tests.integration.backups.helpers import RestorableDatabase, run_drill

READS_A_SETTING = """
    ALTER DATABASE {name} SET app.tenant = 'north';
    ALTER DATABASE {name} SET search_path = 'tools', 'public';
    CREATE SCHEMA tools;
    CREATE FUNCTION tools.tenant() RETURNS text IMMUTABLE LANGUAGE sql RETURN current_setting('app.tenant');
"""
OBJECTS = {
    "generated": "CREATE TABLE t (a int, b text GENERATED ALWAYS AS (tools.tenant()) STORED); INSERT INTO t VALUES (1)",
    "view": "CREATE TABLE t (a int); CREATE MATERIALIZED VIEW v AS SELECT tools.tenant() AS b",
    "index": "CREATE TABLE t (a text); INSERT INTO t VALUES ('x'); CREATE INDEX i ON t ((a || tools.tenant()))",
    "check": "CREATE TABLE t (a text, CHECK (a <> tools.tenant())); INSERT INTO t VALUES ('south')",
}


def prepare(restorable: RestorableDatabase, objects: str) -> None:
    name = restorable.database.name
    for statement in READS_A_SETTING.format(name=f'"{name}"').split(";\n"):
        if statement.strip():
            restorable.database.run(statement)
    restorable.database.run(objects)


@pytest.mark.parametrize("objects", OBJECTS.values(), ids=OBJECTS)
def test_functions_read_the_settings_while_the_data_is_restored(restorable: RestorableDatabase, objects: str) -> None:
    prepare(restorable, objects)
    archive, before = restorable.back_up(), restorable.likeness()
    assert run_drill(Drill(restorable.site, archive, create_roles=False)).good
    restorable.database.run("DROP TABLE t CASCADE")
    restorable.restore(archive)
    assert restorable.likeness() == before


@pytest.mark.parametrize(
    "setting",
    ["default_transaction_read_only = on", "session_replication_role = replica"],
)
def test_a_setting_that_would_stop_the_restore_is_restored_last(restorable: RestorableDatabase, setting: str) -> None:
    restorable.database.run("CREATE TABLE parent (a int PRIMARY KEY); CREATE TABLE child (a int REFERENCES parent)")
    restorable.postgres.run(f'ALTER DATABASE "{restorable.database.name}" SET {setting}')
    archive, before = restorable.back_up(), restorable.likeness()
    restorable.restore(archive)
    assert restorable.likeness() == before


def test_nobody_else_connects_to_the_copy_while_it_is_restored(restorable: RestorableDatabase) -> None:
    name = restorable.database.name
    restorable.postgres.run(f"CREATE ROLE \"{name}_guest\" LOGIN PASSWORD 'guest'")
    try:
        archive = restorable.back_up()
        seen: list[object] = []
        for event in restore.restore(restorable.site, name, archive, RestoreOptions()):
            if isinstance(event, events.BackupProgress | events.Restored) and not seen:
                (copy,) = [other for other in restorable.beside() if "_restore_" in other]
                rows = restorable.postgres.rows(f"SELECT has_database_privilege('{name}_guest', '{copy}', 'CONNECT')")
                seen.append(rows[0][0])
        assert seen == [False]
        guest = f"SELECT has_database_privilege('{name}_guest', '{name}', 'CONNECT')"
        assert restorable.postgres.rows(guest) == [(True,)]
    finally:
        restorable.postgres.run(f'DROP ROLE "{name}_guest"')
