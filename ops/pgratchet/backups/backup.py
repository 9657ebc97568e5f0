"""Backups: taking one, reading it back whole, listing them, and which of them may go.

Owns what a backup consists of and when it is one. Refuses to know migrations and where backups lie. A backup is a
dump, the roles and tablespaces beside it, and a manifest, written last; without a good manifest there is none.

What it rests on, measured (facts 2g): under an exported snapshot the rows that are counted are those of the dump,
though others write meanwhile; a parallel dump can fail when someone queues for an exclusive lock, and is tried once
more; gzip notices a flipped bit and an uncompressed archive does not, so each file is hashed while it is written.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
import subprocess
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from pgratchet import __version__, events
from pgratchet.backups import pg_programs, encryption, manifest
from pgratchet.backups.pg_programs import Dumping, Programs
from pgratchet.errors import BackupFailed, ConfigurationError
from pgratchet.backups.manifest import Contents, File, Manifest
from pgratchet.backups.store import PARTIAL, Draft, Store

if TYPE_CHECKING:
    import psycopg

    from pgratchet.backups.snapshot import Snapshot
    from pgratchet.database.history import Ledger

DUMP = "database.dump"
FOLDER = "database"
GLOBALS = "globals.sql"
_TICK = 0.1
_EMPTY = 8_000_000
"""Bytes of a database with nothing in it, which a dump leaves out."""
_USUAL = 0.5
"""How large a dump may be expected to be, of what the database takes on its disk, while nothing else is known."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is to be backed up: how to connect there, by psycopg and by libpq's programs, and what is known of it."""

    environment: str
    target: str
    server_version: int
    system_identifier: str
    ledger: Ledger
    connect: Callable[[], psycopg.Connection]
    client_environment: Callable[[], AbstractContextManager[dict[str, str]]]


@dataclass(frozen=True, slots=True)
class Wishes:
    """How it is to be taken. From `parallel_from` bytes of database on, `jobs` workers write a directory, where the
    store is a folder and nothing is encrypted; else one writes a single file. `keep` pins it."""

    label: str | None = None
    keep: bool = False
    jobs: int = 1
    parallel_from: int = 10_000_000_000
    recipients: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Listed:
    """A backup that was found, and in `problem` why it is none, where it is none."""

    backup_id: str
    manifest: Manifest | None
    problem: str = ""


def take(source: Source, store: Store, programs: Programs, wishes: Wishes) -> Generator[events.Event, None, Manifest]:
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


def _take(source: Source, store: Store, programs: Programs, wishes: Wishes) -> Generator[events.Event, None, Manifest]:
    from pgratchet.backups import snapshot as contents

    moment = datetime.now(timezone.utc)
    backup_id = manifest.new_id(moment, secrets.randbelow(16))
    started = time.monotonic()
    with store.draft(backup_id) as draft:
        with contents.snapshot(source.connect, pg_programs.LOCK_WAIT) as snapshot, source.client_environment() as environ:
            database, size = snapshot.database()
            _refuse_full(store, size)
            work = _Dump(draft, programs, environ, wishes, snapshot)
            with _counting(snapshot, source.ledger) as counted:
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
            dump_ms=_ms(started, dumped),
            verify_ms=0,
            label=wishes.label,
            keep=wishes.keep,
            recipients=tuple(wishes.recipients),
        )
        yield from _read_back(_Reading(draft.read, draft.folder, made, None), programs)
        made = replace(made, verify_ms=_ms(dumped, time.monotonic()))
        draft.finish(manifest.NAME, manifest.dumps(made))
    return made


def _ms(since: float, until: float) -> int:
    return round((until - since) * 1000)


def _refuse_full(store: Store, size: int) -> None:
    """Before anything is written, where it can be foreseen; a disk that fills up later is noticed too."""
    free = store.room()
    if free is None:
        return
    wanted = expected(store, size)
    if free < wanted:
        raise BackupFailed(
            f"there is no room for a backup in {store.where}",
            detail=f"{free:,} bytes are free, and about {wanted:,} are needed for a database of {size:,}.",
            hint="Make room there, or set backup_dir, or a retention, in the inventory.",
        )


def expected(store: Store, size: int) -> int:
    """About how many bytes a backup of a database of that size takes, by the newest one in the store."""
    before = next((each.manifest for each in find(store) if each.manifest), None)
    ratio = before.size / max(1, before.database_size) if before else _USUAL
    return round(max(0, size - _EMPTY) * min(ratio * 1.2, 1.0))


