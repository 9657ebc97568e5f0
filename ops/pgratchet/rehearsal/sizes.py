"""The sizes of a live database's tables, and the speed of migrations in rehearsals. Pure but for reading a file.

Both give the cost of a new migration without a connection to production. The source is the newest backup's manifest,
or a file by `invoke doctor --write-sizes`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pgratchet.backups.manifest import Manifest, TableSize
from pgratchet.errors import ConfigurationError
from pgratchet.rehearsal.report import StatementReport

_KIND = "sizes"
_LEAST_MS = 20
"""Shorter statements say more about the probe than about the table."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Milliseconds for a megabyte rewritten, and for 1,000 rows read, indexed or changed; None when not measured."""

    rewrite: float | None = None
    scan: float | None = None
    index: float | None = None
    change: float | None = None


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of tables by qualified name, with the rates. `origin` is a phrase for the source and the time."""

    tables: Mapping[str, TableSize]
    rates: Rates = field(default_factory=Rates)
    origin: str = ""


def of_manifest(manifest: Manifest, rates: Rates) -> Sizes:
    """The sizes in a backup. ConfigurationError for a backup by a version without sizes."""
    sizes = manifest.contents.sizes
    if sizes is None:
        raise ConfigurationError(
            f"backup {manifest.backup_id} has no sizes of tables",
            detail="It was taken by an earlier version.",
            hint="Take a new backup, or use `invoke doctor --write-sizes=FILE` and --sizes=FILE.",
        )
    return Sizes(sizes, rates, f"backup {manifest.backup_id}")


def measured_rates(records: Iterable[Mapping[str, Any]]) -> Rates:
    """The rates of all statements with one kind of work, in some rehearsals."""
    totals: dict[str, list[float]] = {}
    for record in records:
        for statement in record["statements"]:
            kind, amount = _work(statement)
            if amount and statement["duration_ms"] >= _LEAST_MS:
                total = totals.setdefault(kind, [0, 0])
                total[0] += statement["duration_ms"]
                total[1] += amount
    return Rates(**{kind: duration / amount for kind, (duration, amount) in totals.items()})


def _work(statement: Mapping[str, Any]) -> tuple[str, float]:
    """The kind of a statement's work, and its amount in megabytes or thousands of rows; 0 for mixed work."""
    if statement["rewrites"]:
        return "rewrite", sum(each["bytes"] for each in statement["rewrites"]) / 1e6
    rows = sum(each["rows"] for each in statement["scans"]) / 1000
    if statement["rows_changed"]:
        return "change", statement["rows_changed"] / 1000
    return ("index" if statement["indexes_built"] else "scan"), rows


def write_file(path: Path, sizes: Sizes) -> None:
    """Write the sizes into a file, for a repository or a CI system."""
    shape = {"kind": _KIND, **asdict(sizes)}
    path.write_text(json.dumps(shape, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_file(path: Path) -> Sizes:
    """Read a file of sizes. Raises ConfigurationError for any other file."""
    try:
        shape = json.loads(path.read_text(encoding="utf-8"))
        tables = {name: TableSize(**size) for name, size in shape["tables"].items()}
        return Sizes(tables, Rates(**shape["rates"]), str(shape["origin"]))
    except FileNotFoundError:
        problem = "The file does not exist."
    except (ValueError, TypeError, KeyError, AttributeError):
        problem = "It is no file that `invoke doctor --write-sizes` has written."
    raise ConfigurationError(
        f"{path} cannot be read as sizes of tables",
        detail=problem,
        hint="Write it with `invoke doctor --env=NAME --write-sizes=FILE`, or use --sizes=backup.",
    )


def estimate_ms(statement: StatementReport, sizes: Sizes) -> float | None:
    """Estimate the duration of a statement on the live tables; None without a measured rate for such work.

    The statement was traced on empty tables: the report has the kind of the work, and not the amount.
    """
    rates = sizes.rates
    if statement.rewrites:
        tables = (sizes.tables.get(each.relation) for each in statement.rewrites)
        return None if rates.rewrite is None else rates.rewrite * sum(size.bytes for size in tables if size) / 1e6
    is_change = any(lock.mode == "ROW EXCLUSIVE" for lock in statement.locks)
    rate = rates.index if statement.indexes_built else rates.change if is_change else rates.scan
    if rate is None or not statement.scans:
        return None
    tables = (sizes.tables.get(each.relation) for each in statement.scans)
    return rate * sum(size.rows for size in tables if size) / 1000
