"""Which backups and drafts retention deletes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgratchet.backups.listing import BackupEntry, newest_good
from pgratchet.backups.retention import Retention, abandoned, expired, skipped
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
        (Retention(count=1), listed(hours=(-1, 30, 300)), ids(300)),
        (Retention(count=1), listed(hours=(-9000, -1, 30, 300), bad=(-1,)), ids(300)),
        (Retention(days=1), listed(hours=(-1, 30, 300)), ids(300)),
        (Retention(count=1), listed(hours=(-2, -1)), ()),
        (Retention(count=2), listed(hours=(-0.05, 1, 30)), ids(30)),
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
    assert abandoned(["20261399T000000-0000.partial", "20990101T000000-0000.partial"], NOW) == ()


FUTURE = listed(hours=(-1,))[0].backup_id


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        (listed(hours=(-1, 30)), (FUTURE,)),
        (listed(hours=(-1, 30), bad=(-1,)), (FUTURE,)),
        (listed(hours=(-0.05, 30)), ()),
        (
            [BackupEntry("20990101T000000-0000.partial", None, "x"), *listed(hours=(1,))],
            ("20990101T000000-0000.partial",),
        ),
        ([BackupEntry("20261399T000000-0000", None, "x"), *listed(hours=(1,))], ("20261399T000000-0000",)),
        (listed(hours=(1, 30), bad=(1,)), ids(1)),
        (listed(hours=(1, 30)), ()),
    ],
)
def test_what_retention_leaves_out_is_named(entries: list[BackupEntry], named: tuple[str, ...]) -> None:
    assert tuple(name for event in skipped(entries, NOW) for name in event.backup_ids) == named


@pytest.mark.parametrize(
    ("entries", "newest"),
    [
        (listed(hours=(-1, 1, 30)), ids(1)),
        (listed(hours=(-1, 1, 30), bad=(1,)), ids(30)),
        (listed(hours=(-2, -1)), ids(-2)),
        (listed(hours=(1,), bad=(1,)), ()),
    ],
)
def test_a_backup_dated_in_the_future_is_the_newest_only_without_others(
    entries: list[BackupEntry], newest: tuple[str, ...]
) -> None:
    entry = newest_good(entries, NOW)
    assert ((entry.backup_id,) if entry else ()) == newest


def untrusted(entries: list[BackupEntry], *hours: float) -> list[BackupEntry]:
    """The entries, where those of these hours are not signed by a trusted key."""
    return [replace(each, distrust="x") if each.backup_id in ids(*hours) else each for each in entries]


def test_backups_that_are_not_trusted_do_not_push_others_out() -> None:
    entries = untrusted(listed(hours=(1, 2, 3, 30, 300)), 1, 2, 3)
    assert expired(entries, Retention(count=1), NOW) == ids(300)
    assert [event.backup_ids for event in skipped(entries, NOW)] == [ids(1, 2, 3)]
    assert expired(untrusted(entries, 30, 300), Retention(count=1), NOW) == ()
    newest = newest_good(untrusted(listed(hours=(-1, 1, 30)), -1, 1), NOW)
    assert newest is not None
    assert newest.backup_id == ids(30)[0]
