"""Records of rehearsals, stored as notes beside the backups: the report, the verdict and the circumstances.

A record contains a SHA-256 of the rest, as a manifest does, so a record edited by hand is not read. `invoke rehearse
--json` prints the record.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

from pgratchet.backups.manifest import Manifest, Setting, content_hash
from pgratchet.backups.store import Store
from pgratchet.rehearsal.budget import find_excesses
from pgratchet.rehearsal.remedies import find_remedies
from pgratchet.rehearsal.report import MigrationReport, Position, Report, Rewrite, StatementReport, Stop
from pgratchet.version import __version__

_KIND = "rehearsal"
Shape = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """The circumstances of a verdict: any change voids the verdict.

    `history` and `settings` describe the database before the migrations. `migrations` are the pending migrations in
    order, by name and checksum. `major` is the server's major version.
    """

    migrations: Sequence[tuple[str, str]]
    history: Mapping[str, str]
    settings: Sequence[Setting]
    major: int
    tool_version: str = __version__

    @property
    def sorted_settings(self) -> list[list[str]]:
        return sorted([setting.role or "", setting.name, setting.value] for setting in self.settings)


def circumstances_of(report: Report, manifest: Manifest) -> Circumstances:
    """The circumstances of a rehearsal, with the major version of the scratch server: another version fits no run."""
    migrations = [(each.name, each.checksum) for each in report.migrations]
    major = report.scratch_version // 10_000
    return Circumstances(migrations, manifest.contents.history, manifest.database.settings, major)


def manifest_hash(manifest: Manifest) -> str:
    """The hash of a backup in records."""
    return content_hash(asdict(manifest))


def as_json(
    environment: str,
    target: str,
    report: Report,
    budget: Mapping[str, int],
    manifest: Manifest,
    at: datetime,
) -> Shape:
    """The record of a rehearsal, with remedies and the verdict by the budget, and without the hash."""
    excesses = find_excesses(report, budget)
    return {
        "kind": _KIND,
        "env": environment,
        "target": target,
        "backup": report.backup,
        "at": at.astimezone(timezone.utc).isoformat(timespec="seconds"),
        "server_version": report.server_version,
        "scratch_version": report.scratch_version,
        "database_size": report.database_size,
        "restore_ms": report.restore_ms,
        "duration_ms": round(report.duration_ms, 1),
        "wal_bytes": report.wal_bytes,
        "migrations": [_rounded(asdict(each)) for each in report.migrations],
        "statements": [_statement_json(each) for each in report.statements],
        "stops": [_stop_json(each) for each in report.stops],
        "tables": [_rounded(asdict(each)) for each in report.tables],
        "failure": asdict(report.failure) if report.failure else None,
        "calibration": {**asdict(report.calibration), "ratio": report.calibration.ratio},
        "remedies": [asdict(each) for each in find_remedies(report)],
        "notes": list(report.notes),
        "budget": dict(budget),
        "verdict": {
            "ok": report.failure is None and not excesses,
            "over_budget": [asdict(each) | {"text": each.describe()} for each in excesses],
        },
        "bound_to": _bound_to(circumstances_of(report, manifest), manifest),
    }


def _bound_to(circumstances: Circumstances, manifest: Manifest) -> Shape:
    return {
        "backup_sha256": manifest_hash(manifest),
        "history": dict(circumstances.history),
        "settings": circumstances.sorted_settings,
        "major": circumstances.major,
        "tool_version": circumstances.tool_version,
    }


def _statement_json(statement: StatementReport) -> Shape:
    shape = _rounded(asdict(statement))
    del shape["released"]
    shape["locks"] = [{"relation": lock.relation, "mode": lock.mode} for lock in statement.locks]
    return shape | {"rows_changed": statement.rows_changed}


def _stop_json(stop: Stop) -> Shape:
    return _rounded(asdict(stop)) | {"confirmed": stop.is_confirmed}


def _rounded(shape: Shape) -> Shape:
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in shape.items()}


def write_record(store: Store, shape: Shape) -> None:
    """Write a record beside the backups."""
    moment = shape["at"].replace(":", "").replace("-", "").replace("+0000", "")
    text = json.dumps({**shape, "sha256": content_hash(shape)}, indent=2, ensure_ascii=False)
    store.note(f"{moment}-{_KIND}-{shape['backup'][-4:]}.json", text.encode() + b"\n")


def read_records(store: Store) -> list[Shape]:
    """Read the records of past rehearsals, oldest first. Edited records are left out, and so are other notes."""
    return sorted(_parse_all(store.notes()), key=lambda shape: str(shape["at"]))


def _parse_all(texts: Iterator[bytes]) -> Iterator[Shape]:
    for text in texts:
        try:
            shape = json.loads(text)
        except (ValueError, RecursionError):
            continue
        is_record = isinstance(shape, dict) and shape.get("kind") == _KIND
        if is_record and shape.pop("sha256", None) == content_hash(shape) and _is_complete(shape):
            yield shape


def _is_complete(shape: Shape) -> bool:
    """Return whether a record is complete. A good hash excludes later changes, and not another writer."""
    try:
        report_of(shape, [each["name"] for each in shape["migrations"]])
        difference(shape, Circumstances([], {}, [], 0))
        return datetime.fromisoformat(shape["at"]).tzinfo is not None and bool(shape["verdict"]["ok"]) in (True, False)
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def find_fitting(records: Sequence[Shape], circumstances: Circumstances) -> Shape | None:
    """Return the newest record for these circumstances, with any verdict."""
    return next((each for each in reversed(records) if not difference(each, circumstances)), None)


def difference(record: Shape, here: Circumstances) -> str:
    """A phrase for the difference from a rehearsal; empty when the rehearsal covers the circumstances.

    A rehearsal of several migrations covers each run of some, in the same order: the first migrations may have been
    applied since the backup, and a run may stop before the last migration.
    """
    bound = record["bound_to"]
    rehearsed = [(each["name"], each["checksum"]) for each in record["migrations"]]
    applied = len(here.history) - len(bound["history"])
    if bound["major"] != here.major:
        return f"on PostgreSQL {bound['major']}"
    if bound["tool_version"] != here.tool_version:
        return f"by version {bound['tool_version']} of pgratchet"
    if bound["settings"] != here.sorted_settings:
        return "with other settings of the database"
    if applied < 0 or {**bound["history"], **dict(rehearsed[:applied])} != here.history:
        return "with another history"
    if rehearsed[applied : applied + len(here.migrations)] != list(here.migrations):
        return "with other files"
    return ""


def report_of(record: Shape, names: Collection[str]) -> Report:
    """The part of a report about some migrations, as far as a budget has limits."""
    migrations = tuple(MigrationReport(**each) for each in record["migrations"] if each["name"] in names)
    statements = tuple(
        StatementReport(
            each["migration"],
            each["line"],
            each["text"],
            each["started_ms"],
            each["duration_ms"],
            rewrites=tuple(Rewrite(**rewrite) for rewrite in each["rewrites"]),
        )
        for each in record["statements"]
        if each["migration"] in names
    )
    stops = tuple(_stop(each) for each in record["stops"] if each["locked_at"]["migration"] in names)
    versions = record["server_version"], record["scratch_version"]
    return Report(record["backup"], *versions, 0, 0, migrations, statements, stops)


def _stop(shape: Shape) -> Stop:
    positions = {name: Position(**shape[name]) for name in ("locked_at", "spent_at")}
    return Stop(**{name: value for name, value in shape.items() if name != "confirmed"} | positions)


def rehearsed_durations(records: Sequence[Shape]) -> dict[tuple[str, str], int]:
    """The newest durations of migrations in rehearsals, in milliseconds, by name and checksum."""
    return {
        (each["name"], each["checksum"]): each["duration_ms"]
        for shape in records
        for each in shape["migrations"]
        if each["duration_ms"] is not None
    }
