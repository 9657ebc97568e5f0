"""Deletes backups that the retention settings no longer keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pgratchet import events
from pgratchet.backups import manifest
from pgratchet.backups.listing import BackupEntry, list_backups
from pgratchet.backups.store import PARTIAL, Store

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class Retention:
    """What may go: what is neither among the `count` newest nor younger than `days`. With both 0, nothing."""

    count: int = 0
    days: int = 0


def expired(found: Sequence[BackupEntry], retention: Retention, now: datetime) -> tuple[str, ...]:
    """The backups, of those found, newest first, that may be deleted.

    Never the newest good one and none that is pinned; nothing at all when the newest of all is no good one, or when
    any is of a time to come, since then the clock, and so every age, cannot be believed.
    """
    complete = [each for each in found if not each.backup_id.endswith(PARTIAL)]
    good = [each.manifest for each in complete if each.manifest]
    if not retention.count and not retention.days:
        return ()
    if not good or complete[0].manifest is None or any(each.moment > now for each in good):
        return ()
    old = [
        each
        for each in good[max(1, retention.count) :]
        if not each.keep and now - each.moment >= timedelta(days=retention.days)
    ]
    return tuple(each.backup_id for each in old)


def abandoned(ids: Sequence[str], now: datetime) -> tuple[str, ...]:
    """The drafts that were begun more than a day ago: whoever wrote them was killed."""
    drafts = (each for each in ids if each.endswith(PARTIAL) and manifest.is_id(each.partition(".")[0]))
    return tuple(each for each in drafts if now - manifest.moment_of(each) > timedelta(days=1))


def prune(store: Store, retention: Retention, now: datetime) -> Iterator[events.Event]:
    """Delete what may go, and say so."""
    gone = abandoned(store.ids(), now)
    if retention != Retention():
        gone += expired(list_backups(store), retention, now)
    for backup_id in gone:
        store.remove(backup_id)
    if gone:
        yield events.BackupsRemoved(gone)
