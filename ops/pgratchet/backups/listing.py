"""Lists backups and checks each against its manifest without reading its content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgratchet.backups import manifest
from pgratchet.backups.manifest import BackupFile, Manifest
from pgratchet.backups.store import PARTIAL, Store
from pgratchet.errors import BackupFailed

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class BackupEntry:
    """A backup that was found, and in `problem` why it is none, where it is none."""

    backup_id: str
    manifest: Manifest | None
    problem: str = ""


def require_manifest(listed: BackupEntry) -> Manifest:
    """Its manifest, or the error that it has none."""
    if listed.manifest is None:
        raise BackupFailed(
            f"{listed.backup_id} is no backup",
            detail=listed.problem,
            hint="`invoke backups` lists those that are; `invoke backup` takes another.",
        )
    return listed.manifest


def list_backups(store: Store) -> tuple[BackupEntry, ...]:
    """The backups of a store, newest first, with what is none among them said to be so."""
    return tuple(inspect_backup(store, backup_id) for backup_id in store.ids())


def inspect_backup(store: Store, backup_id: str) -> BackupEntry:
    """The backup of that name in a store, or what is wrong with it."""
    if backup_id.endswith(PARTIAL):
        return BackupEntry(backup_id, None, "It was not finished.")
    if store.stat(backup_id, manifest.NAME) is None:
        return BackupEntry(backup_id, None, "It has no manifest.")
    try:
        made = manifest.loads(b"".join(store.read(backup_id, manifest.NAME)))
    except manifest.NotAManifest as error:
        return BackupEntry(backup_id, None, str(error))
    if made.backup_id != backup_id:
        return BackupEntry(backup_id, None, f"Its manifest is that of {made.backup_id}.")
    problem = next((why for name, file in made.files.items() if (why := _wrong(store, backup_id, name, file))), "")
    return BackupEntry(backup_id, None if problem else made, problem)


def _wrong(store: Store, backup_id: str, name: str, file: BackupFile) -> str:
    """What is wrong with a file as it lies there; it is read only where it was written again since."""
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
