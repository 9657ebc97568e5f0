"""Which backups and drafts retention deletes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgratchet.backups.listing import BackupEntry
from pgratchet.backups.retention import Retention, abandoned, expired
from tests.unit.backups.helpers import NOW, make_manifest


def listed(
    *, hours: tuple[float, ...], pinned: tuple[float, ...] = (), bad: tuple[float, ...] = ()
) -> list[BackupEntry]:
    manifests = [make_manifest(each, keep=each in pinned) for each in hours]
    return [
        BackupEntry(m.backup_id, None, "bad") if h in bad else BackupEntry(m.backup_id, m)
        for h, m in zip(hours, manifests, strict=True)
    ]


def ids(*hours: float) -> tuple[str, ...]:
    return tuple(make_manifest(each).backup_id for each in hours)


@pytest.mark.parametrize(
    ("retention", "entries", "deleted"),
    [
        (Retention(), listed(hours=(1, 30, 300)), ()),
        (Retention(count=2), listed(hours=(1, 30, 300, 400)), ids(300, 400)),
        (Retention(days=2), listed(hours=(1, 47, 48, 300)), ids(48, 300)),
        (Retention(count=3, days=2), listed(hours=(1, 30, 300, 400)), ids(400)),
        (Retention(count=1, days=20), listed(hours=(1, 30, 300)), ()),
        (Retention(days=1), listed(hours=(300,)), ()),
        (Retention(count=1), listed(hours=(1, 30, 300), pinned=(30,)), ids(300)),
        (Retention(count=1), listed(hours=(1, 30, 300), bad=(30,)), ids(300)),
        (Retention(count=1), listed(hours=(1, 30, 300), bad=(1,)), ()),
        (Retention(count=1), listed(hours=(-1, 30, 300)), ()),
        (Retention(count=1), [BackupEntry("20990101T000000-0000.partial", None, "x"), *listed(hours=(1, 30))], ids(30)),
        (Retention(count=1), [], ()),
    ],
)
def test_retention_decides_which_backups_are_deleted(
    retention: Retention, entries: list[BackupEntry], deleted: tuple[str, ...]
) -> None:
    assert expired(entries, retention, NOW) == deleted


@given(
    st.lists(st.integers(1, 2000), unique=True, max_size=12).map(sorted),
    st.integers(0, 5),
    st.integers(0, 60),
    st.data(),
)
def test_the_newest_good_backup_and_pinned_backups_always_stay(
    hours: list[int], count: int, days: int, data: st.DataObject
) -> None:
    pinned = tuple(float(h) for h in hours if data.draw(st.booleans()))
    entries = listed(hours=tuple(float(h) for h in hours), pinned=pinned)
    deleted = expired(entries, Retention(count, days), NOW)
    assert set(deleted).isdisjoint(ids(*pinned))
    if entries:
        assert entries[0].backup_id not in deleted
    assert len(entries) - len(deleted) >= min(len(entries), count)


def test_abandoned_drafts_are_recognised_by_their_age() -> None:
    ids = ["20261124T110000-0000.partial", "20261120T000000-0000.removed.partial", "20261120T000000-0000", "x.partial"]
    assert abandoned(ids, NOW) == ("20261120T000000-0000.removed.partial",)
    assert abandoned(["20261123T115959-0000.partial"], NOW) == ("20261123T115959-0000.partial",)
    assert abandoned(["20261123T120000-0000.partial"], NOW) == ()
