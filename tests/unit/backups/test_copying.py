"""A manifest that comes from another machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgratchet.backups import manifest
from pgratchet.backups.copying import received_manifest
from pgratchet.errors import BackupFailed
from tests.unit.backups.helpers import make_manifest


def test_the_manifest_of_the_backup_is_returned() -> None:
    sent = make_manifest()
    assert received_manifest(sent.backup_id, manifest.dumps(sent)) == sent


def test_another_backups_manifest_is_refused() -> None:
    other = replace(make_manifest(), backup_id="20200101T000000-0000")
    with pytest.raises(BackupFailed, match="is not a backup") as caught:
        received_manifest(make_manifest().backup_id, manifest.dumps(other))
    assert "Nothing was copied" in caught.value.detail


@pytest.mark.parametrize("text", [b"", b"{}", b"\xff"])
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(BackupFailed):
        received_manifest(make_manifest().backup_id, text)


def test_a_file_outside_the_folder_is_refused() -> None:
    files = {"../../.ssh/authorized_keys": next(iter(make_manifest().files.values()))}
    sent = replace(make_manifest(), files=files)
    with pytest.raises(BackupFailed) as caught:
        received_manifest(sent.backup_id, manifest.dumps(sent))
    assert "authorized_keys" in caught.value.detail
