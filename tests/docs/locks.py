"""`python -m tests.docs.locks`: write docs/reference/locks.md from traces of every kind of statement."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from pgratchet import embedded
from pgratchet.database.connection import connect
from pgratchet.rehearsal.lock_modes import STRENGTH
from pgratchet.rehearsal.report import StatementReport
from tests import ROOT
from tests.integration.rehearsal.statement_kinds import ALONE, KINDS, SCHEMA, trace
from tests.servers.databases import Database

PAGE = ROOT / "docs" / "reference" / "locks.md"
_HEAD = """# Locks of statements

The strongest lock that each statement takes on the tables and views that existed before it, and whether it reads or
rewrites one of them. The table is made by [rehearsals](../rehearsal.md) of these statements on PostgreSQL 18. The tests
compare them with `pg_locks` as another session sees it, on PostgreSQL 15 and 18. Locks on indexes are left out.

ACCESS EXCLUSIVE blocks reads and writes. EXCLUSIVE, SHARE ROW EXCLUSIVE and SHARE block writes. The others block no
application, but ROW EXCLUSIVE with changed rows blocks other writers of these rows
([PostgreSQL's table](https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-TABLES)).

`t` refers to `parent` and is referred to by `other`; `parts` is partitioned by `day`, and has a default partition.

| statement | locks | reads all of | rewrites |
|---|---|---|---|
"""


def page(database: Database, clone: Database) -> str:
    """The text of the page. `clone` is made anew from `database` for each statement."""
    return _HEAD + "".join(_rows(database, clone))


def _rows(template: Database, clone: Database) -> Iterator[str]:
    for sql in (*KINDS, *ALONE):
        with connect({**template.parameters, "dbname": "postgres"}) as admin:
            admin.execute(f'DROP DATABASE IF EXISTS "{clone.name}" WITH (FORCE)'.encode())
            admin.execute(f'CREATE DATABASE "{clone.name}" TEMPLATE "{template.name}"'.encode())
        yield _row(sql, trace(clone, sql, alone=sql in ALONE))


def _row(sql: str, report: StatementReport) -> str:
    modes: dict[str, str] = {}
    for lock in report.locks:
        if not lock.table:
            modes[lock.relation] = max(modes.get(lock.relation, lock.mode), lock.mode, key=STRENGTH.__getitem__)
    locks = sorted(modes.items(), key=lambda item: (-STRENGTH[item[1]], item[0]))
    cells = (
        ", ".join(f"{_short(name)}: {mode}" for name, mode in locks),
        ", ".join(sorted(_short(scan.relation) for scan in report.scans)),
        ", ".join(sorted(_short(rewrite.relation) for rewrite in report.rewrites)),
    )
    return f"| `{sql}` | {' | '.join(cells)} |\n".replace("|  |", "| |").replace("|  |", "| |")


def _short(name: str) -> str:
    return name.removeprefix("public.")


def main() -> int:
    with embedded.scratch() as server:
        parameters = {**server.parameters(), "dbname": "postgres"}
        with connect(parameters) as admin:
            admin.execute("CREATE DATABASE kinds")
        template = Database({**parameters, "dbname": "kinds"})
        template.run(SCHEMA)
        template.run("VACUUM ANALYZE")
        PAGE.write_text(page(template, Database({**parameters, "dbname": "kind"})), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
