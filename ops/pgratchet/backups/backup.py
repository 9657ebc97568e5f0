"""Backups: taking one, reading it back whole, listing them, and which of them may go.

Owns what a backup consists of and when it is one. Refuses to know migrations and where backups lie. A backup is a
dump, the roles and tablespaces beside it, and a manifest, written last; without a good manifest there is none.

What it rests on, measured (facts 2g): under an exported snapshot the rows that are counted are those of the dump,
though others write meanwhile; a parallel dump can fail when someone queues for an exclusive lock, and is tried once
more; gzip notices a flipped bit and an uncompressed archive does not, so each file is hashed while it is written.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from pgratchet import __version__, events
from pgratchet.backups import encryption, manifest, pg_programs
from pgratchet.backups.listing import list_backups
from pgratchet.backups.manifest import DUMP, FOLDER, GLOBALS, BackupFile, Contents, Manifest
from pgratchet.backups.pg_programs import DumpOptions, Programs
from pgratchet.backups.store import Draft, Store
from pgratchet.backups.verification import _read_back, _Reading, _refuse_damaged
from pgratchet.errors import BackupFailed
from pgratchet.formatting import milliseconds

if TYPE_CHECKING:
    import psycopg

    from pgratchet.backups.snapshot import Snapshot
    from pgratchet.database.history import History

_TICK = 0.1
_EMPTY = 8_000_000
"""Bytes of a database with nothing in it, which a dump leaves out."""
_USUAL = 0.5
"""How large a dump may be expected to be, of what the database takes on its disk, while nothing else is known."""


@dataclass(frozen=True, slots=True)
class BackupSource:
    """What is to be backed up: how to connect there, by psycopg and by libpq's programs, and what is known of it."""

    environment: str
    target: str
    server_version: int
    system_identifier: str
    history: History
    connect: Callable[[], psycopg.Connection]
    client_environment: Callable[[], AbstractContextManager[dict[str, str]]]


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """How it is to be taken. From `parallel_from` bytes of database on, `jobs` workers write a directory, where the
    store is a folder and nothing is encrypted; else one writes a single file. `keep` pins it."""

    label: str | None = None
    keep: bool = False
    jobs: int = 1
    parallel_from: int = 10_000_000_000
    recipients: Sequence[str] = ()


def take(
    source: BackupSource, store: Store, programs: Programs, wishes: BackupOptions
) -> Generator[events.Event, None, Manifest]:
    """Dump the database, read the dump back whole, and put it in place; yields progress, returns the manifest.

    A pg_dump that fails is tried once more. BackupFailed where it does not come to a backup; nothing of it stays then.
    """
    from pgratchet.backups import snapshot

    encryption.recipients(wishes.recipients)
    try:
        taken = yield from _take(source, store, programs, wishes)
    except (pg_programs.ProgramFailed, snapshot.TableLocked) as error:
        if isinstance(error, pg_programs.ProgramFailed) and error.program != "pg_dump":
            raise
        # By one worker, which has all its locks before it begins; several take them again one by one, without waiting.
        yield events.BackupRetried(error.detail.splitlines()[0])
        taken = yield from _take(source, store, programs, replace(wishes, jobs=1))
    yield events.BackupTaken(
        taken.backup_id, f"{store.where}/{taken.backup_id}", taken.size, taken.dump_ms + taken.verify_ms
    )
    return taken


def _take(
    source: BackupSource, store: Store, programs: Programs, wishes: BackupOptions
) -> Generator[events.Event, None, Manifest]:
    from pgratchet.backups import snapshot as contents

    moment = datetime.now(timezone.utc)
    backup_id = manifest.new_id(moment, secrets.randbelow(16))
    started = time.monotonic()
    with store.draft(backup_id) as draft:
        with (
            contents.snapshot(source.connect, pg_programs.LOCK_WAIT) as snapshot,
            source.client_environment() as environ,
        ):
            database, size = snapshot.database()
            _refuse_full(store, size)
            work = _Dump(draft, programs, environ, wishes, snapshot)
            with _counting(snapshot, source.history) as counted:
                yield from work.run(size, database.name)
                held = counted.result()
        dumped = time.monotonic()
        made = Manifest(
            backup_id=backup_id,
            environment=source.environment,
            target=source.target,
            created_at=moment.isoformat(timespec="milliseconds"),
            server_version=source.server_version,
            system_identifier=source.system_identifier,
            client_version=programs.version,
            tool_version=__version__,
            archive=work.form,
            compression=work.compression,
            files=work.files,
            database=database,
            database_size=size,
            contents=held,
            dump_ms=milliseconds(started, dumped),
            verify_ms=0,
            label=wishes.label,
            keep=wishes.keep,
            recipients=tuple(wishes.recipients),
        )
        yield from _read_back(_Reading(draft.read, draft.folder, made, None), programs)
        made = replace(made, verify_ms=milliseconds(dumped, time.monotonic()))
        draft.finish(manifest.NAME, manifest.dumps(made))
    return made


def _refuse_full(store: Store, size: int) -> None:
    """Before anything is written, where it can be foreseen; a disk that fills up later is noticed too."""
    free = store.room()
    if free is None:
        return
    wanted = expected_size(store, size)
    if free < wanted:
        raise BackupFailed(
            f"there is no room for a backup in {store.where}",
            detail=f"{free:,} bytes are free, and about {wanted:,} are needed for a database of {size:,}.",
            hint="Make room there, or set backup_dir, or a retention, in the inventory.",
        )


def expected_size(store: Store, size: int) -> int:
    """About how many bytes a backup of a database of that size takes, by the newest one in the store."""
    before = next((each.manifest for each in list_backups(store) if each.manifest), None)
    ratio = before.size / max(1, before.database_size) if before else _USUAL
    return round(max(0, size - _EMPTY) * min(ratio * 1.2, 1.0))


