"""Databases with one kind of object each, through backup, drill, destruction and restore: identical afterwards.

The suite packs the kinds into a few databases. With PGRATCHET_TESTS=long each kind has its own.
"""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from pgratchet.backups.drill import Drill
from pgratchet.backups.listing import inspect_backup
from pgratchet.backups.verification import verify
from pgratchet.database import queries
from pgratchet.errors import BackupFailed, ConfigurationError
from tests.integration.backups.helpers import Owned, RestorableDatabase, run_drill
from tests.requirements import IS_LONG

KINDS = queries.load(str(Path(__file__).with_name("object_kinds.sql")), "object_kinds")
_PACKED = 8
"""How many kinds share a database in the suite."""


def _databases() -> list[list[str]]:
    size = 1 if IS_LONG else _PACKED
    kinds = list(KINDS)
    return [kinds[start : start + size] for start in range(0, len(kinds), size)]


def state(restorable: RestorableDatabase) -> list[object]:
    """The state of the live database by an independent oracle: pg_dump's schema, rows, sequences, large objects."""
    database = restorable.database
    relations = "SELECT oid::regclass::text FROM pg_class WHERE relkind = '{}' AND oid >= 16384 AND ({}) ORDER BY 1"
    sequences = [name for (name,) in database.rows(relations.format("S", "true"))]
    views = [name for (name,) in database.rows(relations.format("m", "relispopulated"))]
    return [
        restorable.likeness(),
        {name: database.rows(f"SELECT last_value, is_called FROM {name}") for name in sequences},
        {name: database.rows(f"SELECT v::text FROM {name} AS v ORDER BY 1") for name in views},
        database.rows("SELECT oid, lomacl::text, lo_get(oid) FROM pg_largeobject_metadata ORDER BY 1"),
        database.rows("SELECT relname, relispopulated FROM pg_class WHERE relkind = 'm' ORDER BY 1"),
    ]


@pytest.mark.parametrize(
    "kinds", _databases(), ids=lambda kinds: kinds[0] if len(kinds) == 1 else f"{kinds[0]} and more"
)
def test_a_restore_brings_every_kind_of_object_back(restorable: RestorableDatabase, kinds: list[str]) -> None:
    for kind in kinds:
        restorable.database.run(KINDS[kind])
    before, archive = state(restorable), restorable.back_up()
    entry = inspect_backup(restorable.disk_store, archive.manifest.backup_id)
    list(verify(entry, restorable.disk_store, restorable.programs))
    assert run_drill(Drill(restorable.site, archive)).problem == ""
    restorable.database.run("DROP SCHEMA public CASCADE; SELECT lo_unlink(oid) FROM pg_largeobject_metadata")
    assert state(restorable) != before
    restorable.restore(archive)
    assert state(restorable) == before


@pytest.mark.skipif(not IS_LONG, reason="it takes minutes: PGRATCHET_TESTS=long runs it")
@pytest.mark.parametrize("kind", KINDS)
def test_an_owner_restores_every_kind_or_is_told_before(owned: Owned, kind: str) -> None:
    """As an owner with CREATEDB and no more. What only a superuser can make, a superuser has made."""
    try:
        owned.own.database.run(KINDS[kind])
    except psycopg.errors.InsufficientPrivilege:
        owned.privileged.database.run(KINDS[kind])
        owned.prepare("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    try:
        archive = owned.own.back_up()
    except BackupFailed as error:
        assert "permission denied" in f"{error.message} {error.detail}"  # noqa: PT017
        return
    before = state(owned.privileged)
    try:
        owned.own.restore(archive)
    except ConfigurationError as error:
        assert "lacks rights for this restore" in error.message  # noqa: PT017
        assert owned.privileged.beside() == []
    assert state(owned.privileged) == before
