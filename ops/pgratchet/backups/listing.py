"""Lists and selects backups. Each backup is checked against the manifest, usually without reading the files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from pgratchet.backups import manifest, signing
from pgratchet.backups.manifest import BackupFile, Manifest
from pgratchet.backups.signing import TrustedKeys
from pgratchet.backups.store import PARTIAL, Store
from pgratchet.errors import BackupFailed


@dataclass(frozen=True, slots=True)
class BackupEntry:
    """A listed backup. When the backup is unusable, `manifest` is None and `problem` gives the reason as a sentence.

    `distrust` is the reason why the signature of the backup is not accepted; empty when it is, or is not checked.
    `is_draft`: the run that takes the backup still goes on, or was killed.
    """

    backup_id: str
    manifest: Manifest | None
    problem: str = ""
    distrust: str = ""
    is_draft: bool = False

    @property
    def is_refused(self) -> bool:
        """True for a backup that was finished and is damaged, or is not signed by a trusted key."""
        return not self.is_draft and (self.manifest is None or bool(self.distrust))

    @property
    def fault(self) -> str:
        """The phrase, with a verb, for what is wrong with an unusable backup."""
        if self.manifest is None:
            return "is unfinished" if self.is_draft else "is damaged"
        return "is not signed by a trusted key"

    def describe_fault(self) -> str:
        """Say in a sentence what is wrong with an unusable backup."""
        return f"Backup {self.backup_id} {self.fault}: {self.problem or self.distrust}"


CLOCK_SKEW = timedelta(minutes=5)
"""How far the clock of a machine that takes backups may be ahead of the clock of this machine."""


def is_in_future(entry: BackupEntry, now: datetime) -> bool:
    """Return whether a backup or draft is dated in the future: a clock was wrong when it was taken, or is wrong now."""
    moments = (manifest.moment_of(entry.backup_id), entry.manifest and entry.manifest.moment)
    return any(moment > now + CLOCK_SKEW for moment in moments if moment)


def newest_good(entries: Sequence[BackupEntry], now: datetime | None = None) -> BackupEntry | None:
    """The newest good backup of a list, newest first.

    One dated in the future, or not signed by a trusted key, is chosen only when there is no other.
    """
    now = now or datetime.now(timezone.utc)
    good = [entry for entry in entries if entry.manifest]
    return min(good, key=lambda entry: (bool(entry.distrust), is_in_future(entry, now)), default=None)


def newer_refused(entries: Sequence[BackupEntry], chosen: BackupEntry | None) -> tuple[BackupEntry, ...]:
    """The damaged and untrusted backups of a list, newest first, that are newer than the chosen one, or all of them."""
    newer = entries[: entries.index(chosen)] if chosen else entries
    return tuple(entry for entry in newer if entry.is_refused)


def newest_before(entries: Sequence[BackupEntry], migration: str) -> BackupEntry | None:
    """The newest good backup of a list that was taken before a migration was applied."""
    return newest_good([each for each in entries if each.manifest and migration not in each.manifest.contents.history])


def require_manifest(entry: BackupEntry) -> Manifest:
    """The manifest of a listed backup. Raises BackupFailed when the backup is unusable."""
    if entry.manifest is None:
        raise BackupFailed(
            f"backup {entry.backup_id} {entry.fault}",
            detail=entry.problem,
            hint="`invoke backups` lists the complete ones. `invoke backup` takes a new one.",
        )
    if entry.distrust:
        raise BackupFailed(
            f"backup {entry.backup_id} {entry.fault}",
            detail=f"{entry.distrust} The inventory's backup_verify_keys has the trusted keys.",
            hint="Use another backup (`invoke backups` lists them), and find out who wrote this one. If you know that "
            "it is yours, remove backup_verify_keys from the inventory for this run.",
        )
    return entry.manifest


def require_newest(entry: BackupEntry, skipped: Sequence[BackupEntry]) -> None:
    """Raise BackupFailed when newer backups were skipped in favour of this one, because they cannot be used."""
    if skipped:
        raise BackupFailed(
            f"backup {skipped[0].backup_id} {skipped[0].fault}",
            detail="\n".join(
                [
                    skipped[0].problem or skipped[0].distrust,
                    *(each.describe_fault() for each in skipped[1:]),
                    f"The newest good backup is {entry.backup_id}, which was read back whole.",
                ]
            ),
            hint="`invoke backup` takes a new one. Find out what changed this one.",
        )


def list_backups(store: Store, keys: TrustedKeys | None = None) -> tuple[BackupEntry, ...]:
    """List the backups of a store, newest first, including unusable ones."""
    return tuple(inspect_backup(store, backup_id, keys) for backup_id in store.ids())


def inspect_backup(store: Store, backup_id: str, keys: TrustedKeys | None = None) -> BackupEntry:
    """Check a backup of a store against the manifest, and with trusted keys the manifest's signature."""
    if backup_id.endswith(PARTIAL):
        return BackupEntry(backup_id, None, "It was not finished.", is_draft=True)
    if store.stat(backup_id, manifest.NAME) is None:
        return BackupEntry(backup_id, None, "It has no manifest.", is_draft=not store.renames_drafts)
    try:
        text = b"".join(store.read(backup_id, manifest.NAME))
        decoded = manifest.loads(text)
    except manifest.NotAManifest as error:
        return BackupEntry(backup_id, None, str(error))
    if decoded.backup_id != backup_id:
        return BackupEntry(backup_id, None, f"Its manifest is that of {decoded.backup_id}.")
    problems = (_file_problem(store, backup_id, name, file) for name, file in decoded.files.items())
    problem = next(filter(None, problems), "")
    distrust = keys.problem(text, _read_signature(store, backup_id)) if keys else ""
    return BackupEntry(backup_id, None if problem else decoded, problem, distrust)


def _read_signature(store: Store, backup_id: str) -> bytes | None:
    stat = store.stat(backup_id, signing.NAME)
    if stat is None:
        return None
    return b"".join(store.read(backup_id, signing.NAME)) if stat.size <= signing.MOST_BYTES else b""


def _file_problem(store: Store, backup_id: str, name: str, file: BackupFile) -> str:
    """Describe the problem of a stored file, or return an empty text. Only a file with another stamp is read."""
    stat = store.stat(backup_id, name)
    if stat is None:
        return f"{name} is gone."
    if stat.size != file.size:
        return f"{name} is not as large as its manifest says."
    if stat.stamp == file.stamp:
        return ""
    digest = hashlib.sha256()
    for chunk in store.read(backup_id, name):
        digest.update(chunk)
    return "" if digest.hexdigest() == file.sha256 else f"{name} was changed: its SHA-256 is another."


def require_own(manifest: Manifest, environment: str, target: str) -> None:
    """Raise BackupFailed for a backup of another target, after a copy between stores by hand."""
    if (manifest.environment, manifest.target) != (environment, target):
        raise BackupFailed(
            f"backup {manifest.backup_id} is of {manifest.environment}: {manifest.target}",
            detail=f"It was found among the backups of {environment}: {target}.",
            hint="Restore it to the environment and target that its manifest names.",
        )
