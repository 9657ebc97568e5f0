"""PostgreSQL's own programs: which pg_dump to use, dumping, reading a whole archive, restoring one.

Owns the choice of programs, their arguments and their processes. Refuses to know stores, manifests and connections.

What it rests on, measured (facts 2g): an older pg_dump refuses a newer server; what pg_dump 17 or later writes sets
transaction_timeout, which a server before 17 does not know, so that the restore fails; a listing (`pg_restore -l`)
passes truncated and damaged archives, so the whole is read; no shell pipe stands between a program and its file.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from pgratchet.errors import BackupFailed

Form = Literal["custom", "directory"]
LOCK_WAIT = "30s"
_CHUNK = 1 << 20
_TICK = 0.1
_DEBIAN = Path("/usr/lib/postgresql")
_SETS_TRANSACTION_TIMEOUT = 17
_TABLE = re.compile(r': (?:dumping contents of|processing data for) table "(.+)"$')
_COMPLAINT = re.compile(r"(error|warning|detail|hint|fatal|query was):|^\s+Command was:", re.IGNORECASE)


class ProgramFailed(BackupFailed):
    """One of PostgreSQL's programs did not end well."""

    def __init__(self, program: str, detail: str, hint: str) -> None:
        super().__init__(f"{program} failed", detail=detail, hint=hint)
        self.program = program


@dataclass(frozen=True, slots=True)
class Programs:
    """A pg_dump with the programs that belong to it. `version` is what it says of itself, such as 15.18."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])

    def path(self, program: str) -> str:
        return str(self.folder / program)

    def compression(self) -> Literal["zstd", "gzip"]:
        """The best that this build can do. Asked of it without a connection: it judges its options first."""
        if self.major < 16:
            return "gzip"
        command = [self.path("pg_dump"), "--compress=zstd", "--host=/nonexistent", "--no-password"]
        said = subprocess.run(command, capture_output=True, text=True, check=False, env={"LC_ALL": "C"}, timeout=30)
        return "gzip" if "compression" in said.stderr else "zstd"


def find_programs(*, server: int | None, tls: bool = False, reads: str | None = None) -> Programs:
    """The programs to use with a server of that server_version_num, with an archive of the pg_dump `reads`, or both.

    None is older than the server or than what it has to read, and none writes or restores what the server does not
    take. Of those that fit, the nearest major, and of that the newest: a release may mend what an earlier one wrote.
    They are looked for on the PATH, in Debian's folders, and in the wheel, whose libpq has no TLS.
    """
    found = list(_candidates(tls))
    oldest = max((server or 0) // 10000, _numbers(reads)[0] if reads else 0)
    fit = [each for each in found if each.major >= oldest and not _too_new(each.major, server)]
    if fit:
        return min(fit, key=lambda each: (each.major, *(-number for number in _numbers(each.version))))
    have = ", ".join(f"{each.version} in {each.folder}" for each in found) or "none"
    told = [f"Found: {have}.", "An older one refuses a newer server, and an archive of a newer pg_dump."]
    told += ["The one of the package cannot be used, since it has no TLS."] if tls else []
    told += [_TOO_NEW] if any(_too_new(major, server) for major in (oldest, *(each.major for each in found))) else []
    advice = f"Install PostgreSQL's client programs of version {oldest}, such as postgresql-client-{oldest}."
    if _too_new(oldest, server):
        advice = f"Restore it on a server of version {_SETS_TRANSACTION_TIMEOUT} or later."
    raise BackupFailed(f"no pg_dump and pg_restore for PostgreSQL {oldest}", detail=" ".join(told), hint=advice)


_TOO_NEW = "What pg_dump 17 or later writes sets transaction_timeout, which no server before 17 takes on restore."


def _too_new(major: int, server: int | None) -> bool:
    return server is not None and major >= _SETS_TRANSACTION_TIMEOUT > server // 10000


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split("."))


def _candidates(tls: bool) -> Iterator[Programs]:
    from pgratchet import embedded

    folders = [Path(found).parent] if (found := shutil.which("pg_dump")) else []
    folders += sorted(_DEBIAN.glob("*/bin")) if _DEBIAN.is_dir() else []
    folders += [packaged] if not tls and (packaged := embedded.installed_programs()) else []
    for folder in folders:
        version = version_of(folder / "pg_dump")
        if version and (folder / "pg_restore").exists():
            yield Programs(folder, version)


def version_of(program: Path) -> str | None:
    try:
        said = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\b(\d+(?:\.\d+)?)", said.stdout)
    return match[1] if match else None


@dataclass(frozen=True, slots=True)
class DumpOptions:
    """What pg_dump is to do. `jobs` workers write a directory; one writes a custom archive to its output."""

    form: Form
    compression: str
    jobs: int
    snapshot: str

    def arguments(self, programs: Programs) -> list[str]:
        # Before 16 the option took a level only, and gzip was all there was.
        compression = [f"--compress={self.compression}"] if programs.major >= 16 else []
        return [
            f"--format={self.form}",
            "--no-password",
            "--verbose",
            f"--lock-wait-timeout={LOCK_WAIT}",
            f"--snapshot={self.snapshot}",
            *compression,
        ]


def dump(
    programs: Programs, environ: Mapping[str, str], given: DumpOptions, write: Callable[[bytes], object]
) -> Generator[Sequence[str], None, None]:
    """A custom dump, given to `write` as it comes; yields, now and then, the tables that were begun."""
    command = [programs.path("pg_dump"), *given.arguments(programs)]
    with _running(command, environ) as running:
        while chunk := running.read():
            write(chunk)
            yield running.tables
        running.demand()


def dump_into(
    programs: Programs, environ: Mapping[str, str], given: DumpOptions, folder: Path
) -> Generator[Sequence[str], None, None]:
    """A dump in the directory format, by several workers, into a folder that is not there yet."""
    command = [programs.path("pg_dump"), *given.arguments(programs), f"--jobs={given.jobs}", f"--file={folder}"]
    with _running(command, environ) as running:
        yield from running.wait()


def dump_globals(programs: Programs, environ: Mapping[str, str], database: str) -> bytes:
    """Roles and tablespaces as SQL, without the roles' passwords."""
    options = ("--globals-only", "--no-role-passwords", "--no-password", f"--database={database}")
    with _running([programs.path("pg_dumpall"), *options], environ) as running:
        text = b"".join(iter(running.read, b""))
        running.demand()
    return text


