"""Copies backups between stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from pgratchet import events
from pgratchet.backups import manifest as manifests
from pgratchet.backups import signing
from pgratchet.backups.manifest import BackupFile, Manifest
from pgratchet.backups.signing import Signer
from pgratchet.backups.store import Draft, Store
from pgratchet.backups.throttle import Throttle
from pgratchet.backups.verification import BackupReader, require_undamaged
from pgratchet.errors import BackupFailed


def received_manifest(backup_id: str, text: bytes) -> Manifest:
    """The manifest of a backup on another machine. Raises BackupFailed if it is not that of this backup."""
    try:
        manifest = manifests.loads(text)
        problem = "" if manifest.backup_id == backup_id else f"Its manifest is that of {manifest.backup_id}."
    except manifests.NotAManifest as error:
        problem = str(error)
    if problem:
        raise BackupFailed(
            f"backup {backup_id} on the host is not a backup",
            detail=f"{problem} Nothing was copied.",
            hint="Find out what wrote it: `invoke backups` lists the backups on the host.",
        )
    return manifest


def copy_backup(
    manifest: Manifest, read: Callable[[str], Iterator[bytes]], store: Store, signer: Signer | None = None
) -> events.Stream:
    """Copy a backup, whose files `read` returns by name, into a store, and sign it.

    Raises BackupFailed for a file with another hash; nothing is then left in the store.
    """
    problems, size, throttle = list[str](), 0, Throttle()
    reader = BackupReader(manifest, read)
    with store.draft(manifest.backup_id) as draft:
        for name in manifest.files:
            with draft.write(name) as write:
                for chunk in reader.read_stored(name, problems):
                    write(chunk)
                    size += len(chunk)
                    if throttle.is_due():
                        yield events.BackupProgress("copy", size, manifest.size)
            require_undamaged(manifest, problems)
        finish_draft(draft, replace(manifest, files=_restamped(manifest, draft)), signer)


def finish_draft(draft: Draft, manifest: Manifest, signer: Signer | None) -> None:
    """Write the signature, if there is a signer, and then the manifest, which makes the draft a backup."""
    text = manifests.dumps(manifest)
    if signer:
        with draft.write(signing.NAME) as write:
            write(signer.sign(text))
    draft.finish(manifests.NAME, text)


def _restamped(manifest: Manifest, draft: Draft) -> dict[str, BackupFile]:
    """The files with the modification stamps of the draft's store."""
    return {name: replace(file, stamp=draft.stat(name).stamp) for name, file in manifest.files.items()}
