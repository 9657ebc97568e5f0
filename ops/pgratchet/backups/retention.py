"""Deletes backups by the retention settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pgratchet import events
from pgratchet.backups import manifest
from pgratchet.backups.listing import BackupEntry, list_backups
from pgratchet.backups.store import PARTIAL, Store


@dataclass(frozen=True, slots=True)
class Retention:
    """Keep the `count` newest backups and all younger than `days`. With both 0, keep all."""

    count: int = 0
    days: int = 0


def expired(entries: Sequence[BackupEntry], retention: Retention, now: datetime) -> tuple[str, ...]:
    """Select the backups to delete from a list of backups, newest first.

    The newest good backup and pinned backups are always kept. All backups are kept when the newest backup is damaged,
    and when a backup dates from the future, because the clock is then wrong.
    """
    complete = [entry for entry in entries if not entry.backup_id.endswith(PARTIAL)]
    good = [entry.manifest for entry in complete if entry.manifest]
    if not retention.count and not retention.days:
        return ()
    if not good or complete[0].manifest is None or any(manifest.moment > now for manifest in good):
        return ()
    old = [
        manifest
        for manifest in good[max(1, retention.count) :]
        if not manifest.keep and now - manifest.moment >= timedelta(days=retention.days)
    ]
    return tuple(manifest.backup_id for manifest in old)


def abandoned(ids: Sequence[str], now: datetime) -> tuple[str, ...]:
    """Select the drafts begun more than a day ago. Their writers were killed."""
    drafts = (name for name in ids if name.endswith(PARTIAL) and manifest.is_id(name.partition(".")[0]))
    return tuple(name for name in drafts if now - manifest.moment_of(name) > timedelta(days=1))


def prune(store: Store, retention: Retention, now: datetime) -> events.Stream:
    """Delete expired backups and abandoned drafts, and report them in an event."""
    ids = abandoned(store.ids(), now)
    if retention != Retention():
        ids += expired(list_backups(store), retention, now)
    for backup_id in ids:
        store.remove(backup_id)
    if ids:
        yield events.BackupsRemoved(ids)
