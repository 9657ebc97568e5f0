"""Backups: taking one, reading it back whole, listing them.

Owns the backups folder, its manifests, and the choice of pg_dump. Refuses to know migrations: it is told what
the history was. A backup is a folder that is renamed into place when everything in it is on the disk; the
manifest is written last, so a backup without a good manifest does not exist.

What it rests on (facts, 2g): an older pg_dump refuses a newer server; a listing (`pg_restore -l`) passes
truncated and damaged files, so the whole archive is read; no shell pipe stands between pg_dump and the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from ops import __version__, events
from ops.errors import BackupFailed, ConfigurationError

DUMP = "database.dump"
MANIFEST = "manifest.json"
FORMAT = 1
LOCK_WAIT = "30s"
_CHUNK = 1 << 20
_TICK = 0.1
_DEBIAN = Path("/usr/lib/postgresql")


@dataclass(frozen=True, slots=True)
class Source:
    """What is to be backed up. `environ` lets libpq's programs connect; `size` is the database's, in bytes."""

    environment: str
    target: str
    database: str
    server_version: int
    size: int
    environ: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Programs:
    """A pg_dump with the pg_restore that belongs to it. `version` is what it says of itself, such as 15.18."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself. Sizes in bytes, durations in milliseconds, hashes SHA-256 in hex.

    `files` maps each file's name to its size and hash; `history` holds the applied migrations, name to checksum.
    """

    format: int
    backup_id: str
    environment: str
    target: str
    database: str
    created_at: str
    server_version: int
    client_version: str
    tool_version: str
    files: Mapping[str, Mapping[str, str | int]]
    history: Mapping[str, str]
    dump_ms: int
    verify_ms: int

    @property
    def size(self) -> int:
        return sum(int(file["size"]) for file in self.files.values())


@dataclass(frozen=True, slots=True)
class Listed:
    """A backup found on disk, and in `problem` why it is not to be trusted, where it is not."""

    path: Path
    manifest: Manifest | None
    problem: str = ""


def needed(policy: str, waiver: str | None) -> bool:
    """Whether a run must be backed up first: by its environment's policy, unless a reason to go without is given."""
    if waiver is not None and not waiver.strip():
        raise ConfigurationError(
            "--without-backup needs a reason",
            detail="It is kept in the history, for whoever asks later why there is no backup.",
            hint='Write it out: --without-backup="restored from last night, nothing to lose".',
        )
    return policy == "always" and waiver is None


def find_programs(server_version: int, *, tls: bool, embedded: Callable[[], Path]) -> Programs:
    """The pg_dump to use: of the server's major where there is one, else the next newer; never an older one.

    Looked for on the PATH, in Debian's folders, and in the wheel, whose libpq has no TLS.
    """
    major = server_version // 10000
    found = list(_candidates(tls, embedded))
    fit = [each for each in found if each.major >= major]
    if fit:
        return min(fit, key=lambda each: each.major)
    have = ", ".join(f"{each.version} in {each.folder}" for each in found) or "none"
    reason = " The one of the package cannot be used, since it has no TLS." if tls else ""
    raise BackupFailed(
        f"no pg_dump for PostgreSQL {major}",
        detail=f"Found: {have}.{reason} An older pg_dump refuses a newer server.",
        hint=f"Install PostgreSQL's client programs, {major} or newer, such as the package postgresql-client-{major}.",
    )


def _candidates(tls: bool, embedded: Callable[[], Path]) -> Iterator[Programs]:
    folders = [Path(found).parent] if (found := shutil.which("pg_dump")) else []
    folders += sorted(_DEBIAN.glob("*/bin")) if _DEBIAN.is_dir() else []
    folders += [] if tls else [embedded()]
    for folder in folders:
        version = _version(folder / "pg_dump")
        if version and (folder / "pg_restore").exists():
            yield Programs(folder, version)


def _version(program: Path) -> str | None:
    try:
        said = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\b(\d+(?:\.\d+)?)", said.stdout)
    return match[1] if match else None


