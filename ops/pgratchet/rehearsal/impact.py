"""Predicts the locks and the reads of new migrations in a live database, from a trace and the sizes of the tables.

Locks, scans and rewrites do not depend on the number of rows, so the trace runs on empty tables of a scratch server.
The sizes come from a backup or a file: no check of a merge needs a login to production.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import psycopg

from pgratchet import events
from pgratchet.backups.manifest import TableSize
from pgratchet.errors import ConfigurationError
from pgratchet.migrations.scripts import Script
from pgratchet.rehearsal.lock_modes import STRENGTH, Blocked, blocked_by
from pgratchet.rehearsal.report import Changes, Rewrite, Scan, StatementReport
from pgratchet.rehearsal.sizes import Sizes, estimate_ms
from pgratchet.rehearsal.trace import StatementFailed, Trace

LARGE = 10_000_000
"""Bytes from which a table is worth a word: an application does not notice work on a smaller one."""


@dataclass(frozen=True, slots=True)
class Impact:
    """The impact of a statement on a table of the live database.

    `blocks` is None where no application is blocked. `estimate_ms` is None without a rehearsal of such work.
    `waits_too` are the tables blocked earlier by the same transaction: each waits as long.
    """

    migration: str
    path: str
    line: int
    text: str
    relation: str
    mode: str
    blocks: Blocked | None
    size: TableSize
    is_rewritten: bool
    is_read: bool
    estimate_ms: float | None
    waits_too: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        """One sentence, for tools with a line for each finding."""
        work = ["rewrites it"] * self.is_rewritten + ["reads all of it"] * (self.is_read and not self.is_rewritten)
        blocked = {"reads": "blocks reads and writes", "writes": "blocks writes"}.get(self.blocks or "", "")
        parts = [f"takes {self.mode} on {self.relation}", *filter(None, [blocked]), *work]
        return (
            f"{', '.join(parts)} ({(self.size.bytes + self.size.index_bytes) / 1e6:,.0f} MB, {self.size.rows:,} rows)"
        )


def trace_scripts(connect: Callable[[], psycopg.Connection], scripts: Sequence[Script]) -> list[StatementReport]:
    """Run scripts in a database after all earlier files, and return the effects of the statements."""
    trace = Trace(connect, scripts)
    try:
        events.drain(trace.run())
    except StatementFailed as failed:
        raise ConfigurationError(
            f"{failed.script.name} cannot be traced on the scratch server",
            detail=f"{failed.error.diag.message_primary or failed.error}.",
            hint="It was applied there before. What it made outside the database may be in its way, such as a role. "
            "Leave out --sizes.",
        ) from failed
    return trace.statements


def find_impacts(statements: Sequence[StatementReport], scripts: Sequence[Script], sizes: Sizes) -> Iterator[Impact]:
    """Yield the impacts of traced statements on large tables, in order.

    The locks of a script end with the transaction, or with each statement of a script without one.
    """
    by_name = {script.name: script for script in scripts}
    modes: dict[str, str] = {}
    migration = ""
    for statement in statements:
        script = by_name[statement.migration]
        if script.name != migration or not script.directives.transactional:
            modes, migration = {}, script.name
        blocked = [name for name, mode in modes.items() if blocked_by(mode)]
        modes = _strongest(modes, statement)
        for relation in _touched(statement):
            size = sizes.tables.get(relation)
            if size and size.bytes + size.index_bytes >= LARGE and _is_worth_a_word(statement, relation):
                yield Impact(
                    script.name,
                    script.migration.path,
                    statement.line,
                    statement.text,
                    relation,
                    modes.get(relation, "ACCESS SHARE"),
                    blocked_by(modes.get(relation, "ACCESS SHARE")),
                    size,
                    _concerns(statement.rewrites, relation),
                    _concerns(statement.scans, relation),
                    estimate_ms(statement, sizes),
                    tuple(name for name in blocked if name != relation),
                )


def _strongest(modes: Mapping[str, str], statement: StatementReport) -> dict[str, str]:
    """The strongest mode on each table, with the locks of one more statement."""
    result = dict(modes)
    for lock in statement.locks:
        name = lock.table or lock.relation
        result[name] = max(result.get(name, lock.mode), lock.mode, key=STRENGTH.__getitem__)
    return result


def _touched(statement: StatementReport) -> dict[str, None]:
    """The tables with locks, scans, rewrites or changes by a statement, each once."""
    work: tuple[Scan | Rewrite | Changes, ...] = (*statement.scans, *statement.rewrites, *statement.changes)
    return dict.fromkeys(
        [*(lock.table or lock.relation for lock in statement.locks), *(each.relation for each in work)]
    )


def _is_worth_a_word(statement: StatementReport, relation: str) -> bool:
    """Return whether a statement begins to block a table, or works on all rows."""
    new_modes = (lock.mode for lock in statement.locks if relation in (lock.table, lock.relation))
    return any(map(blocked_by, new_modes)) or _concerns((*statement.rewrites, *statement.scans), relation)


def _concerns(work: Iterable[Rewrite | Scan], relation: str) -> bool:
    return any(each.relation == relation for each in work)
