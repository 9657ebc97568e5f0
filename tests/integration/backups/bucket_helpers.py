"""Backups in a bucket, for test_bucket.py and test_bucket_failures.py."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from pgratchet.backups import (
    backup,
    listing,
    verification,
)
from pgratchet.backups.backup import BackupOptions, BackupSource
from pgratchet.backups.manifest import Manifest
from pgratchet.backups.pg_programs import Programs
from pgratchet.backups.store import Store
from pgratchet.config import settings
from pgratchet.config.inventory import InventoryTarget
from pgratchet.errors import RatchetError
from tests import ROOT
from tests.integration.backups.helpers import manifest_of
from tests.servers.databases import Database
from tests.servers.object_store import CANARY, KEYS, S3Server


def take(source: BackupSource, store: Store, programs: Programs, **wishes: object) -> Manifest:
    return manifest_of(backup.take(source, store, programs, BackupOptions(**wishes)), store)  # type: ignore[arg-type]


def verify(store: Store, backup_id: str, programs: Programs, identity: Path | None = None) -> Manifest:
    entry = listing.inspect_backup(store, backup_id)
    list(verification.verify(entry, store, programs, identity))
    return listing.require_manifest(entry)


def ids_of_good_backups(store: Store) -> list[str]:
    return [each.backup_id for each in listing.list_backups(store) if each.manifest]


def error_text(run: Callable[[], object]) -> str:
    """The error of a run, with its three parts. The traceback contains no secret."""
    with pytest.raises(RatchetError) as caught:
        run()
    text = str(caught.value)
    assert re.fullmatch(r"[^\n]+\nDETAIL: .+\nHINT: .+", text, re.DOTALL), text
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    return text


def target_with_bucket(database: Database, s3: S3Server, prefix: str) -> settings.RenderedTarget:
    variables: dict[str, object] = {
        f"pg_{key}": value for key, value in database.parameters.items() if key != "password"
    }
    options = {name: f"{{{{ env('S3_{name.upper()}') }}}}" for name in (*KEYS, "endpoint")}
    variables |= {"backup_store": f"s3://bucket/{prefix}", "backup_store_options": options, "backup_keep_count": 1}
    environ = {f"S3_{name.upper()}": value for name, value in {**KEYS, "endpoint": s3.endpoint}.items()}
    return settings.render_target(InventoryTarget("env", "target", (), variables), ROOT / "templates", environ, dict)


INCOMPRESSIBLE = (
    "CREATE TABLE bytes AS SELECT sha256((n::text || random()::text)::bytea) AS x FROM generate_series(1, {}) n"
)


def write_backup(store: Store) -> None:
    with store.draft("20260101T000000-0000") as draft, draft.write("database.dump") as write:
        write(b"x")


embedded_server_only = pytest.mark.parametrize("server", ["embedded"], indirect=True)
"""One PostgreSQL will do, where there has to be one."""