def take(
    source: Source, folder: Path, programs: Programs, history: Mapping[str, str]
) -> Generator[events.Event, None, Manifest]:
    """Dump the database, read the dump back whole, and put it in place; yields progress, returns the manifest.

    BackupFailed, and nothing left but a folder named .partial where even cleaning up failed.
    """
    moment = datetime.now(timezone.utc)
    backup_id = f"{moment:%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
    place = _place(folder, source.environment, source.target)
    with _partial(place, backup_id) as partial:
        started = time.monotonic()
        size, digest = yield from _dump(source, programs, partial / DUMP)
        dumped = time.monotonic()
        yield from _read_back(programs, partial / DUMP, size, digest)
        verified = time.monotonic()
        manifest = Manifest(
            format=FORMAT,
            backup_id=backup_id,
            environment=source.environment,
            target=source.target,
            database=source.database,
            created_at=moment.isoformat(timespec="seconds"),
            server_version=source.server_version,
            client_version=programs.version,
            tool_version=__version__,
            files={DUMP: {"size": size, "sha256": digest}},
            history=dict(history),
            dump_ms=round((dumped - started) * 1000),
            verify_ms=round((verified - dumped) * 1000),
        )
        _write_manifest(partial / MANIFEST, manifest)
    yield events.BackupTaken(backup_id, str(place / backup_id), size, round((verified - started) * 1000))
    return manifest


def verify(listed: Listed, programs: Programs) -> Generator[events.Event, None, Manifest]:
    """Read a backup back whole against its manifest; BackupFailed where it does not hold."""
    manifest = listed.manifest
    if manifest is None:
        raise BackupFailed(
            f"{listed.path.name} is no backup",
            detail=listed.problem,
            hint="Take another with `invoke backup`.",
        )
    for name, file in manifest.files.items():
        yield from _read_back(programs, listed.path / name, int(file["size"]), str(file["sha256"]))
    return manifest


def restore(listed: Listed, programs: Programs, environ: Mapping[str, str], database: str) -> None:
    """Restore a verified backup into an empty database of the server that `environ` leads to."""
    name = database.replace("\\", "\\\\").replace("'", "\\'")
    command = [str(programs.folder / "pg_restore"), "--exit-on-error", "--no-password", f"--dbname=dbname='{name}'"]
    with (
        tempfile.TemporaryFile() as complaints,
        _running([*command, str(listed.path / DUMP)], environ, complaints) as process,
    ):
        _demand(process.wait(), complaints, "pg_restore")


def find(folder: Path, environment: str, target: str) -> tuple[Listed, ...]:
    """The target's backups, newest first, with the unusable among them said to be so. Reads manifests only."""
    place = _place(folder, environment, target)
    if not place.is_dir():
        return ()
    return tuple(_listed(path) for path in sorted(place.iterdir(), reverse=True) if path.is_dir())


def newest(folder: Path, environment: str, target: str) -> Manifest | None:
    """The newest backup whose manifest is good."""
    return next((each.manifest for each in find(folder, environment, target) if each.manifest), None)


def _place(folder: Path, environment: str, target: str) -> Path:
    return folder / environment / target


def _listed(path: Path) -> Listed:
    if path.suffix == ".partial":
        return Listed(path, None, "It was not finished.")
    try:
        manifest = _manifest(json.loads((path / MANIFEST).read_text("utf-8")))
    except FileNotFoundError:
        return Listed(path, None, "It has no manifest.")
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return Listed(path, None, "Its manifest cannot be read.")
    for name, file in manifest.files.items():
        if not (path / name).is_file() or (path / name).stat().st_size != file["size"]:
            return Listed(path, None, f"{name} is not as large as its manifest says.")
    if manifest.backup_id != path.name:
        return Listed(path, None, f"Its manifest is that of {manifest.backup_id}.")
    return Listed(path, manifest)


def _manifest(given: dict[str, Any]) -> Manifest:
    """A manifest of this format; ValueError or TypeError for anything else."""
    manifest = Manifest(**given)
    numbers = (
        manifest.server_version,
        manifest.dump_ms,
        manifest.verify_ms,
        *(f["size"] for f in manifest.files.values()),
    )
    texts = (
        manifest.backup_id,
        manifest.database,
        manifest.created_at,
        *(f["sha256"] for f in manifest.files.values()),
    )
    right = all(isinstance(n, int) for n in numbers) and all(isinstance(t, str) for t in texts)
    if manifest.format != FORMAT or DUMP not in manifest.files or not right or not isinstance(manifest.history, dict):
        raise ValueError("not a manifest")
    return manifest


