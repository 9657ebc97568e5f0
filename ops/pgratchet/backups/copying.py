"""Copies backups between stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from pgratchet import events
from pgratchet.backups import manifest as manifests
from pgratchet.backups.manifest import BackupFile, Manifest
from pgratchet.backups.store import Draft, Store
from pgratchet.backups.throttle import Throttle
from pgratchet.backups.verification import BackupReader, require_undamaged


def copy_backup(manifest: Manifest, read: Callable[[str], Iterator[bytes]], store: Store) -> events.Stream:
    """Copy a backup, whose files `read` returns by name, into a store.

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
        draft.finish(manifests.NAME, manifests.dumps(replace(manifest, files=_restamped(manifest, draft))))


def _restamped(manifest: Manifest, draft: Draft) -> dict[str, BackupFile]:
    """The files with the modification stamps of the draft's store."""
    return {name: replace(file, stamp=draft.stat(name).stamp) for name, file in manifest.files.items()}
