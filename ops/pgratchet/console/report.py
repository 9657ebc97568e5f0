"""Results, shown to people or to programs.

Owns the words of every result. Data goes to stdout, talk to stderr; colour and drawn tables only on a terminal,
where NO_COLOR and TERM=dumb are honoured. Refuses to decide anything. What moves while a run goes on is drawn
in progress.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import IO, TYPE_CHECKING, Any

from pgratchet.console import commands
from pgratchet.errors import ConfigurationError, RatchetError
from pgratchet.formatting import abbreviate_names, format_count, format_duration, format_size

if TYPE_CHECKING:
    from pgratchet.adopt.adoption import Adoption
    from pgratchet.adopt.matching import AdoptionItem
    from pgratchet.backups.drill_records import DrillRecord
    from pgratchet.backups.listing import BackupEntry
    from pgratchet.backups.manifest import Manifest
    from pgratchet.backups.restore import RestorePreview
    from pgratchet.checks.doctor import Finding
    from pgratchet.console.result import RunResult
    from pgratchet.migrations.plan import Entry, Plan
    from pgratchet.operations.protocol import RunInfo

_COLOURS = {
    "applied": "green",
    "complete": "green",
    "pending": "yellow",
    "changed": "red",
    "missing": "red",
    "out-of-order": "red",
    "unfinished": "red",
    "ok": "green",
    "warning": "yellow",
    "problem": "red",
    "verified": "green",
    "claimed": "yellow",
    "rolled back": "yellow",
    "no file": "red",
    "skipped": "red",
    "failed": "red",
    "cannot run": "red",
}
_SHOWN_AT_MOST = 40
"""Rows of a plan's table; the count is told, and `invoke status` lists all."""


def on_terminal(stream: IO[str] | None) -> bool:
    return stream is not None and stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def talk(text: str) -> None:
    """Say something to the person, beside the data."""
    print(text, file=sys.stderr, flush=True)


def data(text: str) -> None:
    print(text, flush=True)


def as_json(shape: object) -> None:
    data(json.dumps(shape, ensure_ascii=False))


def failure(error: RatchetError) -> None:
    """The three parts of an error, coloured on a terminal."""
    words = commands.typed(str(error))
    if not on_terminal(sys.stderr):
        talk(words)
        return
    from rich.console import Console
    from rich.text import Text

    text = Text(words)
    text.stylize("bold red", 0, len(error.message))
    text.highlight_regex(r"^(DETAIL|HINT):", "bold")
    Console(stderr=True, highlight=False, soft_wrap=True).print(text)


def migrations(plan: Plan) -> dict[str, Any]:
    """The counts and the list of `status --json`."""
    return {
        "total": len(plan.entries),
        "applied": len(plan.names("applied")),
        "pending": len(plan.names("pending")),
        "migrations": [_entry(entry) for entry in plan.entries],
    }


def _entry(entry: Entry) -> dict[str, Any]:
    record, file = entry.row, entry.migration
    return {
        "name": entry.name,
        "status": entry.state,
        "applied_at": _iso(record.moment) if record and record.moment else None,
        "checksum": file.checksum if file else record.checksum if record else None,
        "duration_ms": record.duration_ms if record else None,
    }


def status(environment: str, target: str, plan: Plan) -> None:
    """The table of `status` and its last line, on stdout."""
    rows = [(e.name, e.state, _when(e), format_duration(e.row.duration_ms if e.row else None)) for e in plan.entries]
    table(f"{environment}: {target}", ("migration", "state", "applied at", "took"), rows)
    counts = [f"total {len(plan.entries)}"]
    counts += [f"{name} {len(plan.names(name))}" for name in ("applied", "pending")]
    others = plan.disagreements()
    data(", ".join(counts) + (f", {len(others)} to be settled" if others else ""))


def doctor(environment: str, target: str, findings: Sequence[Finding]) -> None:
    """The list of `doctor`, each remedy below its finding, and the counts, on stdout."""
    rows: list[tuple[str, ...]] = []
    for each in findings:
        what, *more = each.what.splitlines()
        rows.append((each.subject, each.severity, what))
        rows += [("", "", line) for line in (*more, *each.remedy.splitlines())]
    table(f"{environment}: {target}", ("subject", "state", "finding"), rows)
    counts = (sum(each.severity == severity for each in findings) for severity in ("problem", "warning"))
    data(", ".join(format_count(number, word) for number, word in zip(counts, ("problem", "warning"), strict=True)))