class _Dump:
    """The writing half: dump and globals into a draft, hashed on the way."""

    def __init__(
        self, draft: Draft, programs: Programs, environ: Mapping[str, str], wishes: BackupOptions, snapshot: Snapshot
    ) -> None:
        self._draft, self._programs, self._environ = draft, programs, environ
        self._wishes, self._snapshot = wishes, snapshot
        self.compression = programs.compression()
        self.form: pg_programs.Form = "custom"
        self.files: dict[str, BackupFile] = {}
        self._written = 0

    def run(self, size: int, database: str) -> Generator[events.Event, None, None]:
        wishes = self._wishes
        parallel = self._draft.folder and wishes.jobs > 1 and size >= wishes.parallel_from
        self.form = "directory" if parallel and not wishes.recipients else "custom"
        given = DumpOptions(self.form, self.compression, wishes.jobs, self._snapshot.id)
        yield from self._parallel(given) if self.form == "directory" else self._serial(given)
        with self._writing(GLOBALS) as write:
            write(pg_programs.dump_globals(self._programs, self._environ, database))

    def _serial(self, given: DumpOptions) -> Generator[events.Event, None, None]:
        """As one file. One that is encrypted is not to be read here any more, so it is read on its way."""
        with ExitStack() as stack:
            write = stack.enter_context(self._writing(DUMP))
            read = stack.enter_context(pg_programs.reading_archive(self._programs)) if self._wishes.recipients else None

            def pass_on(chunk: bytes) -> None:
                write(chunk)
                if read:
                    read(chunk)

            yield from self._shown(pg_programs.dump(self._programs, self._environ, given, pass_on))
        if not self._written:
            raise BackupFailed("pg_dump wrote nothing", hint="Run it by hand to see why.")

    def _parallel(self, given: DumpOptions) -> Generator[events.Event, None, None]:
        """As a directory, which pg_dump writes, and brings to the disk, itself; its files are hashed behind it."""
        assert self._draft.folder is not None
        folder = self._draft.folder / FOLDER
        yield from self._shown(pg_programs.dump_into(self._programs, self._environ, given, folder))
        names = sorted(f"{FOLDER}/{path.name}" for path in folder.iterdir())
        with ThreadPoolExecutor(given.jobs) as pool:
            self.files |= dict(zip(names, pool.map(self._hashed, names), strict=True))

    def _hashed(self, name: str) -> BackupFile:
        digest, stat = hashlib.sha256(), self._draft.stat(name)
        for chunk in self._draft.read(name):
            digest.update(chunk)
        return BackupFile(stat.size, digest.hexdigest(), stat.stamp)

    @contextmanager
    def _writing(self, name: str) -> Iterator[Callable[[bytes], object]]:
        """A new file of the draft; what is given is encrypted where it is to be, hashed, and entered among `files`."""
        recipients = self._wishes.recipients
        stored = name + encryption.SUFFIX if recipients else name
        digest, before = hashlib.sha256(), self._written
        with self._draft.write(stored) as write:

            def keep(chunk: bytes) -> None:
                digest.update(chunk)
                self._written += len(chunk)
                write(chunk)

            if recipients:
                with encryption.encrypting(keep, recipients) as seal:
                    yield seal
            else:
                yield keep
        size, stat = self._written - before, self._draft.stat(stored)
        if stat.size != size:
            raise BackupFailed(
                "the backup is not as large as what was written",
                detail=f"{stored}: {stat.size} bytes of {size}.",
                hint="Find out what is wrong with the store, and run again.",
            )
        self.files[stored] = BackupFile(size, digest.hexdigest(), stat.stamp)

    def _shown(self, dumping: Iterator[Sequence[str]]) -> Iterator[events.Event]:
        """Progress: the bytes of the tables that are done with, of those of all tables."""
        sizes = {name.replace('"', ""): size for name, size in self._snapshot.sizes.items()}
        total, shown = sum(sizes.values()), 0.0
        for begun in dumping:
            if time.monotonic() - shown > _TICK:
                shown = time.monotonic()
                done = sum(sizes.get(name.replace('"', ""), 0) for name in begun[: -self._wishes.jobs])
                yield events.BackupProgress("dump", done, total, self._written)


@contextmanager
def _counting(snapshot: Snapshot, history: History) -> Iterator[Future[Contents]]:
    """The contents, counted while the block dumps them; given up when it fails."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(snapshot.contents, history)
        try:
            yield future
        except BaseException:
            with suppress(Exception):
                snapshot.stop()
            raise


def copy(made: Manifest, read: Callable[[str], Iterator[bytes]], here: Store) -> Generator[events.Event, None, None]:
    """Copy a backup into another store, byte for byte, each file against its hash as it comes."""
    wrong: list[str] = []
    done, shown = 0, 0.0
    reading = _Reading(read, None, made, None)
    with here.draft(made.backup_id) as draft:
        for name in made.files:
            with draft.write(name) as write:
                for chunk in reading.against(name, wrong):
                    write(chunk)
                    done += len(chunk)
                    if time.monotonic() - shown > _TICK:
                        shown = time.monotonic()
                        yield events.BackupProgress("copy", done, made.size)
            _refuse_damaged(made, wrong)
        draft.finish(manifest.NAME, manifest.dumps(replace(made, files=_stamped(made, draft))))


def _stamped(made: Manifest, draft: Draft) -> dict[str, BackupFile]:
    """The files with the marks that the draft's store has put on them."""
    return {name: replace(file, stamp=draft.stat(name).stamp) for name, file in made.files.items()}
