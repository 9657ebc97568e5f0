"""What is shown of backups."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from pgratchet.backups.restore import RestorePreview
from pgratchet.console.backups import show_losses
from pgratchet.database.inspection import Server
from tests.unit.backups.helpers import make_manifest


@pytest.mark.parametrize(
    ("seconds", "age"),
    [
        (-100, "0 seconds"),
        (1.5, "second"),
        (58.5, "58 seconds"),
        (60, "minute"),
        (118, "minute"),
        (120, "2 minutes"),
        (3600, "hour"),
        (86_400, "day"),
        (200_000, "2 days"),
    ],
)
def test_the_age_of_a_backup_reads_well_behind_the_last(
    capsys: pytest.CaptureFixture[str], seconds: float, age: str
) -> None:
    moment = datetime.now(timezone.utc) - timedelta(seconds=seconds)
    manifest = replace(make_manifest(), created_at=moment.isoformat())
    server = Server(180000, "shop", "owner", "7", in_recovery=False, read_only=False, encoding="UTF8", pooled=False)
    show_losses(manifest, "shop", RestorePreview(True, server, (), "", (), (), encrypted=False), drops_old=False)
    assert f"writes of the last {age} will be lost" in capsys.readouterr().err
