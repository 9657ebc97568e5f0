"""Says what new migrations will lock and read in a live database, from a trace on a scratch server and its sizes.

Locks, scans and rewrites do not depend on the number of rows, so the trace runs on empty tables. The sizes come from a
backup or a file, so that no check of a merge needs a login to production.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pgratchet.backups.manifest import TableSize
from pgratchet.errors import ConfigurationError
from pgratchet.migrations.files import Migration
from pgratchet.migrations.scripts import prepare_scripts
from pgratchet.rehearsal.lock_modes import STRENGTH, Blocked, blocked_by
from pgratchet.rehearsal.sizes import Sizes, estimate_ms
from pgratchet.rehearsal.trace import StatementFailed, Trace

LARGE = 10_000_000
"""Bytes from which a table is worth a word: an application does not notice work on a smaller one."""


@dataclass(frozen=True, slots=True)
class Impact:
    """The impact of a statement on a table of the live database.

    `blocks` is None for a table that is only read. `estimate_ms` is None where nothing like it was rehearsed.
    `waits_too` are the tables that the same transaction has blocked before, and that wait as long.
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
        """One sentence, for tools that show a finding in a line."""
        work = ["rewrites it"] * self.is_rewritten + ["reads all of it"] * (self.is_read and not self.is_rewritten)
        blocked = {"reads": "blocks reads and writes", "writes": "blocks writes"}.get(self.blocks or "", "")
        parts = [f"takes {self.mode} on {self.relation}", *filter(None, [blocked]), *work]
        return (
            f"{', '.join(parts)} ({(self.size.bytes + self.size.index_bytes) / 1e6:,.0f} MB, {self.size.rows:,} rows)"
        )


def find_impacts(trace: Trace, files: Sequence[Migration], sizes: Sizes) -> list[Impact]:
    """Run the trace, and return the impacts of its statements on large tables, in their order."""
    try:
        for _ in trace.run():
            pass
    except StatementFailed as failed:
        raise ConfigurationError(
            f"{failed.script.name} cannot be traced on the scratch server",
            detail=f"{failed.error.diag.message_primary or failed.error}.",
            hint="It was applied there before. What it made outside the database may be in its way, such as a role. "
            "Leave out --sizes.",
        ) from failed
    paths = {file.name: file.path for file in files}
    alone = {script.name for script in trace.scripts if not script.directives.transactional}
    return list(_impacts([asdict(each) for each in trace.statements], paths, alone, sizes))


def new_trace(connect: Any, files: Sequence[Migration]) -> Trace:
    """A trace of new files in a database that has run those before them."""
    return Trace(connect, prepare_scripts(files))


def _impacts(
    statements: Sequence[Mapping[str, Any]], paths: Mapping[str, str], alone: Collection[str], sizes: Sizes
) -> Iterator[Impact]:
    """Yield the impacts. `alone` are the migrations without a transaction, whose locks end with each statement."""
    modes: dict[str, str] = {}
    file = ""
    for statement in statements:
        if statement["migration"] != file or file in alone:
            modes, file = {}, statement["migration"]
        blocked = [name for name, mode in modes.items() if blocked_by(mode)]
        modes = _strongest(modes, statement)
        took = estimate_ms(_counted(statement), sizes)
        for relation in _touched(statement):
            size, mode = sizes.tables.get(relation), modes.get(relation, "ACCESS SHARE")
            if size and size.bytes + size.index_bytes >= LARGE and _is_worth_a_word(statement, relation):
                yield _impact(statement, paths[file], relation, mode, size, took, blocked)


def _counted(statement: Mapping[str, Any]) -> dict[str, Any]:
    changed = sum(each["inserted"] + each["updated"] + each["deleted"] for each in statement["changes"])
    return {**statement, "rows_changed": changed}


def _strongest(modes: Mapping[str, str], statement: Mapping[str, Any]) -> dict[str, str]:
    """The strongest mode on each table, with the locks that a statement took."""
    result = dict(modes)
    for lock in statement["locks"]:
        name = lock["table"] or lock["relation"]
        result[name] = max(result.get(name, lock["mode"]), lock["mode"], key=STRENGTH.__getitem__)
    return result


def _touched(statement: Mapping[str, Any]) -> dict[str, None]:
    """The tables that a statement locks, scans, rewrites or changes, each once."""
    locked = [lock["table"] or lock["relation"] for lock in statement["locks"]]
    worked_on = [each["relation"] for what in ("scans", "rewrites", "changes") for each in statement[what]]
    return dict.fromkeys([*locked, *worked_on])


def _is_worth_a_word(statement: Mapping[str, Any], relation: str) -> bool:
    """Return whether a statement begins to block a table, or works on all of it."""
    new_modes = (lock["mode"] for lock in statement["locks"] if relation in (lock["table"], lock["relation"]))
    is_blocking = any(blocked_by(mode) for mode in new_modes)
    return is_blocking or _does(statement, "rewrites", relation) or _does(statement, "scans", relation)


def _does(statement: Mapping[str, Any], what: str, relation: str) -> bool:
    return any(each["relation"] == relation for each in statement[what])


def _impact(
    statement: Mapping[str, Any],
    path: str,
    relation: str,
    mode: str,
    size: TableSize,
    took: float | None,
    waits_too: Sequence[str],
) -> Impact:
    return Impact(
        statement["migration"],
        path,
        statement["line"],
        statement["text"],
        relation,
        mode,
        blocked_by(mode),
        size,
        _does(statement, "rewrites", relation),
        _does(statement, "scans", relation),
        took,
        tuple(name for name in waits_too if name != relation),
    )
