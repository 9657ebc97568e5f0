"""The server that a test run brings along, kept by a process of its own for as long as anyone of the run lives.

The workers of a run each hold a shared lock on one file; the keeper waits for it exclusively, and then removes
the server. The system drops a lock with its process, so that an interrupt and a `kill -9` end the server as the
end of the run does, and no worker has to know whether it is the last.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pgratchet.errors import ConfigurationError, Unreachable

KINDS = ("url", "docker", "embedded")
_PATIENCE = 120.0
"""Seconds: an image may have to be pulled."""
_HASTE = ("fsync = off", "full_page_writes = off", "synchronous_commit = off", "autovacuum = off")
"""What only a server may have whose data is thrown away."""


@contextmanager
def lock(file: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock on a file, which is made where it is missing."""
    import fcntl

    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def server(kind: str, folder: Path, *, alone: bool) -> Iterator[Mapping[str, str]]:
    """How to connect to the run's server. `folder` is shared by the run's workers; who is `alone` sees it end."""
    chosen = kind or ("url" if os.environ.get("TEST_DATABASE_URL") else "embedded")
    if chosen not in KINDS:
        raise ConfigurationError(
            f'"{chosen}" is no server for tests',
            hint=f"Give pgratchet_server one of {', '.join(KINDS)}, or leave it out.",
        )
    if chosen == "url":
        yield _given()
        return
    answer = folder / "pgratchet-server.json"
    with lock(folder / "pgratchet-holders.lock", shared=True):
        with lock(folder / "pgratchet-start.lock"):
            parameters = _started(chosen, folder, answer)
        yield parameters
    if alone:
        _await(lambda: not answer.exists(), "end")


def _given() -> Mapping[str, str]:
    from pgratchet.database.connection import parse_url

    url = os.environ.get("TEST_DATABASE_URL")
    if not url:
        raise ConfigurationError(
            "there is no TEST_DATABASE_URL", hint="Set it, or leave pgratchet_server out for the embedded server."
        )
    return {"host": "localhost", "port": "5432", "dbname": "postgres", **parse_url(url)}


def _started(kind: str, folder: Path, answer: Path) -> Mapping[str, str]:
    if not answer.exists():
        # It detaches itself, so that neither an interrupt at the terminal nor the end of a worker reaches it.
        command = [sys.executable, "-m", "pgratchet.testing.server", kind, str(folder)]
        subprocess.run(command, check=True, start_new_session=True, cwd=Path(__file__).parents[2])
        _await(answer.exists, "start")
    said: dict[str, str] = json.loads(answer.read_text())
    if "error" in said:
        answer.unlink()
        raise Unreachable("the test server did not start", detail=said["error"], hint="Set TEST_DATABASE_URL instead.")
    return said


def _await(holds: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + _PATIENCE
    while not holds():
        if time.monotonic() > until:
            told = f"It was waited for {_PATIENCE:.0f} s."
            raise Unreachable(f"the test server did not {what}", detail=told, hint="Run the tests again.")
        time.sleep(0.02)


@contextmanager
def _embedded() -> Iterator[dict[str, str]]:
    from pgratchet import embedded
    from pgratchet.database import connection

    with embedded.scratch() as made:
        parameters = {**made.parameters(), "dbname": "postgres"}
        with connection.connect(parameters) as session:
            for setting in _HASTE:
                session.execute(f"ALTER SYSTEM SET {setting}".encode())
            session.execute(b"SELECT pg_reload_conf()")
        yield parameters


@contextmanager
def _docker() -> Iterator[dict[str, str]]:
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")  # this process is the reaper
    from testcontainers.community.postgres import PostgresContainer

    image = os.environ.get("PGRATCHET_TEST_IMAGE", "postgres:18")
    with PostgresContainer(image, username="postgres", password="test", dbname="postgres") as made:  # noqa: S106
        host, port = made.get_container_host_ip(), str(made.get_exposed_port(5432))
        yield {"host": host, "port": port, "user": "postgres", "password": "test", "dbname": "postgres"}


def _tell(answer: Path, said: Mapping[str, str]) -> None:
    draft = answer.with_suffix(".partial")
    draft.touch(0o600)
    draft.write_text(json.dumps(said))
    draft.rename(answer)


def _keep(kind: str, folder: Path) -> None:
    answer = folder / "pgratchet-server.json"
    try:
        with (_docker if kind == "docker" else _embedded)() as parameters:
            _tell(answer, parameters)
            with lock(folder / "pgratchet-holders.lock"):
                pass
    except Exception as error:  # noqa: BLE001 - whoever waits is told, and says it
        _tell(answer, {"error": str(error)})
    else:
        answer.unlink(missing_ok=True)


if __name__ == "__main__":
    if os.fork() == 0:
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silence, stream)
        _keep(sys.argv[1], Path(sys.argv[2]))
