"""Choosing one of the backups of several targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pgratchet.backups import manifest
from pgratchet.backups.disk_store import DiskStore
from pgratchet.backups.listing import choose_backup, require_own
from pgratchet.backups.manifest import Contents, Database, Manifest
from pgratchet.backups.store import Store
from pgratchet.errors import BackupFailed

OLD, NEW, NEWEST = "20260101T000000-0000", "20260102T000000-0000", "20260103T000000-0000"
MANIFEST = Manifest(
    backup_id=OLD,
    environment="env",
    target="first",
    created_at="2026-01-01T00:00:00+00:00",
    server_version=180000,
    system_identifier="7",
    client_version="18.0",
    tool_version="0",
    archive="custom",
    compression="gzip",
    files={},
    database=Database("db", "owner", "UTF8", "c", "C", "C", None, None, -1),
    database_size=1,
    contents=Contents({}, 0, {}, (), (), {}),
    dump_ms=0,
    verify_ms=0,
)


@pytest.fixture
def stores(tmp_path: Path) -> list[tuple[str, str, Store]]:
    """Two targets: the first has a damaged newest backup, the second has newer backups."""
    backups = {"first": (OLD, NEW), "second": (NEW, NEWEST)}
    for target, ids in backups.items():
        for backup_id in ids:
            _write(DiskStore(tmp_path / target), replace(MANIFEST, backup_id=backup_id, target=target))
    (tmp_path / "first" / NEW / manifest.NAME).write_text("{}")
    return [("env", target, DiskStore(tmp_path / target)) for target in backups]


def _write(store: DiskStore, described: Manifest) -> None:
    with store.draft(described.backup_id) as draft:
        with draft.write("globals.sql") as write:
            write(b"")
        empty = manifest.BackupFile(0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        files = {"globals.sql": replace(empty, stamp=draft.stat("globals.sql").stamp)}
        draft.finish(manifest.NAME, manifest.dumps(replace(described, files=files)))


def test_without_an_id_the_newest_good_backup_of_the_first_target_is_chosen(
    stores: list[tuple[str, str, Store]],
) -> None:
    index, entry = choose_backup(stores, None)
    assert (index, entry.backup_id, entry.problem) == (0, OLD, "")


@pytest.mark.parametrize(("backup_id", "index", "good"), [(OLD, 0, True), (NEW, 0, False), (NEWEST, 1, True)])
def test_an_id_is_searched_in_all_stores_and_may_be_of_a_damaged_backup(
    stores: list[tuple[str, str, Store]], backup_id: str, index: int, good: bool
) -> None:
    chosen, entry = choose_backup(stores, backup_id)
    assert (chosen, entry.backup_id, entry.manifest is not None) == (index, backup_id, good)


@pytest.mark.parametrize(
    ("backup_id", "message"),
    [("20990101T000000-0000", 'there is no backup "20990101T000000-0000"'), ("../x", "no backup")],
)
def test_a_missing_backup_is_named_with_the_targets(
    stores: list[tuple[str, str, Store]], backup_id: str, message: str
) -> None:
    with pytest.raises(BackupFailed, match=message) as caught:
        choose_backup(stores, backup_id)
    assert caught.value.detail == "Looked among those of env: first, env: second."
    assert caught.value.hint == "`invoke backups --env=env` lists them."


def test_stores_without_a_good_backup_have_no_newest_one(tmp_path: Path) -> None:
    with pytest.raises(BackupFailed, match=r"^there is no backup\nDETAIL"):
        choose_backup([("env", "first", DiskStore(tmp_path))], None)


@pytest.mark.parametrize(("environment", "target"), [("other", "first"), ("env", "other")])
def test_a_backup_of_another_target_is_refused(environment: str, target: str) -> None:
    require_own(MANIFEST, "env", "first")
    with pytest.raises(BackupFailed, match="is of env: first") as caught:
        require_own(MANIFEST, environment, target)
    assert f"{environment}: {target}" in caught.value.detail
