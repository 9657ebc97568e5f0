"""Listed backups: what is wrong with one, and whose it is."""

from __future__ import annotations

import pytest

from pgratchet.backups.listing import BackupEntry, newer_refused, require_manifest, require_newest, require_own
from pgratchet.errors import BackupFailed
from tests.unit.backups.helpers import make_manifest

GOOD, OLDER = make_manifest(2), make_manifest(3)
ENTRY = BackupEntry(GOOD.backup_id, GOOD)
DAMAGED = BackupEntry("20261124T110000-0000", None, "database.dump is gone.")
UNTRUSTED = BackupEntry("20261124T110500-0000", GOOD, distrust="It is not signed.")
DRAFT = BackupEntry("20261124T111000-0000", None, "It has no manifest.", is_draft=True)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (DAMAGED, "backup 20261124T110000-0000 is damaged\nDETAIL: database.dump is gone."),
        (UNTRUSTED, "backup 20261124T110500-0000 is not signed by a trusted key\nDETAIL: It is not signed."),
        (DRAFT, "backup 20261124T111000-0000 is unfinished\nDETAIL: It has no manifest."),
    ],
)
def test_an_unusable_backup_is_refused_with_what_is_wrong(entry: BackupEntry, message: str) -> None:
    with pytest.raises(BackupFailed) as caught:
        require_manifest(entry)
    assert str(caught.value).startswith(message)


def test_newer_backups_that_are_damaged_or_not_trusted_are_found_and_drafts_are_not() -> None:
    older = BackupEntry(OLDER.backup_id, None, "It is too old to matter.")
    listed = [DRAFT, UNTRUSTED, DAMAGED, ENTRY, older]
    assert newer_refused(listed, ENTRY) == (UNTRUSTED, DAMAGED)
    assert newer_refused(listed, None) == (UNTRUSTED, DAMAGED, older)


def test_skipped_backups_are_an_error_that_names_all_of_them_and_the_good_one() -> None:
    require_newest(ENTRY, ())
    with pytest.raises(BackupFailed) as caught:
        require_newest(ENTRY, (DAMAGED, UNTRUSTED))
    assert caught.value.message == "backup 20261124T110000-0000 is damaged"
    assert caught.value.detail == (
        "database.dump is gone.\n"
        "Backup 20261124T110500-0000 is not signed by a trusted key: It is not signed.\n"
        f"The newest good backup is {GOOD.backup_id}, which was read back whole."
    )


@pytest.mark.parametrize(("environment", "target"), [("other", "db"), ("prod", "other")])
def test_a_backup_of_another_target_is_refused(environment: str, target: str) -> None:
    require_own(GOOD, "prod", "db")
    with pytest.raises(BackupFailed, match="is of prod: db") as caught:
        require_own(GOOD, environment, target)
    assert f"{environment}: {target}" in caught.value.detail