def adoption(environment: str, target: str, found: Adoption) -> None:
    """What a takeover would come to, on stdout."""
    rows = [
        (item.file.name if item.file else "", item.state, item.original, " ".join(item.remarks)) for item in found.items
    ]
    title = f"{environment}: {target}: {found.tool}, from {found.origin}"
    table(title, ("migration", "state", "was", "remarks"), rows)
    for note in found.notes:
        talk(note)


def adopted(environment: str, target: str, found: Adoption) -> None:
    """What it came to, on stdout."""
    if found.is_complete:
        data(f"{environment}: {target}: nothing to adopt")
        return
    written = (
        f"{format_count(len(found.rows), 'row')} of the history and {format_count(len(found.files), 'file')} written"
    )
    data(f"{environment}: {target}: {written}, {format_count(len(found.pending), 'migration')} pending")


def adoption_json(
    environment: str, target: str, found: Adoption, *, done: bool, error: RatchetError | None = None
) -> None:
    """Both as one object, on stdout; `adopted` and `files` are what was written."""
    shape = {
        "env": environment,
        "target": target,
        "from": found.tool,
        "adopted": [each.file.name for each in found.rows if each.file] if done else [],
        "files": [each.name for each in found.files] if done else [],
        "pending": len(found.pending),
        "notes": list(found.notes),
        "migrations": [_item(each) for each in found.items],
    }
    as_json(shape | ({"error": error.as_json()} if error else {}))


def _item(item: AdoptionItem) -> dict[str, Any]:
    return {
        "name": item.file.name if item.file else None,
        "status": item.state,
        "was": item.original,
        "checksum": item.file.checksum if item.file else None,
        "remarks": list(item.remarks),
    }


def baselined(environment: str, target: str, names: Sequence[str], *, done: bool, json: bool) -> None:
    """What a baseline marks, or has marked once it is `done`, on stdout."""
    if json:
        adopted = list(names) if done else []
        as_json({"env": environment, "target": target, "from": "baseline", "adopted": adopted, "files": list(names)})
    elif names:
        state = "adopted" if done else "to be adopted"
        data(f"{environment}: {target}: {abbreviate_names(names)}: {state} as the baseline")
    else:
        data(f"{environment}: {target}: nothing to adopt")


def planned(outcome: RunResult, *, only: bool) -> None:
    """What a run is going to do, on stderr; where that is all that was asked for, on stdout."""
    stream = sys.stdout if only else sys.stderr
    where, todo = f"{outcome.environment}: {outcome.target}", outcome.plan
    rows = [(str(number), name) for number, name in enumerate(todo[:_SHOWN_AT_MOST], 1)]
    table(f"{where}: {format_count(len(todo), 'migration')} to apply", ("", "migration"), rows, stream)
    if len(todo) > _SHOWN_AT_MOST:
        print(f"... and {len(todo) - _SHOWN_AT_MOST} more, up to {todo[-1]}", file=stream, flush=True)
    if not todo and only:
        data(f"{where}: nothing to apply")


def backups(environment: str, target: str, found: Sequence[BackupEntry], drills: Sequence[DrillRecord]) -> None:
    """The list of `backups`, newest first, and the last drills, oldest first; an id begins with the time in UTC."""
    rows = []
    for each in found:
        made = each.manifest
        if made:
            state = "complete, kept" if made.keep else "complete"
            applied = str(len(made.contents.history))
            rows.append((each.backup_id, state, format_size(made.size), applied, made.database.name, made.label or ""))
        else:
            rows.append((each.backup_id, each.problem, "", "", "", ""))
    table(f"{environment}: {target}", ("backup", "state", "size", "applied", "database", "label"), rows)
    if not rows:
        data(f"{environment}: {target}: no backups")
    shown = drills[-_DRILLS_SHOWN:]
    longest = max((each.restore_ms for each in shown if each.good), default=0)
    table(
        f"{environment}: {target}: drills",
        ("drilled", "result", "restore", "trend", "data", "rows", "backup"),
        [_drilled(each, longest) for each in shown],
    )


