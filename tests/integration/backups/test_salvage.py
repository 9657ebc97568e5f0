"""What pg_restore refuses is listed and kept as SQL; everything else is restored, with all rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pgratchet import events
from pgratchet.backups import verification
from pgratchet.backups.archive_items import OpenArchive
from pgratchet.backups.loading import BackupArchive
from pgratchet.backups.salvage import salvage
from pgratchet.errors import RatchetError
from tests.integration.backups.helpers import RestorableDatabase, restore_server_of
from tests.servers.databases import Database

DAMAGE = """
CREATE TABLE lookup (a int); INSERT INTO lookup VALUES (1);
CREATE FUNCTION by_path(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
    'BEGIN RETURN (SELECT count(*) FROM lookup); END';
CREATE TABLE indexed (a int); CREATE INDEX bad_index ON indexed (by_path(a)); CREATE INDEX good_index ON indexed (a);
INSERT INTO indexed VALUES (1), (2);
CREATE FUNCTION is_low(int) RETURNS bool LANGUAGE sql AS 'SELECT $1 < 100';
CREATE TABLE "Odd ""table" (a int CONSTRAINT low CHECK (is_low(a)), b int CONSTRAINT positive CHECK (b > 0));
INSERT INTO "Odd ""table" VALUES (1, 1), (50, 2), (7, 3);
CREATE DOMAIN low_number AS int CONSTRAINT low CHECK (is_low(VALUE));
CREATE TABLE with_domain (a low_number); INSERT INTO with_domain VALUES (50);
CREATE TABLE parent (a int CONSTRAINT low CHECK (is_low(a))) PARTITION BY RANGE (a);
CREATE TABLE child PARTITION OF parent FOR VALUES FROM (0) TO (100); INSERT INTO parent VALUES (50), (60);
CREATE FUNCTION doubled(int) RETURNS int IMMUTABLE LANGUAGE sql SET search_path = public AS 'SELECT $1 * 2';
CREATE TABLE generated (a int, twice int GENERATED ALWAYS AS (doubled(a)) STORED); INSERT INTO generated VALUES (4);
CREATE OR REPLACE FUNCTION doubled(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
    'BEGIN RETURN (SELECT $1 * 2 FROM lookup); END';
CREATE OR REPLACE FUNCTION is_low(int) RETURNS bool LANGUAGE sql AS 'SELECT $1 < 10';
CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE child_of_p (p int CONSTRAINT to_p REFERENCES p);
SET session_replication_role = replica; INSERT INTO child_of_p VALUES (7);
"""
LOST = {
    "INDEX public.bad_index",
    'CHECK CONSTRAINT public."Odd ""table" low',
    "CHECK CONSTRAINT public.low_number low",
    "CHECK CONSTRAINT public.parent low",
    "GENERATED COLUMN public.generated.twice",
    "FK CONSTRAINT public.child_of_p to_p",
}


@contextmanager
def salvaged(restorable: RestorableDatabase, *, stream: bool = False) -> Iterator[tuple[Database, list[events.Event]]]:
    archive, name = restorable.back_up(), f"{restorable.database.name}_look"

    def open_archive() -> object:
        content = verification.open_content(archive.manifest, restorable.disk_store, None)
        return iter([content.read_bytes()]) if stream else content  # type: ignore[union-attr]

    opened: OpenArchive = open_archive  # type: ignore[assignment]
    site = restore_server_of(restorable.database)
    archive = BackupArchive(archive.manifest, opened(), archive.programs)
    yield restorable.named(name), list(salvage(site, archive, opened, name, jobs=1 if stream else 2))


@pytest.mark.parametrize("stream", [False, True])
def test_all_rows_are_restored_and_the_rest_is_kept_as_sql(restorable: RestorableDatabase, stream: bool) -> None:
    live = restorable.database
    live.run(DAMAGE)
    before, tables = own_objects(live), [str(t) for (t,) in live.rows(TABLES)]
    with salvaged(restorable, stream=stream) as (restored, happened):
        items = {each.name: each for each in happened if isinstance(each, events.ItemNotRestored)}
        assert set(items) == LOST
        for table in tables:
            if table != "public.generated":
                rows = f"SELECT t::text FROM {table} AS t ORDER BY 1"
                assert restored.rows(rows) == live.rows(rows), table
        assert restored.rows("SELECT a, twice FROM generated") == [(4, None)]
        assert restored.rows("SELECT to_regclass('good_index') IS NOT NULL, to_regclass('bad_index')") == [(True, None)]
        assert restored.rows("SELECT 1 FROM pg_constraint WHERE conname = 'positive'") == [(1,)]
        (compared,) = [each for each in happened if isinstance(each, events.Compared)]
        assert compared.differences == ()
        assert "lookup" in items["INDEX public.bad_index"].error
        assert "(7) is not present" in items["FK CONSTRAINT public.child_of_p to_p"].error
        restored.run(
            "INSERT INTO p VALUES (7); CREATE OR REPLACE FUNCTION is_low(int) RETURNS bool LANGUAGE sql"
            " AS 'SELECT $1 < 100'; ALTER FUNCTION by_path SET search_path = public;"
            " ALTER FUNCTION doubled SET search_path = public"
        )
        restored.run("".join(each.sql for each in items.values()))
        assert restored.rows("SELECT a, twice FROM generated") == [(4, 8)]
        assert restored.rows("SELECT to_regclass('bad_index') IS NOT NULL") == [(True,)]
    assert own_objects(live) == before


def own_objects(database: Database) -> list[tuple[object, ...]]:
    return [row for row in database.fingerprint() if row[0] != "database"]


TABLES = (
    "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
    " WHERE c.relkind = 'r' AND c.oid >= 16384 ORDER BY 1"
)


def test_a_whole_backup_is_restored_whole(restorable: RestorableDatabase) -> None:
    with salvaged(restorable) as (restored, happened):
        assert not [each for each in happened if isinstance(each, events.ItemNotRestored)]
        assert restorable.likeness(restored.name) == restorable.likeness()


def test_an_existing_database_is_not_salvaged_into(restorable: RestorableDatabase) -> None:
    archive = restorable.back_up()
    before = restorable.database.fingerprint()
    opened: OpenArchive = lambda: archive.content  # noqa: E731
    with pytest.raises(RatchetError, match="cannot be restored into"):
        list(salvage(restorable.site, archive, opened, restorable.database.name, 1))
    assert restorable.database.fingerprint() == before
