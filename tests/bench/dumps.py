"""Backups beside what they are made with: pg_dump of the same form, compression and jobs, and pg_restore's reading.

Each round takes its turns on the same database. What a backup does besides is in its time: counting every table under
the dump's snapshot, hashing, roles, and bringing it all to the disk. Reading it back is timed apart, as the manifest
has it.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from pgratchet import embedded
from pgratchet.backups import pg_programs
from tests.bench.cases import Dump
from tests.bench.measure import Command, Measured
from tests.bench.results import Row, Table
from tests.bench.server import BenchDatabase, BenchServer
from tests.bench.tools import Ours, tables

Run = Callable[[Command], Measured]
_ROWS = """
CREATE TABLE {name} (id bigint PRIMARY KEY, at timestamptz, amount numeric, words text, noise text);
INSERT INTO {name} SELECT n, now() + n * interval '1 s', n * 1.07, repeat('some words ', 1 + n % 9), md5(n::text)
FROM generate_series(1, {rows}) AS n
"""
_ROW_SIZE = 160
"""Bytes that such a row takes on the disk, with its part of the index."""
_TABLES = 8


def compare(case: Dump, server: BenchServer, folder: Path, run: Run) -> Table:
    """Both forms, each to the bare program, in turn."""
    database = server.create()
    try:
        size = _fill(database, case.megabytes)
        rows = _turns(case, database, folder, run)
    finally:
        server.drop(database.name)
    notes = [f"a database of {size / 1_000_000:,.0f} MB"]
    return Table(case.name, case.title, "time, to that of the bare program", rows, notes)


def _fill(database: BenchDatabase, megabytes: int) -> int:
    each = megabytes * 1_000_000 // _ROW_SIZE // _TABLES
    with database.connect() as session:
        for number in range(_TABLES):
            session.execute(_ROWS.format(name=f"t{number}", rows=each).encode())
        session.execute("ANALYZE")
    return database.number("SELECT pg_database_size(current_database())")


def _turns(case: Dump, database: BenchDatabase, folder: Path, run: Run) -> list[Row]:
    programs = pg_programs.Programs(embedded.programs(), pg_programs.version_of(embedded.programs() / "pg_dump") or "?")
    rows: list[Row] = []
    for form, jobs in (("custom", 1), ("directory", 2)):
        words = "one file" if form == "custom" else f"a folder, {jobs} jobs"
        bare = [Row(f"{program}, {words}", programs.version) for program in ("pg_dump", "pg_restore")]
        ours = [Row(f"{act}, {words}", Ours.version, ours=True) for act in ("backup", "reading back")]
        checkout = _lay_out(folder / form, jobs)
        for _ in range(case.rounds):
            floors = _bare(programs, form, jobs, database, folder, run)
            measured, dump_ms, verify_ms = _ours(checkout, database, run)
            for floor, mine, done, seconds in zip(bare, ours, floors, (dump_ms, verify_ms), strict=False):
                floor.ratios.append(1.0)
                floor.peak = max(floor.peak, done.peak)
                mine.ratios.append(seconds / 1000 / done.seconds)
                mine.peak = max(mine.peak, measured.peak)
        rows += [bare[0], ours[0], bare[1], ours[1]]
    return rows


def _lay_out(folder: Path, jobs: int) -> Path:
    folder.mkdir()
    Ours().lay_out(folder, tables(1))
    variables = folder / "inventory" / "host_vars"
    variables.mkdir()
    parallel = f"backup_jobs: {jobs}\nbackup_parallel_from: {0 if jobs > 1 else 10**15}\n"
    (variables / "hyperpage_dev.yml").write_text(parallel)
    return folder


def _bare(
    programs: pg_programs.Programs, form: str, jobs: int, database: BenchDatabase, folder: Path, run: Run
) -> tuple[Measured, Measured]:
    dump = folder / "bare.dump"
    url, secret = database.url(password=False), {"PGPASSWORD": database.password}
    compression = f"--compress={programs.compression()}"
    several = (f"--jobs={jobs}",) if jobs > 1 else ()
    written = (f"--format={form}", compression, f"--file={dump}", *several, f"--dbname={url}")
    dumped = run(Command((programs.path("pg_dump"), *written), folder, secret))
    read = run(Command((programs.path("pg_restore"), "--file=/dev/null", str(dump)), folder))
    shutil.rmtree(dump) if dump.is_dir() else dump.unlink()
    return dumped, read


def _ours(checkout: Path, database: BenchDatabase, run: Run) -> tuple[Measured, int, int]:
    arguments = (sys.executable, "-m", "invoke", "backup", "--env=dev", "--json")
    done = run(Command(arguments, checkout, {"DATABASE_URL": database.url()}))
    (manifest,) = (checkout / "backups").rglob("manifest.json")
    shape = json.loads(manifest.read_text())
    shutil.rmtree(checkout / "backups")
    return done, shape["dump_ms"], shape["verify_ms"]
