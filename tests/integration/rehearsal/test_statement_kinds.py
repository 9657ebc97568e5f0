"""The report of each kind of statement equals what an independent session sees in pg_locks, and the file nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgratchet.rehearsal.lock_modes import MODES
from tests.integration.rehearsal.statement_kinds import ALONE, KINDS, SCHEMA, trace
from tests.servers.databases import Database, Server

_RELATIONS = """
SELECT c.oid::bigint, quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.relkind::text
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid >= 16384 AND n.nspname <> 'pg_toast'
"""
_NODES = "SELECT oid::bigint, relfilenode::bigint FROM pg_class WHERE oid >= 16384 AND relkind IN ('r', 'm')"
_LOCKS = """
SELECT relation::bigint, mode FROM pg_locks WHERE pid = %s AND locktype = 'relation' AND relation >= 16384 AND granted
"""


@pytest.fixture(scope="module")
def template(server: Server) -> Iterator[Database]:
    database = server.create()
    database.run(SCHEMA)
    database.run("VACUUM ANALYZE")
    yield database
    server.drop(database)


@pytest.fixture
def database(server: Server, template: Database) -> Iterator[Database]:
    database = server.create(template.name)
    yield database
    server.drop(database)


def seen_by_others(database: Database, sql: str) -> tuple[set[tuple[str, str]], set[str]]:
    """Locks and rewritten relations of a statement, by a session of its own, and by the catalog."""
    with database.connect() as worker, database.connect() as other:
        relations = {oid: name for oid, name, _ in other.execute(_RELATIONS.encode()).fetchall()}
        before: dict[int, int] = dict(other.execute(_NODES.encode()).fetchall())
        worker.execute("BEGIN")
        worker.execute(sql.encode())
        locks = other.execute(_LOCKS.encode(), (worker.info.backend_pid,)).fetchall()
        after: dict[int, int] = dict(worker.execute(_NODES.encode()).fetchall())
        worker.execute("ROLLBACK")
    named = {(relations[oid], MODES[mode]) for oid, mode in locks if oid in relations}
    return named, {relations[oid] for oid, node in after.items() if oid in before and before[oid] != node}


@pytest.mark.parametrize("sql", KINDS)
def test_locks_and_rewrites_are_those_that_others_see(database: Database, sql: str) -> None:
    locks, rewrites = seen_by_others(database, sql)
    report = trace(database, sql)
    assert {(lock.relation, lock.mode) for lock in report.locks} == locks
    assert {rewrite.relation for rewrite in report.rewrites} == rewrites


@pytest.mark.parametrize("sql", ALONE)
def test_locks_of_a_statement_that_runs_alone_are_those_of_the_documentation(database: Database, sql: str) -> None:
    report = trace(database, sql, alone=True)
    assert {(lock.relation, lock.mode) for lock in report.locks} >= ALONE[sql]
    assert {rewrite.relation for rewrite in report.rewrites} == ({"public.t"} if "FULL" in sql else set())
