"""PgBouncer in front of the server: noticed before the lock, which would stay behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops import applier
from ops.applier import Options
from ops.errors import ConfigurationError
from ops.history import Ledger
from tests.conftest import Database, Write

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@pytest.fixture
def pooled(database: Database) -> Iterator[Database]:
    """The test's database through a PgBouncer in transaction mode, on a Unix socket of its own."""
    if PGBOUNCER is None:
        pytest.skip("no pgbouncer here: apt-get install pgbouncer")
    if database.parameters["host"].startswith("/"):
        pytest.skip("PgBouncer's user cannot reach the embedded server's folder")
    folder = Path(tempfile.mkdtemp(prefix="pgratchet-bouncer-"))
    given = database.parameters
    (folder / "users").write_text(f'"{given["user"]}" "{given.get("password", "")}"\n')
    (folder / "ini").write_text(
        "[databases]\n"
        f"* = host={given['host']} port={given['port']}\n"
        "[pgbouncer]\npool_mode = transaction\nlisten_addr =\nlisten_port = 6432\n"
        f"unix_socket_dir = {folder}\nauth_type = trust\nauth_file = {folder}/users\nlogfile = {folder}/log\n"
    )
    for path in (folder, *folder.iterdir()):
        shutil.chown(path, "postgres" if os.geteuid() == 0 else os.getuid())
    user = {"user": "postgres"} if os.geteuid() == 0 else {}
    process = subprocess.Popen([PGBOUNCER, "-q", str(folder / "ini")], **user)  # type: ignore[call-overload]
    through = Database({**given, "host": str(folder), "port": "6432"})
    try:
        _wait_for(folder / ".s.PGSQL.6432")
        yield through
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder)


def _wait_for(socket_file: Path) -> None:
    deadline = time.monotonic() + 10
    while not socket_file.exists():
        assert time.monotonic() < deadline, "PgBouncer did not start"
        time.sleep(0.05)


def test_a_pooler_is_refused_before_the_lock(database: Database, pooled: Database, write: Write) -> None:
    with pooled.connect() as one:
        one.execute("SELECT pg_advisory_lock(7)")
    assert database.rows("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(1,)], "it stays behind"
    files = write(m1_a="create table a ()")
    before = database.rows("SELECT to_regclass('a'), to_regnamespace('ratchet')")
    with pytest.raises(ConfigurationError, match="through a connection pooler"):
        list(applier.migrate(pooled.connect, Ledger(), files, None, Options("run")))
    assert database.rows("SELECT to_regclass('a'), to_regnamespace('ratchet')") == before
    assert database.rows("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(1,)]