def dump_schema(programs: Programs, environ: Mapping[str, str], database: str, without: str) -> bytes:
    """A database's schema as SQL, without owners and privileges, and without the table of that quoted name."""
    options = ("--schema-only", "--no-owner", "--no-privileges", "--no-password", f"--exclude-table={without}")
    with _running([programs.path("pg_dump"), *options, _to(database)], environ) as running:
        text = b"".join(iter(running.read, b""))
        running.demand()
    return text


def _to(database: str) -> str:
    """The database as an option: a name goes in a connection string, where it needs quotes of its own."""
    name = database.replace("\\", "\\\\").replace("'", "\\'")
    return f"--dbname=dbname='{name}'"


@contextmanager
def reading_archive(programs: Programs, path: Path | None = None) -> Iterator[Callable[[bytes], object]]:
    """Let pg_restore read an archive to its end: at the path, or what is given to the function that this yields.

    BackupFailed at the end of the block where it is not whole. A path is read a fifth faster than a pipe (measured).
    """
    command = [programs.path("pg_restore"), "--file=/dev/null", *([str(path)] if path else ["--format=custom"])]
    with _running(command, os.environ, feeds=path is None) as running:
        yield running.write
        for _ in running.wait():
            pass


@dataclass(frozen=True, slots=True)
class PgRestoreOptions:
    """Into which database, and how. Without `owners`, everything belongs to the role that restores; without
    `subscriptions` there are none, which else name the live one's slots and keep the database from being dropped."""

    database: str
    jobs: int = 1
    owners: bool = True
    subscriptions: bool = True


def restore(
    programs: Programs, environ: Mapping[str, str], given: PgRestoreOptions, source: Path | Iterator[bytes]
) -> Generator[Sequence[str], None, None]:
    """Restore an archive into an empty database; yields, now and then, the tables that were begun. An error ends it."""
    command = [programs.path("pg_restore"), "--exit-on-error", "--verbose", "--no-password", _to(given.database)]
    command += [] if given.owners else ["--no-owner", "--no-privileges"]
    command += [] if given.subscriptions else ["--no-subscriptions"]
    if isinstance(source, Path):
        command += [f"--jobs={given.jobs}", str(source)]
    with _running(command, environ, feeds=not isinstance(source, Path)) as running:
        for chunk in source if not isinstance(source, Path) else ():
            running.write(chunk)
            yield running.tables
        yield from running.wait()


class _Process:
    """A program while it runs: what it prints, which tables it has begun, what it complains of."""

    def __init__(self, process: subprocess.Popen[bytes], name: str) -> None:
        self._process, self._name = process, name
        self._said: list[str] = []
        self._hears = True
        self.tables: list[str] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def read(self) -> bytes:
        assert self._process.stdout is not None
        return self._process.stdout.read1(_CHUNK)  # type: ignore[attr-defined, no-any-return]

    def write(self, chunk: bytes) -> None:
        """Feed it; one that has ended already is asked why at the end."""
        assert self._process.stdin is not None
        if self._hears:
            try:
                self._process.stdin.write(chunk)
            except BrokenPipeError:
                self._hears = False

    def wait(self) -> Generator[Sequence[str], None, None]:
        """Until it has ended well."""
        if self._process.stdin:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        while self._process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_TICK)
            yield self.tables
        self.demand()

    def demand(self) -> None:
        """BackupFailed unless it ended with 0."""
        status = self._process.wait()
        self._listener.join()
        if status != 0:
            told = [line for line in self._said if _COMPLAINT.search(line)] or self._said[-5:]
            detail = "\n".join([*told[:20], f"{self._name} ended with status {status}."])
            raise ProgramFailed(self._name, detail, "Mend the cause and run again; no migration runs without a backup.")

    def _listen(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                text = line.decode(errors="replace").rstrip()
                if match := _TABLE.search(text):
                    self.tables.append(match[1])
                self._said.append(text)
                del self._said[:-200]

    def close(self) -> None:
        """End it where it still runs, and everything of it."""
        _end(self._process)
        self._listener.join(5)


@contextmanager
def _running(command: Sequence[str], environ: Mapping[str, str], *, feeds: bool = False) -> Iterator[_Process]:
    """A program that does not outlive the block."""
    name = Path(command[0]).name
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if feeds else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**environ, "LC_ALL": "C"},
        )
    except OSError as error:
        reason = f"{command[0]} could not be started: {error.strerror}."
        raise ProgramFailed(name, reason, "Install PostgreSQL's client programs.") from error
    if process.stdout and (wider := getattr(fcntl, "F_SETPIPE_SZ", None)):
        with suppress(OSError):
            fcntl.fcntl(process.stdout, wider, _CHUNK)  # on Linux: a dump is not kept waiting for us so often
    running = _Process(process, name)
    try:
        yield running
    finally:
        running.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    pipes: list[IO[bytes] | None] = [process.stdin, process.stdout]
    for pipe in pipes:
        with suppress(OSError):
            if pipe:
                pipe.close()
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
