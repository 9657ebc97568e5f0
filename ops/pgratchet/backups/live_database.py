"""The database that a restore replaces. It may be damaged, so nothing in it is a condition for restoring it.

What can be read is read with time limits. Only the migration lock is waited for, so that no migration is running.
"""

from __future__ import annotations

import random
import time
from contextlib import closing, suppress

import psycopg

from pgratchet import events
from pgratchet.backups.manifest import Manifest
from pgratchet.backups.restore_server import RestoreServer
from pgratchet.database import blockers
from pgratchet.database import connection as sessions
from pgratchet.database.session import migration_lock_busy
from pgratchet.database.session_settings import session_settings
from pgratchet.errors import RatchetError

_READ_LIMITS = "SET statement_timeout = '5s'; SET lock_timeout = '2s'"


def migrations_since(server: RestoreServer, database: str, manifest: Manifest) -> tuple[tuple[str, ...], str]:
    """The migrations applied since a backup, by the live database's history; or why the history cannot be read."""
    try:
        with sessions.translate_errors(), closing(server.open_session(database)) as live:
            live.execute(_READ_LIMITS)
            applied = [row.name for row in server.history.read(live) if row.executed_at]
    except RatchetError as error:
        return (), f"{error.message}. {error.detail}".strip()
    return tuple(name for name in applied if name not in manifest.contents.history), ""


class MigrationLock:
    """The migration lock of the live database, held by a session of its own until `close`.

    A database that accepts no session cannot be migrated either, so its lock is not needed.
    """

    def __init__(self, server: RestoreServer, database: str) -> None:
        self._server, self._database = server, database
        self._session: psycopg.Connection | None = None

    def acquire(self, wait: int) -> events.Stream:
        """Poll for the lock for at most `wait` milliseconds. Raises LockBusy with the lock's holder."""
        with suppress(RatchetError, psycopg.Error):
            self._session = self._server.open_session(self._database)
        if self._session is None:
            return
        for setting in session_settings(self._session.info.server_version):
            self._session.execute(b"SET " + setting)
        key, deadline, is_announced = self._server.history.lock_key, time.monotonic() + wait / 1000, False
        while self._session.execute("SELECT pg_catalog.pg_try_advisory_lock(%s)", (key,)).fetchone() != (True,):
            holder = blockers.lock_holder(self._session, key)
            if time.monotonic() >= deadline:
                raise migration_lock_busy(holder, wait)
            if not is_announced:
                yield events.LockAwaited(holder)
                is_announced = True
            time.sleep(random.uniform(0.05, 0.6))  # noqa: S311  not a secret

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