class _Dump:
    """The writing half: dump and globals into a draft, hashed on the way."""

    def __init__(
        self, draft: Draft, programs: Programs, environ: Mapping[str, str], wishes: Wishes, snapshot: Snapshot
    ) -> None:
        self._draft, self._programs, self._environ = draft, programs, environ
        self._wishes, self._snapshot = wishes, snapshot
        self.compression = programs.compression()
        self.form: pg_programs.Form = "custom"
        self.files: dict[str, File] = {}
        self._written = 0

    def run(self, size: int, database: str) -> Generator[events.Event, None, None]:
        wishes = self._wishes
        parallel = self._draft.folder and wishes.jobs > 1 and size >= wishes.parallel_from
        self.form = "directory" if parallel and not wishes.recipients else "custom"
        given = Dumping(self.form, self.compression, wishes.jobs, self._snapshot.id)
        yield from self._parallel(given) if self.form == "directory" else self._serial(given)
        with self._writing(GLOBALS) as write:
            write(pg_programs.dump_globals(self._programs, self._environ, database))

    def _serial(self, given: Dumping) -> Generator[events.Event, None, None]:
        """As one file. One that is encrypted is not to be read here any more, so it is read on its way."""
        with ExitStack() as stack:
            write = stack.enter_context(self._writing(DUMP))
            read = stack.enter_context(pg_programs.reading(self._programs)) if self._wishes.recipients else None

            def pass_on(chunk: bytes) -> None:
                write(chunk)
                if read:
                    read(chunk)

            yield from self._shown(pg_programs.dump(self._programs, self._environ, given, pass_on))
        if not self._written:
            raise BackupFailed("pg_dump wrote nothing", hint="Run it by hand to see why.")

    def _parallel(self, given: Dumping) -> Generator[events.Event, None, None]:
        """As a directory, which pg_dump writes, and brings to the disk, itself; its files are hashed behind it."""
        assert self._draft.folder is not None
        folder = self._draft.folder / FOLDER
        yield from self._shown(pg_programs.dump_into(self._programs, self._environ, given, folder))
        names = sorted(f"{FOLDER}/{path.name}" for path in folder.iterdir())
        with ThreadPoolExecutor(given.jobs) as pool:
            self.files |= dict(zip(names, pool.map(self._hashed, names), strict=True))

    def _hashed(self, name: str) -> File:
        digest, stat = hashlib.sha256(), self._draft.stat(name)
        for chunk in self._draft.read(name):
            digest.update(chunk)
        return File(stat.size, digest.hexdigest(), stat.stamp)

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
                with encryption.sealed(keep, recipients) as seal:
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
        self.files[stored] = File(size, digest.hexdigest(), stat.stamp)

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
def _counting(snapshot: Snapshot, ledger: Ledger) -> Iterator[Future[Contents]]:
    """The contents, counted while the block dumps them; given up when it fails."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(snapshot.contents, ledger)
        try:
            yield future
        except BaseException:
            with suppress(Exception):
                snapshot.stop()
            raise


@dataclass(frozen=True, slots=True)
class _Reading:
    """A backup to be read: by `read`, and below `folder` where it is on a disk. `identity` opens an encrypted one."""

    read: Callable[[str], Iterator[bytes]]
    folder: Path | None
    manifest: Manifest
    identity: Path | None

    @property
    def closed(self) -> bool:
        """Whether it is encrypted to others: then its hashes are all that can be held against it."""
        return bool(self.manifest.recipients) and self.identity is None

    @property
    def path(self) -> Path | None:
        """Where pg_restore can open the archive itself."""
        if self.folder is None or self.manifest.recipients:
            return None
        return self.folder / (FOLDER if self.manifest.archive == "directory" else DUMP)

    def plain(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """What the chunks of one of its files say, where that can be read here."""
        if not self.manifest.recipients or self.identity is None:
            return chunks
        return encryption.opened(chunks, encryption.identities(self.identity))

    def whole(self, name: str, wrong: list[str]) -> Iterator[bytes]:
        """What a file says, held against its hash, which tells one that was damaged from a key that does not fit."""
        stored = self.against(name, wrong)
        try:
            yield from self.plain(stored)
        except BackupFailed:
            for _ in stored:
                pass
            if not wrong:
                raise

    def against(self, name: str, wrong: list[str]) -> Iterator[bytes]:
        """The chunks of a file; when they end, what is wrong with it has been put to the others."""
        digest, size, file = hashlib.sha256(), 0, self.manifest.files[name]
        for chunk in self.read(name):
            digest.update(chunk)
            size += len(chunk)
            yield chunk
        if size != file.size:
            wrong.append(f"{name}: {size} bytes of {file.size}.")
        elif digest.hexdigest() != file.sha256:
            wrong.append(f"{name}: its SHA-256 is another.")


def _read_back(reading: _Reading, programs: Programs) -> Generator[events.Event, None, None]:
    """Read every file against its hash, and let pg_restore read the archive in the same pass."""
    made = reading.manifest
    wrong: list[str] = []
    with ExitStack() as stack:
        feed = None if reading.closed else stack.enter_context(pg_programs.reading(programs, reading.path))
        done, shown = 0, 0.0
        for name in made.files:
            for chunk in reading.whole(name, wrong):
                done += len(chunk)
                if feed and not reading.path and name.startswith(DUMP):
                    feed(chunk)
                if time.monotonic() - shown > _TICK:
                    shown = time.monotonic()
                    yield events.BackupProgress("verify", done, made.size, done)
        _refuse_damaged(made, wrong)


def _refuse_damaged(made: Manifest, wrong: Sequence[str]) -> None:
    if wrong:
        raise BackupFailed(
            f"backup {made.backup_id} is not what was written",
            detail="\n".join(wrong),
            hint="Use another, and find out what changed this one; `invoke backups` lists them.",
        )


def verify(
    listed: Listed, store: Store, programs: Programs, identity: Path | None = None
) -> Generator[events.Event, None, Manifest]:
    """Read a backup back whole against its manifest; BackupFailed where it does not hold."""
    made = demanded(listed)
    yield from _read_back(_opened(store, made, identity), programs)
    return made


def _opened(store: Store, made: Manifest, identity: Path | None) -> _Reading:
    return _Reading(functools.partial(store.read, made.backup_id), store.folder(made.backup_id), made, identity)


def demanded(listed: Listed) -> Manifest:
    """Its manifest, or the error that it has none."""
    if listed.manifest is None:
        raise BackupFailed(
            f"{listed.backup_id} is no backup",
            detail=listed.problem,
            hint="`invoke backups` lists those that are; `invoke backup` takes another.",
        )
    return listed.manifest


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


def _stamped(made: Manifest, draft: Draft) -> dict[str, File]:
    """The files with the marks that the draft's store has put on them."""
    return {name: replace(file, stamp=draft.stat(name).stamp) for name, file in made.files.items()}


