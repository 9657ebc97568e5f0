"""Servers of a test's own, beside those that all tests share; and what a backup is taken with."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgratchet.backups.backup import BackupSource
from pgratchet.backups.disk_store import DiskStore
from pgratchet.backups.pg_programs import Programs, find_programs
from pgratchet.backups.restore_server import RestoreServer
from pgratchet.config import settings
from pgratchet.config.inventory import InventoryTarget
from pgratchet.config.settings import RenderedTarget
from pgratchet.operations.backups import backup_source
from pgratchet.operations.restore import restore_server
from tests import ROOT
from tests.servers.databases import Database


def settings_of(database: Database, **variables: object) -> RenderedTarget:
    """A target's settings that lead to the database; they may be more by name."""
    given: dict[str, object] = {f"pg_{key}": value for key, value in database.parameters.items() if key != "password"}
    given["pg_password"] = "{{ env('SECRET', '') }}"
    target = InventoryTarget("env", "target", (), given | variables)
    secret = {"SECRET": database.parameters.get("password", "")}
    return settings.render_target(target, ROOT / "templates", secret, dict)


@pytest.fixture
def source(migrated: Database) -> BackupSource:
    return source_of(migrated)


def source_of(database: Database, **variables: object) -> BackupSource:
    target = settings_of(database, **variables)
    with target.connected() as connection:
        return backup_source(target, connection)


@pytest.fixture
def programs(source: BackupSource) -> Programs:
    return find_programs(source.server_version)


@pytest.fixture
def kept(tmp_path: Path) -> DiskStore:
    return DiskStore(tmp_path / "backups" / "env" / "target")


@pytest.fixture
def site(migrated: Database) -> RestoreServer:
    return restore_server(settings_of(migrated))
