"""`python -m tests.bench`: run the cases, print a table for each, write the results and the chart.

Everything that it makes is gone behind it, also where it is interrupted: databases, server, folders, processes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from pathlib import Path

from pgratchet.errors import ConfigurationError, RatchetError
from tests import ROOT
from tests.bench import chart, peers, server
from tests.bench.cases import cases
from tests.bench.results import Table
from tests.bench.runs import Bench, FailedError


def main() -> int:
    """Run what the flags say; 130 when interrupted, 1 when there is nothing to show for it."""
    flags = _flags()
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]  # what libpq would read by itself
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if flags.install:
            peers.install()
        else:
            _bench(flags)
    except KeyboardInterrupt:
        print("interrupted; what was made is removed", file=sys.stderr)
        return 130
    except (RatchetError, FailedError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _flags() -> argparse.Namespace:
    names = [case.name for case in cases(quick=False)]
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="pgratchet beside floors and peers.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds of smaller cases")
    parser.add_argument("--only", metavar="CASE", choices=names, help=f"one case: {', '.join(names)}")
    parser.add_argument(
        "--chart", metavar="FILE", type=Path, help="where the chart goes; a whole run's to docs/benchmark.svg"
    )
    parser.add_argument("--install", action="store_true", help="fetch the peers into .pgratchet/bench, and end")
    return parser.parse_args()


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _bench(flags: argparse.Namespace) -> None:
    chosen = [case for case in cases(quick=flags.quick) if flags.only in (None, case.name)]
    available, missing = peers.find()
    if not chosen:
        raise ConfigurationError(f"{flags.only} is no part of the quick form", hint="Leave out --quick.")
    with server.running() as running, tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            bench = Bench(running, Path(folder), available)
            machine = _machine(running.version)
            print(machine)
            for name in missing:
                print(f"{name} is not installed, and left out; --install fetches it")
            for wrong in bench.warm():
                print(f"left out: {wrong}")
            tables = []
            for case in chosen:
                tables.append(bench.run(case))
                print(f"\n{tables[-1].as_text(bench.bare_peak)}", flush=True)
            _write(flags, machine, tables, bench.bare_peak)
        finally:
            # Behind this things are only removed, and that is not to be cut short.
            for stop in (signal.SIGINT, signal.SIGTERM):
                signal.signal(stop, signal.SIG_IGN)


def _machine(postgres: str) -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    python = platform.python_version()
    return f"Python {python}, PostgreSQL {postgres}, {cores} cores, {platform.system()} {platform.machine()}"


def _write(flags: argparse.Namespace, machine: str, tables: list[Table], bare: int) -> None:
    peers.FOLDER.mkdir(parents=True, exist_ok=True)
    shape = {"machine": machine, "quick": flags.quick, "cases": [table.as_json(bare) for table in tables]}
    whole = not flags.quick and flags.only is None
    # A part does not take the place of a whole run's results, which take long to have again.
    results = peers.FOLDER / ("results.json" if whole else "results-part.json")
    results.write_text(json.dumps(shape, indent=1) + "\n", encoding="utf-8")
    if path := flags.chart or (ROOT / "docs" / "benchmark.svg" if whole else None):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(chart.draw(tables, machine), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
