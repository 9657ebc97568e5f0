"""A report with stops of every kind, as a rehearsal makes it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

from pgratchet.backups.manifest import Contents, Database, Manifest
from pgratchet.rehearsal.records import Shape, as_json
from pgratchet.rehearsal.report import (
    Calibration,
    Changes,
    Failure,
    Lock,
    MigrationReport,
    Report,
    Rewrite,
    Scan,
    StatementReport,
)
from pgratchet.rehearsal.stops import MeasuredWait, find_stops

NOW = datetime(2026, 11, 27, 12, tzinfo=timezone.utc)
EXCLUSIVE, SHARE, ROWS = "ACCESS EXCLUSIVE", "SHARE", "ROW EXCLUSIVE"


def statement(line: int, text: str, started: float, duration: float, **more: object) -> StatementReport:
    report = StatementReport("002_release", line, text, started, duration)
    return replace(report, **more)  # type: ignore[arg-type]


STATEMENTS = (
    statement(1, "ALTER TABLE users ADD COLUMN n int", 0, 0.4, locks=(Lock("public.users", EXCLUSIVE),)),
    statement(
        3,
        "UPDATE events SET kind = '<b>' || kind",
        1,
        6900.0,
        locks=(Lock("public.events", ROWS), Lock("public.events_pkey", ROWS, "public.events")),
        scans=(Scan("public.events", 400_000),),
        changes=(Changes("public.events", updated=400_000),),
        wal_bytes=272_500_000,
    ),
    statement(
        5,
        "ALTER TABLE events ALTER COLUMN kind TYPE varchar(9)",
        6902,
        900.0,
        locks=(Lock("public.events", EXCLUSIVE), Lock("public.events", SHARE)),
        rewrites=(Rewrite("public.events", 60_000_000),),
    ),
    statement(7, "CREATE INDEX i ON small (n)", 7803, 20.0, locks=(Lock("public.small", SHARE),)),
)
REPORT = Report(
    "20261127T120000-0a1f",
    150020,
    150020,
    407_000_000,
    5300,
    (MigrationReport("002_release", "c" * 64, 7825.0, 7600, 272_500_000, 1000),),
    STATEMENTS,
    tuple(find_stops(STATEMENTS, 3.0, {("public.users", "reads"): MeasuredWait(2.0, 7790.0, EXCLUSIVE)})),
    calibration=Calibration(3, 1000, 1500),
    notes=("A note.",),
)
FAILURE = Failure("002_release", 3, "column has null values", "23502", "public.users", 7, ("id",), ("1", "2"))
MANIFEST = Manifest(
    "20261127T120000-0a1f",
    "prod",
    "app",
    NOW.isoformat(),
    150020,
    "7",
    "15",
    "1",
    "custom",
    "gzip",
    {},
    Database("shop", "owner", "UTF8", "c", "C", "C", None, None, -1),
    407_000_000,
    Contents({}, 0, {}, (), (), {"001_first": "a" * 64}),
    1,
    1,
)


def record(report: Report = REPORT, **budget: int) -> Shape:
    return as_json("prod", "app", report, budget, MANIFEST, NOW)
