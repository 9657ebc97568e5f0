"""A rehearsal needs room for two copies of the database, and for the rewrite of a table."""

from __future__ import annotations

import shutil
from collections import namedtuple

import pytest

from pgratchet.errors import Unreachable
from pgratchet.rehearsal.rehearse import require_room
from tests.unit.rehearsal.samples import MANIFEST

Usage = namedtuple("Usage", ["free"])


def test_a_disk_without_room_for_the_copies_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1_000_000_000))
    with pytest.raises(Unreachable) as refused:
        require_room(MANIFEST)
    assert "no room for a rehearsal of backup 20261127T120000-0a1f" in refused.value.message
    assert "1.0 GB" in refused.value.detail
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2_000_000_000))
    require_room(MANIFEST)
