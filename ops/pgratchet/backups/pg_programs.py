"""Finds and runs PostgreSQL's client programs: pg_dump, pg_dumpall and pg_restore.

pg_dump refuses a newer server, and an archive may not load into a server of an older major version
(https://www.postgresql.org/docs/current/app-pgdump.html, Notes). From version 17 on archives set transaction_timeout
(src/bin/pg_dump/pg_backup_archiver.c, _doSetFixedOutputState), a setting unknown to older servers.

Archives are read to the end, because `pg_restore --list` accepts truncated and damaged archives.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pgratchet.backups.processes import Progress, running
from pgratchet.database.target import plain_environment
from pgratchet.errors import BackupFailed, ConfigurationError

Form = Literal["custom", "directory"]
LOCK_WAIT = "30s"
"""How long pg_dump, and the counting beside it, wait for a lock on a table."""
_DEBIAN = Path("/usr/lib/postgresql")
_SETS_TRANSACTION_TIMEOUT = 17


@dataclass(frozen=True, slots=True)
class Programs:
    """A folder with pg_dump and its sister programs. `version` is the version printed by pg_dump, such as 15.18."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])

    def path(self, program: str) -> str:
        return str(self.folder / program)

    def compression(self) -> Literal["zstd", "gzip"]:
        """The best compression supported by this build of pg_dump, which checks options before connecting."""
        if self.major < 16:
            return "gzip"
        command = [self.path("pg_dump"), "--compress=zstd", "--host=/nonexistent", "--no-password"]
        process = subprocess.run(command, capture_output=True, text=True, check=False, env={"LC_ALL": "C"}, timeout=30)
        return "gzip" if "compression" in process.stderr else "zstd"


def find_programs(server_version: int | None, *, tls: bool = False, archive_version: str | None = None) -> Programs:
    """Find programs for a server, for an archive, or for both.

    `server_version` is the server's server_version_num; `archive_version` is the version of the archive's pg_dump. The
    major versions of the programs are not older than either, and the server accepts their archives. Programs that are
    not older than the server's and the archive's minor version either are preferred: minor versions fix bugs. Among
    these the nearest major version is chosen, then the newest minor version.

    Programs are searched on PATH, in Debian's folders, and in the bundled PostgreSQL, except over TLS: the bundled
    programs are built without TLS.
    """
    candidates = list(_candidates(tls))
    required = max(divmod(server_version or 0, 10000), _numbers(archive_version or "0"))
    oldest = required[0]
    fitting = [each for each in candidates if each.major >= oldest and not _too_new(each.major, server_version)]
    if fitting:
        return min(fitting, key=lambda each: _preference(each, required))
    names = ", ".join(f"{each.version} in {each.folder}" for each in candidates) or "none"
    reasons = [f"Found: {names}.", "An older one refuses a newer server, and an archive of a newer pg_dump."]
    reasons += ["The one of the package cannot be used, since it has no TLS."] if tls else []
    if any(_too_new(major, server_version) for major in (oldest, *(each.major for each in candidates))):
        reasons.append(_TOO_NEW)
    hint = f"Install PostgreSQL's client programs of version {oldest}, such as postgresql-client-{oldest}."
    if _too_new(oldest, server_version):
        hint = f"Restore it on a server of version {_SETS_TRANSACTION_TIMEOUT} or later."
    raise BackupFailed(f"no pg_dump and pg_restore for PostgreSQL {oldest}", detail=" ".join(reasons), hint=hint)


def _preference(programs: Programs, required: tuple[int, ...]) -> tuple[int, ...]:
    """The order in which programs are chosen, smallest first."""
    numbers = _numbers(programs.version)
    return (int(numbers < required), programs.major, *(-number for number in numbers))


_TOO_NEW = "What pg_dump 17 or later writes sets transaction_timeout, which no server before 17 takes on restore."


def _too_new(major: int, server_version: int | None) -> bool:
    return server_version is not None and major >= _SETS_TRANSACTION_TIMEOUT > server_version // 10000


def is_older(version: str, server_version: int) -> bool:
    """Return whether a program's version is older than the server's, minor version included."""
    return _numbers(version) < divmod(server_version, 10000)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split("."))


def _candidates(tls: bool) -> Iterator[Programs]:
    from pgratchet import embedded

    on_path = shutil.which("pg_dump")
    # Debian's own pg_dump on PATH is a script, which takes long and runs a program of _DEBIAN.
    folders = [Path(on_path).parent] if on_path and Path(on_path).resolve().name == "pg_dump" else []
    folders += sorted(_DEBIAN.glob("*/bin")) if _DEBIAN.is_dir() else []
    folders += [bundled] if not tls and (bundled := embedded.installed_programs()) else []
    programs = [folder / "pg_dump" for folder in folders if (folder / "pg_restore").exists()]
    with ThreadPoolExecutor(max(1, len(programs))) as pool:
        for program, version in zip(programs, pool.map(version_of, programs), strict=True):
            if version:
                yield Programs(program.parent, version)


def find_server_folder(major: int) -> Path:
    """Find the programs of a server of a major version: those that it runs on, beside its client programs."""
    folders = [each.folder for each in _candidates(False) if each.major == major]
    for folder in folders:
        if all((folder / name).exists() for name in ("initdb", "pg_ctl", "postgres")):
            return folder
    raise ConfigurationError(
        f"this machine has no programs of a server of PostgreSQL {major}",
        detail="A scratch server is made with initdb, pg_ctl and postgres of the same major version.",
        hint=f"Install the package postgresql-{major} there, or rehearse elsewhere with --on=NAME.",
    )


