"""PgBouncer in front of one database."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pgratchet import embedded
from tests.requirements import require
from tests.servers.databases import Database

ROOT = os.geteuid() == 0


@dataclass
class PgBouncer:
    """A PgBouncer on its own Unix socket."""

    folder: Path
    user: str | None
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        user = {"user": self.user} if self.user else {}
        self.processes.append(subprocess.Popen([require("pgbouncer"), "-q", str(self.folder / "ini")], **user))  # type: ignore[call-overload]
        deadline = time.monotonic() + 10
        while not self._listens():
            assert time.monotonic() < deadline, "PgBouncer did not start"
            time.sleep(0.02)

    def _listens(self) -> bool:
        """Whether it accepts connections: the socket is there a moment before."""
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.folder / ".s.PGSQL.6432")) == 0

    def kill(self) -> None:
        self.processes[-1].kill()
        self.processes[-1].wait(10)
        for path in self.folder.glob(".s.PGSQL.*"):
            path.unlink()
        (self.folder / "pid").unlink(missing_ok=True)


StartPooler = Callable[..., tuple[Database, PgBouncer]]


@contextmanager
def running_pgbouncer(
    parameters: dict[str, str], size: int, mode: str = "transaction"
) -> Iterator[tuple[Database, PgBouncer]]:
    folder = Path(tempfile.mkdtemp(prefix="pgratchet-bouncer-"))
    local = parameters["host"].startswith("/")
    user = (embedded.SYSTEM_USER if local else "postgres") if ROOT else None
    (folder / "users").write_text(f'"{parameters["user"]}" "{parameters.get("password", "")}"\n')
    (folder / "ini").write_text(
        "[databases]\n"
        f"* = host={parameters['host']} port={parameters['port']}\n"
        f"[pgbouncer]\npool_mode = {mode}\nlisten_addr =\nlisten_port = 6432\n"
        f"default_pool_size = {size}\nunix_socket_dir = {folder}\npidfile = {folder}/pid\n"
        f"auth_type = trust\nauth_file = {folder}/users\nlogfile = {folder}/log\n"
    )
    for path in (folder, *folder.iterdir()):
        shutil.chown(path, user or os.getuid())
    running = PgBouncer(folder, user)
    try:
        running.start()
        yield Database({**parameters, "host": str(folder), "port": "6432"}), running
    finally:
        running.kill()
        shutil.rmtree(folder)
