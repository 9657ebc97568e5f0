"""Finds databases that restores kept, and those that killed restores, drills and CI checks left behind."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import psycopg
from psycopg import sql

from pgratchet.backups.kept_databases import list_kept_databases
from pgratchet.backups.restore_server import RestoreServer
from pgratchet.checks.findings import Finding
from pgratchet.database import queries
from pgratchet.database.connection import translate_errors
from pgratchet.formatting import format_size

_CLOSING = 0.5
"""Seconds that a closed session may take to end on the server."""
_RESTORED = re.compile(r"_restore_[0-9]{14}$")


def find_leftovers(server: RestoreServer, database: str, environment: str) -> Iterator[Finding]:
    """Find the databases on the server of a live database. Raises RatchetError when the server cannot be asked."""
    names = list_kept_databases(server, database)
    with translate_errors(), closing(server.open_session(server.maintenance)) as maintenance:
        rows = _query(maintenance, "databases", names=list(names))
        has_runs = bool(rows) and _has_runs(maintenance)
        for name, is_scratch, size, pids in rows:
            what = f'the database "{name}"{f" of {format_size(int(size))}" if size is not None else ""}'
            if not is_scratch and not _RESTORED.search(name):
                remedy = f"When you no longer need it, run `invoke restore --env={environment} --drop-old`."
                yield Finding("ok", "databases", f"{what} is the old one of a restore", remedy)
            elif has_runs:
                yield Finding("ok", "databases", f"{what} is a copy, and a run of pgratchet is using this server")
            else:
                remedy = _remedy(maintenance, name, pids)
                if not is_scratch:
                    remedy += f" `invoke restore --env={environment} --continue` uses one that was restored whole."
                yield Finding("warning", "databases", _describe(what, pids), remedy)


def _has_runs(maintenance: psycopg.Connection) -> bool:
    """Return whether a run is using the server. A session that this process has just closed may still be ending."""
    deadline = time.monotonic() + _CLOSING
    while has_runs := bool(_query(maintenance, "runs")[0][0]):
        if time.monotonic() >= deadline:
            break
        time.sleep(_CLOSING / 10)
    return has_runs


def _describe(what: str, pids: Sequence[int] | None) -> str:
    sessions = f", and {', '.join(f'pid {pid}' for pid in pids)} is still connected to it" if pids else ""
    return f"{what} is a copy that was left behind by a run{sessions}"


def _remedy(maintenance: psycopg.Connection, name: str, pids: Sequence[int] | None) -> str:
    statement = sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)).as_string(maintenance)
    return f"If you do not need it, run {statement}{' WITH (FORCE)' if pids else ''};"


def _query(connection: psycopg.Connection, name: str, /, **values: Any) -> list[tuple[Any, ...]]:
    return connection.execute(queries.load(__file__, "leftovers")[name].encode(), values).fetchall()
