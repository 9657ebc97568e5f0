"""The backup before a run: taken under the lock, before the first statement, or the run stops."""

from __future__ import annotations

import psycopg
import pytest

from pgratchet import events
from pgratchet.apply import applier
from pgratchet.errors import (
    BackupFailed,
    ConfigurationError,
    MigrationFailed,
)
from tests.servers.databases import Database
from tests.support.migrations import WriteMigrations, migrate

pytestmark = pytest.mark.every_major


def test_the_backup_comes_before_the_first_statement_and_under_the_lock(
    database: Database, write: WriteMigrations
) -> None:
    observed: list[object] = []

    def backup(_: psycopg.Connection) -> events.Stream:
        observed.append(database.rows("SELECT to_regclass('a'), to_regclass('ratchet.migrations')"))
        observed.append(database.rows("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"))
        yield events.BackupTaken("id", "path", 1, 1)

    migrate(database, write(m1_a="create table a ()"), backup)
    assert observed == [[(None, None)], [(1,)]]
    assert database.rows("SELECT backup_id FROM ratchet.migrations") == [("id",)]
    assert len(observed) == 2


def test_a_failing_migration_names_the_backup(database: Database, write: WriteMigrations) -> None:
    def backup(_: psycopg.Connection) -> events.Stream:
        yield events.BackupTaken("20250111T093000-abcd", "path", 1, 1)

    files = write(m1_a="select 1 / 0")
    with pytest.raises(MigrationFailed) as caught:
        migrate(database, files, backup)
    assert caught.value.hint.endswith(" The backup taken before this run is 20250111T093000-abcd.")
    with pytest.raises(MigrationFailed) as caught:
        migrate(database, files)
    assert caught.value.hint.endswith("; then run `invoke migrate` again.")


def test_a_failing_backup_stops_the_run(database: Database, write: WriteMigrations) -> None:
    def backup(_: psycopg.Connection) -> events.Stream:
        yield from ()
        raise BackupFailed("no", hint="None.")

    before = database.fingerprint()
    with pytest.raises(BackupFailed):
        migrate(database, write(m1_a="create table a ()"), backup)
    assert database.fingerprint() == before


def test_the_destructive_only_policy_skips_backups_for_additions(database: Database, write: WriteMigrations) -> None:
    def backup(_: psycopg.Connection) -> events.Stream:
        yield events.BackupTaken("id", "path", 1, 1)

    files = write(m1_a="create table a (x int)", m2_b="insert into a values (1)")
    migrate(database, files, backup, only_destructive=True)
    files = write(m3_c="alter table a add y int", m4_d="drop table a")
    migrate(database, files, backup, only_destructive=True, to="3")
    migrate(database, files, backup, only_destructive=True)
    migrate(database, write(m5_e="create table b ()"), backup, only_destructive=True, without_backup="said so")
    assert database.rows("SELECT name, backup_id, backup_waived FROM ratchet.migrations ORDER BY id") == [
        ("1_a", None, "nothing destructive"),
        ("2_b", None, "nothing destructive"),
        ("3_c", None, "nothing destructive"),
        ("4_d", "id", None),
        ("5_e", None, "said so"),
    ]


def test_a_waiver_needs_a_reason() -> None:
    assert applier.needs_backup("always", None)
    assert applier.needs_backup("when-destructive", None)
    assert not applier.needs_backup("always", "a reason")
    assert not applier.needs_backup("never", None)
    with pytest.raises(ConfigurationError, match="needs a reason"):
        applier.needs_backup("always", " ")