_DRILLS_SHOWN = 10
_BARS = "▁▂▃▄▅▆▇█"


def _drilled(each: DrillRecord, longest: int) -> tuple[str, ...]:
    bar = _BARS[each.restore_ms * (len(_BARS) - 1) // longest] if each.good and longest else ""
    result = "good" if each.good else "not good"
    when = each.at.replace("T", " ").replace("+00:00", "Z")
    return (
        when,
        result,
        format_duration(each.restore_ms),
        bar,
        format_size(each.database_size),
        str(each.rows),
        each.backup_id,
    )


def backups_json(found: Sequence[BackupEntry], drills: Sequence[DrillRecord], where: str) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "where": where,
        "backups": [
            {
                "id": each.backup_id,
                "complete": each.manifest is not None,
                "problem": each.problem or None,
                "database": each.manifest.database.name if each.manifest else None,
                "created_at": each.manifest.created_at if each.manifest else None,
                "size": each.manifest.size if each.manifest else None,
                "label": each.manifest.label if each.manifest else None,
                "keep": each.manifest.keep if each.manifest else None,
            }
            for each in found
        ],
        "drills": [asdict(each) for each in drills],
    }


def verified(made: Manifest, *, closed: bool) -> None:
    """The result of `verify`, on stdout; `closed` where it is encrypted to others and only its hashes were read."""
    if closed:
        data(f"{made.backup_id}: every file is as its manifest says; it is encrypted, so its content was not read")
    else:
        data(f"{made.backup_id} is good: every file is as its manifest says, and the archive reads to its end")


def losing(made: Manifest, database: str, outlook: RestorePreview) -> None:
    """What a restore undoes, on stderr, before it is asked for."""
    age = datetime.now(timezone.utc) - made.moment
    talk(f'backup {made.backup_id} of {made.created_at} takes the place of the database "{database}"')
    if not outlook.exists:
        talk("there is no such database now: nothing is lost")
        return
    talk(f"what was written since is not in it: {_age(int(age.total_seconds()))}")
    names = outlook.lost
    talk(f"migrations applied since: {', '.join(names) if names else 'none'}")


