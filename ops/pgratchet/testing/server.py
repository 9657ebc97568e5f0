"""Runs the server of a test run in a process of its own, the keeper, until every worker of the run has ended.

Each worker holds a shared lock on a file. The keeper waits for the exclusive lock on the same file and then stops the
server. The operating system releases a process's locks when the process ends, so the server also ends after an
interrupt or a `kill -9`, and no worker needs to know about the others.

The keeper holds the exclusive lock until the server is stopped and the answer file is deleted. A worker that starts
meanwhile waits for its shared lock, finds no answer file and starts a new keeper.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from pgratchet.errors import ConfigurationError, Unreachable

KINDS = ("url", "docker", "embedded")
_TIMEOUT = 120.0
"""Seconds that a server may take to start or end. Docker may have to pull an image."""
_FAST_SETTINGS = ("fsync = off", "full_page_writes = off", "synchronous_commit = off", "autovacuum = off")
"""Settings that are safe only when a server's data is thrown away."""
_ANSWER = "pgratchet-server.json"
"""The name of the file with the server's libpq parameters, or with the error that prevented its start."""
_WORKERS_LOCK = "pgratchet-workers.lock"
_START_LOCK = "pgratchet-start.lock"

OpenServer = Callable[[], AbstractContextManager[Mapping[str, str]]]


@contextmanager
def file_lock(file: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock on a file, which is created when it is missing."""
    import fcntl

    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def running_server(kind: str, folder: Path, *, alone: bool) -> Iterator[Mapping[str, str]]:
    """The libpq parameters of the run's server. `folder` is shared by the run's workers.

    A process that runs `alone`, without other workers, waits at the end until the server has stopped.
    """
    chosen = kind or ("url" if os.environ.get("TEST_DATABASE_URL") else "embedded")
    if chosen not in KINDS:
        raise ConfigurationError(
            f'"{chosen}" is not a kind of test server',
            hint=f"Give pgratchet_server one of {', '.join(KINDS)}, or omit it.",
        )
    if chosen == "url":
        yield _parameters_from_url()
        return
    with shared_server(folder, lambda: _start_keeper(chosen, folder)) as parameters:
        yield parameters
    if alone:
        _wait_until(lambda: not (folder / _ANSWER).exists(), "end")


def _parameters_from_url() -> Mapping[str, str]:
    from pgratchet.config.url import parameters_from_url

    url = os.environ.get("TEST_DATABASE_URL")
    if not url:
        raise ConfigurationError(
            "there is no TEST_DATABASE_URL", hint="Set it, or omit pgratchet_server to use the bundled server."
        )
    return {"host": "localhost", "port": "5432", "dbname": "postgres", **parameters_from_url(url, "TEST_DATABASE_URL")}


@contextmanager
def shared_server(folder: Path, start_keeper: Callable[[], object]) -> Iterator[Mapping[str, str]]:
    """The libpq parameters of the server that the workers with this folder share. The first worker starts a keeper."""
    with file_lock(folder / _WORKERS_LOCK, shared=True):
        with file_lock(folder / _START_LOCK):
            parameters = _start_or_join(folder / _ANSWER, start_keeper)
        yield parameters


def _start_or_join(answer: Path, start_keeper: Callable[[], object]) -> Mapping[str, str]:
    if not answer.exists():
        start_keeper()
        _wait_until(answer.exists, "start")
    parameters: dict[str, str] = json.loads(answer.read_text())
    if "error" in parameters:
        answer.unlink()
        detail = parameters["error"]
        raise Unreachable("the test server did not start", detail=detail, hint="Set TEST_DATABASE_URL instead.")
    return parameters


def _start_keeper(kind: str, folder: Path) -> None:
    # In a session of its own, neither an interrupt at the terminal nor the end of a worker ends the keeper.
    command = [sys.executable, "-m", "pgratchet.testing.server", kind, str(folder)]
    subprocess.run(command, check=True, start_new_session=True, cwd=Path(__file__).parents[2])


def _wait_until(condition: Callable[[], bool], verb: str) -> None:
    deadline = time.monotonic() + _TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            detail = f"It was waited for {_TIMEOUT:.0f} s."
            raise Unreachable(f"the test server did not {verb}", detail=detail, hint="Run the tests again.")
        time.sleep(0.02)


def keep(open_server: OpenServer, folder: Path) -> None:
    """Run a server until every worker has ended. An error of the server becomes the answer."""
    answer = folder / _ANSWER
    with ExitStack() as until_answer_is_deleted:
        try:
            with open_server() as parameters:
                _write(answer, parameters)
                until_answer_is_deleted.enter_context(file_lock(folder / _WORKERS_LOCK))
        except Exception as error:  # noqa: BLE001  the worker that waits for the answer reports the error
            _write(answer, {"error": str(error)})
        else:
            answer.unlink(missing_ok=True)


def _write(answer: Path, content: Mapping[str, str]) -> None:
    """Write the answer atomically, readable by this user alone because of the password."""
    draft = answer.with_suffix(".partial")
    draft.touch(0o600)
    draft.write_text(json.dumps(dict(content)))
    draft.rename(answer)


@contextmanager
def _bundled_server() -> Iterator[Mapping[str, str]]:
    from pgratchet import embedded
    from pgratchet.database import connection

    with embedded.scratch() as server:
        parameters = {**server.parameters(), "dbname": "postgres"}
        with connection.connect(parameters) as session:
            for setting in _FAST_SETTINGS:
                session.execute(f"ALTER SYSTEM SET {setting}".encode())
            session.execute(b"SELECT pg_reload_conf()")
        yield parameters


def _docker_server() -> AbstractContextManager[Mapping[str, str]]:
    return docker_server(os.environ.get("PGRATCHET_TEST_IMAGE", "postgres:18"))


@contextmanager
def docker_server(image: str) -> Iterator[Mapping[str, str]]:
    """Run a server of a Docker image for the block. Yields its libpq parameters."""
    # This process removes the container itself, so testcontainers need not start its own reaper.
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    from testcontainers.community.postgres import PostgresContainer

    with PostgresContainer(image, username="postgres", password="test", dbname="postgres") as container:  # noqa: S106
        host, port = container.get_container_host_ip(), str(container.get_exposed_port(5432))
        yield {"host": host, "port": port, "user": "postgres", "password": "test", "dbname": "postgres"}


def _main(kind: str, folder: Path) -> None:
    """Detach from the worker that started this process, and keep a server."""
    if os.fork() == 0:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        keep(_docker_server if kind == "docker" else _bundled_server, folder)


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
