"""Deletes backups by the retention settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pgratchet import events
from pgratchet.backups import manifest
from pgratchet.backups.listing import BackupEntry, is_in_future, list_backups
from pgratchet.backups.signing import TrustedKeys
from pgratchet.backups.store import PARTIAL, Store


@dataclass(frozen=True, slots=True)
class Retention:
    """Keep the `count` newest backups and all younger than `days`. With both 0, keep all."""

    count: int = 0
    days: int = 0


def expired(entries: Sequence[BackupEntry], retention: Retention, now: datetime) -> tuple[str, ...]:
    """Select the backups to delete from a list of backups, newest first.

    The newest good backup and pinned backups are always kept. All backups are kept when the newest backup is damaged.
    Backups dated in the future, and those not signed by a trusted key, are kept too, and do not count: others are kept
    and deleted as if they were not there.
    """
    present = _judged(entries, now)
    good = [entry.manifest for entry in present if entry.manifest]
    if not (retention.count or retention.days) or not good or present[0].manifest is None:
        return ()
    old = [
        manifest
        for manifest in good[max(1, retention.count) :]
        if not manifest.keep and now - manifest.moment >= timedelta(days=retention.days)
    ]
    return tuple(manifest.backup_id for manifest in old)


def _judged(entries: Sequence[BackupEntry], now: datetime) -> list[BackupEntry]:
    """The backups that count: anybody who can write to the store could push the others out with untrusted ones."""
    complete = [entry for entry in entries if not entry.backup_id.endswith(PARTIAL)]
    return [entry for entry in complete if not entry.distrust and not is_in_future(entry, now)]


def skipped(entries: Sequence[BackupEntry], now: datetime) -> Iterator[events.RetentionSkipped]:
    """Report the backups and drafts that retention does not judge."""
    if future := [entry.backup_id for entry in entries if is_in_future(entry, now)]:
        yield events.RetentionSkipped(tuple(future), "dated in the future; check this machine's clock")
    if untrusted := [entry.backup_id for entry in entries if entry.distrust and not is_in_future(entry, now)]:
        yield events.RetentionSkipped(tuple(untrusted), "not signed by a trusted key")
    present = _judged(entries, now)
    if present and present[0].manifest is None:
        reason = "the newest backup is damaged, so no backup is deleted"
        yield events.RetentionSkipped((present[0].backup_id,), reason)


def abandoned(ids: Sequence[str], now: datetime) -> tuple[str, ...]:
    """Select the drafts begun more than a day ago. Their writers were killed."""
    drafts = ((name, manifest.moment_of(name)) for name in ids if name.endswith(PARTIAL))
    return tuple(name for name, moment in drafts if moment and now - moment > timedelta(days=1))


def prune(store: Store, retention: Retention, now: datetime, keys: TrustedKeys | None = None) -> events.Stream:
    """Delete expired backups and abandoned drafts, and report them in an event."""
    ids = abandoned(store.ids(), now)
    if retention != Retention():
        entries = list_backups(store, keys)
        yield from skipped(entries, now)
        ids += expired(entries, retention, now)
    for backup_id in ids:
        store.remove(backup_id)
    if ids:
        yield events.BackupsRemoved(ids)