def _age(seconds: int) -> str:
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            return format_count(seconds // length, unit)
    return format_count(max(0, seconds), "second")


def restored(outcome: RunResult, *, json: bool) -> None:
    """The result of `restore`, on stdout."""
    database, kept = outcome.database, outcome.kept
    if json:
        shape = {"env": outcome.environment, "target": outcome.target, "backup": outcome.backup_id}
        as_json(shape | {"database": database, "kept": kept, "duration_ms": outcome.duration_ms})
        return
    data(f'{outcome.backup_id} is in the database "{database}"')
    if kept:
        data(commands.typed(f'the old one is "{kept}", until `invoke restore --env={outcome.environment} --drop-old`'))


def drilled(environment: str, target: str, record: DrillRecord, *, json: bool) -> None:
    """The result of `drill`, on stdout."""
    if json:
        from dataclasses import asdict

        as_json({"env": environment, "target": target, **asdict(record)})
        return
    if record.good:
        rate = record.database_size * 1000 // max(1, record.restore_ms)
        data(
            f"{record.backup_id} restores: {format_size(record.database_size)} "
            f"in {format_duration(record.restore_ms)}, {format_size(rate)} a second; "
            f"{format_count(record.tables, 'table')}, {format_count(record.rows, 'row')} as in the manifest"
        )
    for note in record.notes:
        data(f"not compared: {note}")


def finished(outcome: RunResult) -> None:
    """The last lines of a run that went well, on stdout."""
    if not outcome.applied:
        where = f"{outcome.environment}: {outcome.target}"
        data(f"{where}: nothing to apply: total {outcome.total}, pending {outcome.pending}")
        return
    applied = format_count(len(outcome.applied), "migration")
    data(f"{applied} applied in {format_duration(outcome.duration_ms)}, {outcome.pending} pending")
    data(f"backup before it: {outcome.backup_path}" if outcome.backup_path else "no backup was taken before it")


def runs(environment: str, target: str, found: Sequence[RunInfo]) -> None:
    """The list of `runs`, on stdout."""
    rows = []
    for each in found:
        state = each.state if each.status is None else "done" if each.status == "0" else f"exit {each.status}"
        rows.append(
            (each.run_id, state, each.task, each.started[:19].replace("T", " ") + "Z", abbreviate_names(each.names))
        )
    table(f"{environment}: {target}", ("run", "state", "task", "started", "migrations"), rows)
    if not rows:
        data(f"{environment}: {target}: no runs")


def followed(outcome: RunResult, about: RunInfo) -> None:
    """The last line of a run that was followed to its end, on stdout."""
    told = f", {format_count(len(outcome.applied), 'migration')} applied" if about.task == "migrate" else ""
    data(f"{outcome.environment}: {outcome.target}: {about.task} {about.run_id} is done{told}")


def ask(question: str, answer: str) -> bool:
    """Whether a person at a terminal types the answer; without one, no."""
    if not sys.stdin or not sys.stdin.isatty():
        return False
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip() == answer


def backup_taken(outcome: RunResult, *, json: bool) -> None:
    """The result of `backup`, on stdout."""
    if json:
        as_json(
            {
                "env": outcome.environment,
                "target": outcome.target,
                "backup": outcome.backup_id,
                "path": outcome.backup_path,
            }
        )
    else:
        data(f"{outcome.backup_id} in {outcome.backup_path}")


def connection(environment: str, target: str, variables: str, embedded: bool) -> None:
    """How to connect, on stdout; what it is, beside it."""
    if not embedded:
        talk(commands.typed(f"{environment}: {target}: a server of your own; `invoke render` shows the settings"))
        return
    talk(f"{environment}: {target}: the PostgreSQL of the package is running")
    data("\n".join(line for line in variables.splitlines() if line.startswith("DATABASE_URL")))


def no_rollback(environment: str, target: str, newest: Manifest | None) -> ConfigurationError:
    """Why nothing is rolled back, and what can be done, as the error that `rollback` ends with."""
    detail = "Migrations run forward only: undoing DDL by hand-written DDL loses data in silence. A backup does not."
    if newest is None:
        return ConfigurationError(
            "there is no rollback, and there is no backup",
            detail=detail,
            hint=f"Mend forward with a new migration; `invoke backup --env={environment}` takes a backup.",
        )
    applied = format_count(len(newest.contents.history), "migration")
    return ConfigurationError(
        "there is no rollback",
        detail=f"{detail}\nThe newest backup of {target} is {newest.backup_id}, of {newest.created_at}, "
        f"of the database {newest.database.name} with {applied} applied.",
        hint="Mend forward with a new migration; or go back to the backup, which keeps the database of now beside it:\n"
        f"invoke restore --env={environment} --backup={newest.backup_id}\n"
        f"With --into={newest.database.name}_restored it is restored beside it, and nothing else is changed.",
    )


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], stream: IO[str] = sys.stdout) -> None:
    """Rows under a header: drawn on a terminal, plain columns elsewhere."""
    stream = sys.stderr if stream is sys.stderr else sys.stdout
    if not rows:
        return
    if on_terminal(stream):
        _draw_table(title, header, rows, stream)
        return
    lines = [[word.upper() for word in header], *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    shown = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    print("\n".join([title, *(line.rstrip() for line in shown)]), file=stream, flush=True)


def _draw_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], stream: IO[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in header:
        whole = name in ("took", "size", "applied at", "applied", "backup")
        drawn.add_column(name, overflow="fold", no_wrap=whole, justify="right" if name in ("took", "size") else "left")
    for row in rows:
        drawn.add_row(*(Text(cell, style=_COLOURS.get(cell, "") if i == 1 else "") for i, cell in enumerate(row)))
    console = Console(file=stream, highlight=False)
    console.print(Text(title, style="bold"), soft_wrap=True)
    console.print(drawn)


def _when(entry: Entry) -> str:
    moment = entry.row.moment if entry.row else None
    return f"{moment.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S}Z" if moment else ""


def _iso(moment: datetime) -> str:
    """UTC with milliseconds and a Z, as JavaScript's toISOString has it."""
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
