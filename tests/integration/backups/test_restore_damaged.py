"""The state of the live database is never a condition for restoring it."""

from __future__ import annotations

from contextlib import closing

import pytest

from pgratchet import events
from pgratchet.backups import restore
from tests.integration.backups.helpers import RestorableDatabase

DAMAGE = {
    "a dropped column of the history": "ALTER TABLE ratchet.migrations DROP COLUMN executed_at",
    "an altered column of the history": "ALTER TABLE ratchet.migrations ALTER executed_at TYPE text",
    "no history": "DROP SCHEMA ratchet CASCADE",
    "a history that is a view": "ALTER TABLE ratchet.migrations RENAME TO m;"
    " CREATE VIEW ratchet.migrations AS SELECT 1 / 0 AS name FROM ratchet.m",
    "a read-only database": "DO $$ BEGIN EXECUTE format("
    "'ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$",
    "a statement timeout": "DO $$ BEGIN EXECUTE format("
    "'ALTER DATABASE %I SET statement_timeout = 30', current_database()); END $$",
    "no tables": "DROP TABLE IF EXISTS hyperpage CASCADE; DROP SCHEMA public CASCADE",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_database_is_restored(restorable: RestorableDatabase, damage: str) -> None:
    archive, before = restorable.back_up(), restorable.likeness()
    restorable.database.run(damage)
    restorable.restore(archive)
    assert restorable.likeness() == before


def test_a_history_that_another_session_has_locked_does_not_stop_the_restore(restorable: RestorableDatabase) -> None:
    archive = restorable.back_up()
    with closing(restorable.database.connect()) as session:
        session.execute("BEGIN; LOCK TABLE ratchet.migrations")
        preview = restore.preview(restorable.site, restorable.database.name, archive.manifest)
        assert preview.exists
        assert "lock timeout" in preview.unread
        assert isinstance(restorable.restore(archive)[-1], events.Swapped)


def test_a_database_that_nobody_can_connect_to_is_restored(restorable: RestorableDatabase) -> None:
    archive, before = restorable.back_up(), restorable.likeness()
    name = restorable.database.name
    restorable.postgres.run(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    assert isinstance(restorable.restore(archive)[-1], events.Swapped)
    assert restorable.likeness() == before
