"""Checks what a run with a backup, and the restore after it, need from the server besides privileges on tables.

These are functions that hardened servers revoke from PUBLIC, sessions within the limits of role, database and server,
and the maintenance database.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from pgratchet.backups.restore_rights import missing_rights_of
from pgratchet.checks.findings import Finding
from pgratchet.database import queries

_RUN_FUNCTIONS = ("pg_current_xact_id()", "pg_try_advisory_lock(bigint)", "pg_try_advisory_xact_lock(bigint)")
_BACKUP_FUNCTIONS = ("pg_database_size(name)", "pg_export_snapshot()")


@dataclass(frozen=True, slots=True)
class Needs:
    """The needs of a run. `sessions` are those that a run has at once, including the one that holds the lock.

    From a database of `parallel_from` bytes on, a dump has sessions for so many `workers` too. `maintenance` is the
    database to restore from; empty when the run takes no backup that can be restored here. With `restores_elsewhere`
    the role of another environment restores. `roles` are those of the inventory, `app_user` that of the application.
    """

    sessions: int = 1
    workers: int = 0
    parallel_from: int = 0
    maintenance: str = ""
    restores_elsewhere: bool = False
    roles: tuple[str, ...] = ()
    app_user: str = ""


def check_functions(connection: psycopg.Connection, needs: Needs) -> Iterator[Finding]:
    """Find the functions that this role may not execute."""
    names = [f"pg_catalog.{name}" for name in (*_RUN_FUNCTIONS, *(_BACKUP_FUNCTIONS if needs.maintenance else ()))]
    for name, role in _query(connection, "functions", names=names):
        remedy = f"Have a superuser run GRANT EXECUTE ON FUNCTION {name} TO {role};"
        yield Finding("problem", "function", f"this role may not execute {name}", remedy)


def check_sessions(connection: psycopg.Connection, needs: Needs) -> Iterator[Finding]:
    """Compare the connection limits, and the sessions that are left within them, with the needs of a run."""
    is_parallel = needs.workers and _query(connection, "size")[0][0] >= needs.parallel_from
    needed = needs.sessions + (needs.workers if is_parallel else 0)
    for owner, limit, used, remedy in _query(connection, "limits"):
        purpose = f"a run with its backup needs {needed}"
        if limit < needed:
            what = f"{owner} may have {limit} sessions at once, and {purpose}"
            yield Finding("problem", "sessions", what, _with_limit(remedy, str(needed)))
        elif limit - used < needed - 1:  # one of those in use is this check's own
            what = f"{owner} has {used} of {limit} possible sessions in use, and {purpose}"
            yield Finding(
                "warning", "sessions", what, f"End some of them, or raise the limit: {_with_limit(remedy, '...')}"
            )


def _with_limit(remedy: str, limit: str) -> str:
    return remedy.replace(" LIMIT {};", f" LIMIT {limit};")  # a name may have braces


def check_maintenance(connection: psycopg.Connection, needs: Needs) -> Iterator[Finding]:
    """Check that a restore can connect to the maintenance database."""
    if not needs.maintenance:
        return
    row = _query(connection, "maintenance", name=needs.maintenance)[0]
    exists, allows_connections, may_connect, is_this_one, others, grant = row
    set_another = "Set pg_maintenance_dbname in the inventory to another database that this role can connect to"
    set_another += f", such as {others}." if others else "."
    reason = (
        "does not exist"
        if not exists
        else "accepts no connections"
        if not allows_connections
        else "cannot be connected to by this role"
        if not may_connect
        else ""
    )
    if reason:
        what = f"the maintenance database {needs.maintenance} {reason}, so nothing can be restored"
        also = f" Or run {grant};" if exists and not may_connect else ""
        yield Finding("problem", "maintenance", what, set_another + also)
    elif is_this_one:
        what = f"{needs.maintenance} is its own maintenance database: a restore can only go beside it, with --into"
        yield Finding("warning", "maintenance", what, set_another)


def check_restore(connection: psycopg.Connection, needs: Needs) -> Iterator[Finding]:
    """Find what this role could not restore of a backup that it takes."""
    if not needs.maintenance or needs.restores_elsewhere:
        return
    otherwise = "set restore_environment in the inventory to an environment whose role may."
    for right in missing_rights_of(connection):
        sentence = str(right).rstrip(".")
        what = f"this role cannot restore its backups alone: {sentence[0].lower()}{sentence[1:]}"
        granted = f"Have a superuser run `{right.statement}`, or {otherwise}"
        remedy = granted if right.statement else f"S{otherwise[1:]}"
        yield Finding("warning", "restore", what, remedy)
    names = [*needs.roles, *filter(None, [needs.app_user])]
    if rows := _query(connection, "unendable", names=names):
        others = ", ".join(other for other, _ in rows)
        what = f"this role may not end sessions of {others}: a restore waits until they end by themselves"
        yield Finding("warning", "restore", what, f"Have a superuser run {rows[0][1]}")


def check_roles(connection: psycopg.Connection, needs: Needs) -> Iterator[Finding]:
    """Find the roles of the inventory that the server lacks: grants to them would fail."""
    present = {name for (name,) in _query(connection, "roles")}
    for name in dict.fromkeys((*needs.roles, *filter(None, [needs.app_user]))):
        if name not in present:
            login = " LOGIN PASSWORD '...'" if name == needs.app_user else ""
            statement = sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)).as_string(connection)
            what = f'the role "{name}" of the inventory does not exist on this server'
            yield Finding("problem", "roles", what, f"Have a superuser run {statement}{login};")


def _query(connection: psycopg.Connection, name: str, /, **values: Any) -> list[tuple[Any, ...]]:
    return connection.execute(queries.load(__file__, "needs")[name].encode(), values).fetchall()
