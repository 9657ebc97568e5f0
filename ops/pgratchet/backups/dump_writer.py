"""Writes the files of a backup into a draft: the dump, and the roles and tablespaces.

Files are hashed while they are written, and encrypted if the backup has recipients.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pgratchet import events
from pgratchet.backups import encryption, pg_programs
from pgratchet.backups.manifest import DUMP, FOLDER, GLOBALS, BackupFile
from pgratchet.backups.pg_programs import DumpOptions, Programs
from pgratchet.backups.processes import Progress
from pgratchet.backups.table_progress import TableProgress
from pgratchet.backups.throttle import Throttle
from pgratchet.errors import BackupFailed

if TYPE_CHECKING:
    from pgratchet.backups.backup import BackupOptions
    from pgratchet.backups.snapshot import Snapshot
    from pgratchet.backups.store import Draft


class DumpWriter:
    """Writes the files of a backup. `form`, `compression` and `files` describe the files for the manifest.

    `progress` is that of pg_dump, which the caller may watch on the server.
    """

    def __init__(
        self,
        draft: Draft,
        programs: Programs,
        environ: Mapping[str, str],
        options: BackupOptions,
        snapshot: Snapshot,
        compression: str,
    ) -> None:
        self._draft, self._programs, self._environ = draft, programs, environ
        self._options, self._snapshot = options, snapshot
        self.progress = TableProgress(snapshot.sizes, options.jobs)
        self.compression = compression
        self.form: pg_programs.Form = "custom"
        self.files: dict[str, BackupFile] = {}
        self._written = 0

    def write(self, database: str, size: int) -> events.Stream:
        """Write all files except the manifest. `size` is the database's size in bytes."""
        options = self._options
        parallel = self._draft.folder and options.jobs > 1 and size >= options.parallel_from
        self.form = "directory" if parallel and not options.recipients else "custom"
        dump_options = DumpOptions(self.form, self.compression, options.jobs, self._snapshot.id)
        yield from self._write_folder(dump_options) if self.form == "directory" else self._write_dump(dump_options)
        with self._open(GLOBALS) as write:
            write(pg_programs.dump_globals(self._programs, self._environ, database))

    def _write_dump(self, options: DumpOptions) -> events.Stream:
        """Dump into a single file. pg_restore reads along; the hash proves later that the stored file is the same.

        An encrypted dump could not be read later, and reading along takes less time.
        """
        with self._open(DUMP) as write, pg_programs.reading_archive(self._programs) as feed:
            is_empty = True

            def pass_on(chunk: bytes) -> None:
                nonlocal is_empty
                is_empty = False
                write(chunk)
                feed(chunk)

            yield from self._report(pg_programs.dump(self._programs, self._environ, options, pass_on))
            if is_empty:
                raise BackupFailed("pg_dump wrote nothing", hint="Run pg_dump by hand to see why.")

    def _write_folder(self, options: DumpOptions) -> events.Stream:
        """Dump into a folder. pg_dump writes and flushes the files itself, so they are hashed afterwards."""
        assert self._draft.folder is not None
        folder = self._draft.folder / FOLDER
        yield from self._report(pg_programs.dump_into(self._programs, self._environ, options, folder))
        names = sorted(f"{FOLDER}/{path.name}" for path in folder.iterdir())
        with ThreadPoolExecutor(options.jobs) as pool:
            self.files |= dict(zip(names, pool.map(self._hash_file, names), strict=True))

    def _hash_file(self, name: str) -> BackupFile:
        digest, stat = hashlib.sha256(), self._draft.stat(name)
        for chunk in self._draft.read(name):
            digest.update(chunk)
        return BackupFile(stat.size, digest.hexdigest(), stat.stamp)

    @contextmanager
    def _open(self, name: str) -> Iterator[Callable[[bytes], object]]:
        """Create a file, and add a description to `files` at the end of the block."""
        recipients = self._options.recipients
        stored_name = name + encryption.SUFFIX if recipients else name
        digest, before = hashlib.sha256(), self._written
        with self._draft.write(stored_name) as write:

            def write_hashed(chunk: bytes) -> None:
                digest.update(chunk)
                self._written += len(chunk)
                write(chunk)

            if recipients:
                with encryption.encrypted_writer(write_hashed, recipients) as write_plain:
                    yield write_plain
            else:
                yield write_hashed
        size, stat = self._written - before, self._draft.stat(stored_name)
        if stat.size != size:
            raise BackupFailed(
                "the stored backup has the wrong size",
                detail=f"{stored_name}: {stat.size} bytes of {size}.",
                hint="Find out what is wrong with the store, then run again.",
            )
        self.files[stored_name] = BackupFile(size, digest.hexdigest(), stat.stamp)

    def _report(self, dumping: Iterator[Progress]) -> events.Stream:
        """Report the bytes of the tables that have been dumped."""
        throttle = Throttle()
        for begun in dumping:
            if throttle.is_due():
                done, item = self.progress.done(begun.tables), self.progress.item(begun.tables)
                yield events.BackupProgress("dump", done, self.progress.total, item)
