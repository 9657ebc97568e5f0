"""Choosing one of the backups of several targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pgratchet.backups import manifest
from pgratchet.backups.choice import TargetStore, choose_named, choose_newest, find_elsewhere
from pgratchet.backups.disk_store import DiskStore
from pgratchet.backups.manifest import Contents, Database, Manifest
from pgratchet.errors import BackupFailed, ConfigurationError

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
def stores(tmp_path: Path) -> list[TargetStore]:
    """Two targets: the first has a damaged newest backup, the second has newer backups."""
    backups = {"first": (OLD, NEW), "second": (NEW, NEWEST)}
    for target, ids in backups.items():
        for backup_id in ids:
            _write(DiskStore(tmp_path / target), replace(MANIFEST, backup_id=backup_id, target=target))
    (tmp_path / "first" / NEW / manifest.NAME).write_text("{}")
    return [TargetStore("env", target, DiskStore(tmp_path / target)) for target in backups]


def _write(store: DiskStore, described: Manifest) -> None:
    with store.draft(described.backup_id) as draft:
        with draft.write("globals.sql") as write:
            write(b"")
        empty = manifest.BackupFile(0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        files = {"globals.sql": replace(empty, stamp=draft.stat("globals.sql").stamp)}
        draft.finish(manifest.NAME, manifest.dumps(replace(described, files=files)))


def _damage(folder: Path) -> None:
    (folder / "globals.sql").write_text("x")


def test_the_newest_good_backup_of_the_first_target_is_chosen_and_newer_damaged_ones_are_named(
    stores: list[TargetStore],
) -> None:
    choice = choose_newest(stores)
    assert (choice.index, choice.entry.backup_id, choice.entry.problem) == (0, OLD, "")
    assert [each.describe_fault() for each in choice.skipped] == [
        f"Backup {NEW} is damaged: Its manifest is not of the format 2, which this version reads."
    ]


def test_drafts_are_no_damage_and_a_backup_that_lost_its_manifest_is(stores: list[TargetStore], tmp_path: Path) -> None:
    (tmp_path / "first" / f"{NEWEST}.partial").mkdir()
    (tmp_path / "first" / NEW / manifest.NAME).unlink()
    assert [each.backup_id for each in choose_newest(stores).skipped] == [NEW]
    (tmp_path / "first" / NEW).rename(tmp_path / "first" / f"{NEW}.partial")
    assert choose_newest(stores).skipped == ()


def test_older_damaged_backups_are_not_named(stores: list[TargetStore], tmp_path: Path) -> None:
    _damage(tmp_path / "second" / NEW)
    choice = choose_newest(stores[1:])
    assert (choice.entry.backup_id, choice.skipped) == (NEWEST, ())


def test_the_damage_of_a_target_without_a_good_backup_is_named(stores: list[TargetStore], tmp_path: Path) -> None:
    _damage(tmp_path / "first" / OLD)
    choice = choose_newest(stores)
    assert (choice.index, choice.entry.backup_id) == (1, NEWEST)
    assert [each.backup_id for each in choice.skipped] == [NEW, OLD]
    with pytest.raises(BackupFailed, match="there is no backup that is not damaged") as caught:
        choose_newest(stores[:1])
    assert f"Backup {OLD} is damaged: globals.sql is not as large" in caught.value.detail


@pytest.mark.parametrize(("backup_id", "index", "good"), [(OLD, 0, True), (NEW, 0, False), (NEWEST, 1, True)])
def test_an_id_is_searched_in_all_stores_and_may_be_of_a_damaged_backup(
    stores: list[TargetStore], backup_id: str, index: int, good: bool
) -> None:
    choice = choose_named(stores, backup_id)
    assert (choice.index, choice.entry.backup_id, choice.entry.manifest is not None) == (index, backup_id, good)


@pytest.mark.parametrize(
    ("text", "backup_id"),
    [
        (NEWEST.lower(), NEWEST),
        (f" {NEWEST}\n", NEWEST),
        ("20260103", NEWEST),
        ("20260103t000000-", NEWEST),
        (NEWEST[:-1], NEWEST),
        (f"backups/env/second/{NEWEST}", NEWEST),
        (f"./{NEWEST}/", NEWEST),
        (f"s3://bucket/env/second/{NEWEST}", NEWEST),
        (f"C:\\backups\\{OLD}\\", OLD),
    ],
)
def test_an_id_may_be_in_another_case_cut_short_or_the_end_of_a_path(
    stores: list[TargetStore], text: str, backup_id: str
) -> None:
    assert choose_named(stores, text).entry.backup_id == backup_id


@pytest.mark.parametrize("text", ["2026", "20260", "202601", "path/202601"])
def test_the_beginning_of_several_ids_is_refused(stores: list[TargetStore], text: str) -> None:
    with pytest.raises(ConfigurationError, match=f'3 backups have an id that begins with "{text}"') as caught:
        choose_named(stores, text)
    assert all(each in caught.value.detail for each in (OLD, NEW, NEWEST))


@pytest.mark.parametrize(
    ("text", "similar"),
    [
        ("20260103T000000-0001", NEWEST),
        ("20260103T00000-0000", NEWEST),
        ("20260103-000000-0000", NEWEST),
        ("20990101T000000-0000", OLD),
        ("../x", ""),
        ("2", ""),
        ("nonsense", ""),
        ("/", ""),
    ],
)
def test_a_missing_backup_is_named_with_the_targets_and_the_most_similar_id(
    stores: list[TargetStore], text: str, similar: str
) -> None:
    with pytest.raises(BackupFailed, match="there is no backup") as caught:
        choose_named(stores, text)
    assert caught.value.message == f'there is no backup "{text}"'
    advice = f"\nThe most similar id is {similar}." if similar else ""
    assert caught.value.detail == f"Searched: env: first, env: second.{advice}"
    assert caught.value.hint == "`invoke backups --env=env` lists them."


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_id_is_refused(stores: list[TargetStore], text: str) -> None:
    with pytest.raises(ConfigurationError, match="--backup is empty"):
        choose_named(stores, text)


@pytest.mark.parametrize("text", ["latest", "Newest"])
def test_a_word_for_the_newest_backup_is_no_id_and_the_newest_good_one_is_named(
    stores: list[TargetStore], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=f'"{text}" is not the id of a backup') as caught:
        choose_named(stores, text)
    assert f"Backup {NEW} is damaged" in caught.value.detail
    assert caught.value.hint == f"The newest good backup is {OLD}: add --backup={OLD}."


def test_the_store_of_another_environment_is_found_by_the_whole_id(stores: list[TargetStore]) -> None:
    assert find_elsewhere(stores, f"path/{NEWEST.lower()}/") is stores[1]
    assert find_elsewhere(stores, NEWEST[:-1]) is None


def test_stores_without_a_good_backup_have_no_newest_one(tmp_path: Path) -> None:
    with pytest.raises(BackupFailed, match=r"^there is no backup\nDETAIL"):
        choose_newest([TargetStore("env", "first", DiskStore(tmp_path))])
