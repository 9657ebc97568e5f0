"""Checks the migration files against the history."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pgratchet.checks.findings import Finding, collecting
from pgratchet.formatting import format_count
from pgratchet.migrations import lexer, scripts
from pgratchet.migrations.files import Migration
from pgratchet.migrations.plan import HistoryRow, State, make_plan, require_agreement

_CREATE_EXTENSION = re.compile(rb'CREATE\s+EXTENSION\s+(?:IF\s+NOT\s+EXISTS\s+)?("(?:[^"]|"")+"|[\w$]+)', re.IGNORECASE)
_COUNTED: tuple[State, ...] = ("applied", "pending")


def check_files(files: Sequence[Migration], history: Sequence[HistoryRow]) -> Iterator[Finding]:
    """Check the agreement of files and history, unfinished files, and mistakes in pending files."""
    plan = make_plan(files, history)
    findings: list[Finding] = []
    with collecting(findings, "history"):
        require_agreement(plan, {})
    with collecting(findings, "files"):
        scripts.prepare_plan(plan)
    yield from findings
    for name in plan.names("unfinished"):
        what = f"{name} has no transaction, and stopped between its statements"
        yield Finding(
            "warning", "history", what, "`invoke migrate` resumes it at the first statement that is not done."
        )
    counts = [f"{len(plan.names(state))} {state}" for state in _COUNTED]
    if plan.repeatables.todo:
        counts.append(f"{format_count(len(plan.repeatables.todo), 'repeatable')} to run")
    yield Finding("ok", "history", ", ".join(counts))


def pending_files(files: Sequence[Migration], history: Sequence[HistoryRow]) -> tuple[Migration, ...]:
    """The files to be applied by a run."""
    return tuple(make_plan(files, history).todo)


def created_extensions(files: Sequence[Migration]) -> tuple[str, ...]:
    """The names of the extensions created by the migrations, without duplicates."""
    names: dict[str, None] = {}
    for migration in files:
        text = migration.text()
        if b"extension" in text.lower():
            names |= dict.fromkeys(_extensions_in(text))
    return tuple(names)


def _extensions_in(text: bytes) -> Iterator[str]:
    for statement in lexer.split_statements(text):
        if match := _CREATE_EXTENSION.match(text[statement.start : statement.end]):
            name = match[1].decode()
            yield name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()