@contextmanager
def _partial(place: Path, backup_id: str) -> Iterator[Path]:
    """A folder that takes its name when the block ends well, and goes away when it does not."""
    partial = place / f"{backup_id}.partial"
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial.mkdir(mode=0o700)
        yield partial
        _sync_folder(partial)
        partial.rename(place / backup_id)
        _sync_folder(place)
    except OSError as error:
        raise BackupFailed(
            f"the backup could not be written to {place}",
            detail=f"{error.strerror or error}.",
            hint="Make room or give access there, or set backup_dir in the inventory. Nothing was migrated.",
        ) from error
    finally:
        with suppress(OSError):
            shutil.rmtree(partial)


def _dump(source: Source, programs: Programs, path: Path) -> Generator[events.Event, None, tuple[int, str]]:
    """Run pg_dump and write what it prints, hashing on the way; its size and hash."""
    command = [
        str(programs.folder / "pg_dump"),
        "--format=custom",
        "--no-password",
        f"--lock-wait-timeout={LOCK_WAIT}",
    ]
    size, digest, shown = 0, hashlib.sha256(), 0.0
    with (
        tempfile.TemporaryFile() as complaints,
        path.open("xb") as file,
        _running(command, source.environ, complaints) as process,
    ):
        assert process.stdout is not None
        while chunk := process.stdout.read1(_CHUNK):  # type: ignore[attr-defined]
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            if time.monotonic() - shown > _TICK:
                shown = time.monotonic()
                yield events.BackupProgress("dump", size, source.size)
        status = process.wait()
        file.flush()
        os.fsync(file.fileno())
        _demand(status, complaints, "pg_dump")
    if size == 0:
        raise _failed("pg_dump", "It wrote nothing.")
    return size, digest.hexdigest()


def _read_back(programs: Programs, path: Path, size: int, digest: str) -> Generator[events.Event, None, None]:
    """Hash the file as it is on the disk, and let pg_restore read all of it."""
    command = [str(programs.folder / "pg_restore"), "--file=/dev/null"]
    actual, done, shown = hashlib.sha256(), 0, 0.0
    with (
        tempfile.TemporaryFile() as complaints,
        path.open("rb") as file,
        _running([*command, str(path)], os.environ, complaints) as process,
    ):
        while chunk := file.read(_CHUNK):
            actual.update(chunk)
            done += len(chunk)
            if time.monotonic() - shown > _TICK:
                shown = time.monotonic()
                yield events.BackupProgress("verify", done, size)
        status = process.wait()
        _demand(status, complaints, "pg_restore")
    if (done, actual.hexdigest()) != (size, digest):
        raise BackupFailed(
            "the backup is not what was written",
            detail=f"{path}: " + (f"{done} bytes of {size}." if done != size else "its SHA-256 is another."),
            hint="Use another, and find out what changed this one; `invoke backups` lists them.",
        )


@contextmanager
def _running(
    command: Sequence[str], environ: Mapping[str, str], complaints: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that does not outlive the block."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=dict(environ),
        )
    except OSError as error:
        raise _failed(command[0], f"It could not be started: {error.strerror}.") from error
    try:
        yield process
    finally:
        if process.stdout:
            process.stdout.close()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _demand(status: int, complaints: IO[bytes], program: str) -> None:
    if status != 0:
        complaints.seek(0)
        said = complaints.read().decode(errors="replace").strip()
        raise _failed(program, f"{said}\n{program} ended with status {status}.".strip())


def _failed(program: str, detail: str) -> BackupFailed:
    return BackupFailed(
        f"no backup: {program} failed",
        detail=detail,
        hint="Mend the cause and run again; no migration runs without a good backup.",
    )


def _write_manifest(path: Path, manifest: Manifest) -> None:
    with path.open("x", encoding="utf-8") as file:
        json.dump(asdict(manifest), file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