def content(made: Manifest, store: Store, identity: Path | None) -> Path | Iterator[bytes]:
    """The archive for pg_restore: a path where it lies on this machine as it is, else a stream of it."""
    reading = _opened(store, made, identity)
    if reading.closed:
        raise ConfigurationError(
            f"backup {made.backup_id} is encrypted",
            detail="To: " + ", ".join(made.recipients) + ".",
            hint="Give the file with the private key of one of them as backup_identity in the inventory.",
        )
    (name,) = [name for name in made.files if name.startswith(DUMP)] or [DUMP]
    return reading.path or reading.plain(reading.read(name))


def find(store: Store) -> tuple[Listed, ...]:
    """The backups of a store, newest first, with what is none among them said to be so."""
    return tuple(look(store, backup_id) for backup_id in store.ids())


def look(store: Store, backup_id: str) -> Listed:
    """The backup of that name in a store, or what is wrong with it."""
    if backup_id.endswith(PARTIAL):
        return Listed(backup_id, None, "It was not finished.")
    if store.stat(backup_id, manifest.NAME) is None:
        return Listed(backup_id, None, "It has no manifest.")
    try:
        made = manifest.loads(b"".join(store.read(backup_id, manifest.NAME)))
    except manifest.NotAManifest as error:
        return Listed(backup_id, None, str(error))
    if made.backup_id != backup_id:
        return Listed(backup_id, None, f"Its manifest is that of {made.backup_id}.")
    problem = next((why for name, file in made.files.items() if (why := _wrong(store, backup_id, name, file))), "")
    return Listed(backup_id, None if problem else made, problem)


def _wrong(store: Store, backup_id: str, name: str, file: File) -> str:
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


@dataclass(frozen=True, slots=True)
class Retention:
    """What may go: what is neither among the `count` newest nor younger than `days`. With both 0, nothing."""

    count: int = 0
    days: int = 0


def expired(found: Sequence[Listed], retention: Retention, now: datetime) -> tuple[str, ...]:
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
        gone += expired(find(store), retention, now)
    for backup_id in gone:
        store.remove(backup_id)
    if gone:
        yield events.BackupsRemoved(gone)


def external(command: Sequence[str], environ: Mapping[str, str], max_age: int) -> Generator[events.Event, None, str]:
    """Let another tool take the backup, and believe it only where it names a fresh one; returns its name.

    The last line that the command prints is the backup's name and the time it was taken, in ISO 8601 with a zone.
    `max_age` in seconds.
    """
    started = time.monotonic()
    try:
        done = subprocess.run(
            list(command),
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
            errors="replace",
        )
    except (OSError, ValueError) as error:
        raise _refused(command[0], f"It could not be started: {getattr(error, 'strerror', error)}.") from error
    if done.returncode != 0:
        told = done.stderr.strip().splitlines()[-10:]
        raise _refused(command[0], "\n".join([*told, f"It ended with status {done.returncode}."]))
    name, moment = _named(command[0], done.stdout)
    age = (datetime.now(timezone.utc) - moment).total_seconds()
    if not -60 <= age <= max_age:
        raise _refused(command[0], f"Backup {name} is of {moment.isoformat()}, and may be {max_age} s old at most.")
    yield events.BackupTaken(name, f"taken by {command[0]}", None, _ms(started, time.monotonic()))
    return name


def _named(program: str, printed: str) -> tuple[str, datetime]:
    words = printed.strip().splitlines()[-1].split() if printed.strip() else []
    try:
        name, text = words
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        if moment.tzinfo is None:
            raise ValueError
    except ValueError:
        reason = "Its last line must be the backup's name and time, such as 20261124-101500F 2026-11-24T10:15:00Z."
        raise _refused(program, reason) from None
    return name, moment


def _refused(program: str, detail: str) -> BackupFailed:
    return BackupFailed(
        f"the backup command {program} gave no fresh backup",
        detail=detail,
        hint="Run the backup_command of the inventory by hand; no migration runs without a good backup.",
    )
