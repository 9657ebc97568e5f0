"""Lists and selects backups. Each backup is checked against the manifest, usually without reading the files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from pgratchet.backups import manifest
from pgratchet.backups.manifest import BackupFile, Manifest
from pgratchet.backups.store import PARTIAL, Store
from pgratchet.errors import BackupFailed


@dataclass(frozen=True, slots=True)
class BackupEntry:
    """A listed backup. When the backup is unusable, `manifest` is None and `problem` gives the reason as a sentence."""

    backup_id: str
    manifest: Manifest | None
    problem: str = ""


def require_manifest(entry: BackupEntry) -> Manifest:
    """The manifest of a listed backup. Raises BackupFailed when the backup is unusable."""
    if entry.manifest is None:
        raise BackupFailed(
            f"{entry.backup_id} is no backup",
            detail=entry.problem,
            hint="`invoke backups` lists those that are; `invoke backup` takes another.",
        )
    return entry.manifest


def list_backups(store: Store) -> tuple[BackupEntry, ...]:
    """List the backups of a store, newest first, including unusable ones."""
    return tuple(inspect_backup(store, backup_id) for backup_id in store.ids())


def inspect_backup(store: Store, backup_id: str) -> BackupEntry:
    """Check a backup of a store against the manifest."""
    if backup_id.endswith(PARTIAL):
        return BackupEntry(backup_id, None, "It was not finished.")
    if store.stat(backup_id, manifest.NAME) is None:
        return BackupEntry(backup_id, None, "It has no manifest.")
    try:
        decoded = manifest.loads(b"".join(store.read(backup_id, manifest.NAME)))
    except manifest.NotAManifest as error:
        return BackupEntry(backup_id, None, str(error))
    if decoded.backup_id != backup_id:
        return BackupEntry(backup_id, None, f"Its manifest is that of {decoded.backup_id}.")
    problems = (_file_problem(store, backup_id, name, file) for name, file in decoded.files.items())
    problem = next(filter(None, problems), "")
    return BackupEntry(backup_id, None if problem else decoded, problem)


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


def choose_backup(stores: Sequence[tuple[str, str, Store]], backup_id: str | None) -> tuple[int, BackupEntry]:
    """Find a backup by id in the stores of several targets, or without an id the newest good backup.

    Each store comes with the names of the environment and the target. Stores are searched in order: the newest backup
    is the first store's, if the first store has a good backup. Returns the index of the store, and the backup, which
    may be unusable when an id was passed. Raises BackupFailed when no store has the backup.
    """
    for index, (_, _, store) in enumerate(stores):
        entries = list_backups(store) if backup_id is None or backup_id in store.ids() else ()
        for entry in entries:
            if entry.backup_id == backup_id or (backup_id is None and entry.manifest):
                return index, entry
    names = ", ".join(f"{environment}: {target}" for environment, target, _ in stores)
    quoted = f' "{backup_id}"' if backup_id else ""
    raise BackupFailed(
        f"there is no backup{quoted}",
        detail=f"Looked among those of {names}.",
        hint=f"`invoke backups --env={stores[0][0]}` lists them.",
    )


def require_own(manifest: Manifest, environment: str, target: str) -> None:
    """Raise BackupFailed for a backup of another target, after a copy between stores by hand."""
    if (manifest.environment, manifest.target) != (environment, target):
        raise BackupFailed(
            f"backup {manifest.backup_id} is of {manifest.environment}: {manifest.target}",
            detail=f"It lies among those of {environment}: {target}.",
            hint="Restore it where it belongs; its manifest says where that is.",
        )