def version_of(program: Path) -> str | None:
    """The version printed by a program of PostgreSQL, or None when the program does not run."""
    try:
        command, environ = [str(program), "--version"], plain_environment()
        process = subprocess.run(command, capture_output=True, text=True, check=False, env=environ, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\b(\d+(?:\.\d+)?)", process.stdout)
    return match[1] if match else None


@dataclass(frozen=True, slots=True)
class DumpOptions:
    """Options of pg_dump. Several `jobs` write a directory; a single job writes a custom archive to standard output."""

    form: Form
    compression: str
    jobs: int
    snapshot: str

    def arguments(self, programs: Programs) -> list[str]:
        # Before 16 --compress takes a level only, and gzip is the only method.
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
    programs: Programs, environ: Mapping[str, str], options: DumpOptions, write: Callable[[bytes], object]
) -> Iterator[Progress]:
    """Dump into a custom archive, passed to `write` in chunks. Yields what pg_dump has begun."""
    command = [programs.path("pg_dump"), *options.arguments(programs)]
    with running(command, environ) as program:
        while chunk := program.read():
            write(chunk)
            yield program.progress
        program.require_success()


def dump_into(programs: Programs, environ: Mapping[str, str], options: DumpOptions, folder: Path) -> Iterator[Progress]:
    """Dump by several workers into a new folder. Yields what pg_dump has begun."""
    command = [programs.path("pg_dump"), *options.arguments(programs), f"--jobs={options.jobs}", f"--file={folder}"]
    with running(command, environ) as program:
        yield from program.wait()


def dump_globals(programs: Programs, environ: Mapping[str, str], database: str) -> bytes:
    """Dump roles, without passwords, and tablespaces as SQL."""
    options = ("--globals-only", "--no-role-passwords", "--no-password", f"--database={_connection_string(database)}")
    return _output([programs.path("pg_dumpall"), *options], environ)


def dump_schema(
    programs: Programs,
    environ: Mapping[str, str],
    database: str,
    *without: str,
    privileges: bool = False,
    lock_timeout: int = 0,
) -> bytes:
    """Dump a database's schema as SQL in UTF-8, without owners and the tables `without`, which are quoted names.

    `lock_timeout` limits the wait for a table that another session has locked, in milliseconds; 0 does not.
    """
    options = ["--schema-only", "--no-owner", "--no-password", "--encoding=UTF8"]
    options += [] if privileges else ["--no-privileges"]
    options += [f"--lock-wait-timeout={lock_timeout}"] if lock_timeout else []
    options += [f"--exclude-table={name}" for name in without]
    return _output([programs.path("pg_dump"), *options, f"--dbname={_connection_string(database)}"], environ)


def dump_rows_and_schema(
    programs: Programs, environ: Mapping[str, str], database: str, schema: str, without_rows: Sequence[str]
) -> bytes:
    """Dump a database as SQL in UTF-8, without owners and one schema, and without the rows of some tables.

    `schema` and `without_rows` are quoted names.
    """
    options = ["--no-owner", "--no-password", "--encoding=UTF8", f"--exclude-schema={schema}"]
    options += [f"--exclude-table-data={name}" for name in without_rows]
    return _output([programs.path("pg_dump"), *options, f"--dbname={_connection_string(database)}"], environ)


def _output(command: Sequence[str], environ: Mapping[str, str]) -> bytes:
    with running(command, environ) as program:
        text = b"".join(iter(program.read, b""))
        program.require_success()
    return text


def _connection_string(database: str) -> str:
    """The database as a quoted connection string. A program would take a bare name with = or :// for one."""
    name = database.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{name}'"


@contextmanager
def reading_archive(programs: Programs, path: Path | None = None) -> Iterator[Callable[[bytes], object]]:
    """Let pg_restore read an archive to the end: the file or folder at `path`, or the chunks passed to the function.

    Raises ProgramFailed at the end of the block when the archive is damaged. Pass a path where possible: pg_restore
    reads a file faster than a pipe.
    """
    command = [programs.path("pg_restore"), "--file=/dev/null", *([str(path)] if path else ["--format=custom"])]
    with running(command, plain_environment(), has_input=path is None) as program:
        yield program.write
        for _ in program.wait():
            pass


@dataclass(frozen=True, slots=True)
class PgRestoreOptions:
    """Options of pg_restore. Without `owners` everything belongs to the restoring role.

    Without `subscriptions` none are restored. They name slots of the live database, and a database with a subscription
    cannot be dropped. Without `tablespaces` everything is in the default tablespace. `section` is all for an empty
    text. With `go_on`, pg_restore continues after an error.
    """

    database: str
    jobs: int = 1
    owners: bool = True
    subscriptions: bool = True
    tablespaces: bool = True
    section: str = ""
    go_on: bool = False

    def arguments(self) -> list[str]:
        """The arguments that select what is restored."""
        return [
            *([] if self.owners else ["--no-owner", "--no-privileges"]),
            *([] if self.subscriptions else ["--no-subscriptions"]),
            *([] if self.tablespaces else ["--no-tablespaces"]),
            *([f"--section={self.section}"] if self.section else []),
        ]


def restore(
    programs: Programs, environ: Mapping[str, str], options: PgRestoreOptions, content: Path | Iterator[bytes]
) -> Iterator[Progress]:
    """Restore an archive into an empty database. Yields what pg_restore has begun."""
    command = [programs.path("pg_restore"), *([] if options.go_on else ["--exit-on-error"])]
    command += ["--verbose", "--no-password", f"--dbname={_connection_string(options.database)}", *options.arguments()]
    if isinstance(content, Path):
        command += [f"--jobs={options.jobs}", str(content)]
    with running(command, environ, has_input=not isinstance(content, Path)) as program:
        for chunk in content if not isinstance(content, Path) else ():
            program.write(chunk)
            yield program.progress
        yield from program.wait()
