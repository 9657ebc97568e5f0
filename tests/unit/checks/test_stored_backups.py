"""Unfinished backups and wrong dates in a store are named, with a command that deletes them."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from pgratchet.backups import manifest
from pgratchet.backups.bucket_store import BucketStore
from pgratchet.backups.disk_store import DiskStore
from pgratchet.backups.drill_records import DrillRecord, write_record
from pgratchet.checks.stored_backups import check_backups
from tests.unit.backups.helpers import NOW, make_manifest


def write_backup(store: DiskStore, hours_ago: float) -> str:
    described = make_manifest(hours_ago)
    with store.draft(described.backup_id) as draft:
        with draft.write("database.dump") as write:
            write(b"")
        draft.finish(manifest.NAME, manifest.dumps(replace(described, files=described.files)))
    return described.backup_id


@pytest.mark.parametrize("name", ["backups", "with space; touch pwned"])
def test_leftovers_are_named_with_a_command_that_deletes_only_them(tmp_path: Path, name: str) -> None:
    store = DiskStore(tmp_path / name)
    good, future = write_backup(store, 1), write_backup(store, -24)
    drafts = ["20261124T110000-0000.partial", "20261120T000000-0000.removed.partial", "20261120T000000-0000"]
    for draft in drafts:
        (store.root / draft).mkdir()
        (store.root / draft / "database.dump").write_text("half")
    findings = list(check_backups(store, NOW))
    assert sorted(finding.what.split()[0] for finding in findings) == sorted([future, *drafts])
    assert {finding.severity for finding in findings} == {"warning"}
    assert any("unfinished, begun 60 min 0 s ago" in finding.what for finding in findings)
    for finding in findings:
        command = finding.remedy.split("`")[1]
        subprocess.run(["sh", "-c", command], check=True, cwd=tmp_path)
    assert store.ids() == [good]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_drills_dated_in_the_future_are_named(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    for hours in (-1, 24):
        moment = (NOW + timedelta(hours=hours)).isoformat(timespec="seconds")
        write_record(store, DrillRecord("20261124T110000-0000", moment, 1))
    (finding,) = check_backups(store, NOW)
    assert finding.what == "the drill of 20261124T110000-0000 is dated in the future, 2026-11-25T12:00:00+00:00"


def test_a_store_without_leftovers_has_no_findings(tmp_path: Path) -> None:
    store = DiskStore(tmp_path / "none")
    assert list(check_backups(store, NOW)) == []
    write_backup(store, 1)
    write_backup(store, -0.05)
    assert list(check_backups(store, NOW)) == []


@pytest.mark.parametrize(
    ("location", "command"),
    [
        ("s3://b/x/prod/db", "aws s3 rm --recursive s3://b/x/prod/db/id/"),
        ("az://c/prod/db", "az storage blob delete-batch --source c --pattern 'prod/db/id/*'"),
        ("gs://b/prod/d b", "gcloud storage rm --recursive 'gs://b/prod/d b/id/'"),
    ],
)
def test_an_object_store_has_a_command_of_its_service(location: str, command: str) -> None:
    assert BucketStore(location, {}).removal("id") == command
