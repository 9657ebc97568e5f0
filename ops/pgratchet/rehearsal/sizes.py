"""The sizes of a live database's tables, and how fast its migrations worked in rehearsals. Pure but for reading a file.

They say what a new migration may cost without a connection to production: they come from the newest backup's manifest,
or from a file that `invoke doctor --write-sizes` has written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pgratchet.backups.manifest import Manifest, TableSize
from pgratchet.errors import ConfigurationError

_KIND = "sizes"
_LEAST_MS = 20
"""Statements that took less say more about the probe than about the table."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Milliseconds for a megabyte rewritten, and for 1,000 rows read, indexed or changed; None when not measured."""

    rewrite: float | None = None
    scan: float | None = None
    index: float | None = None
    change: float | None = None


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of tables by their qualified names, with the rates, and a phrase for where and when they were read."""

    tables: Mapping[str, TableSize]
    rates: Rates = field(default_factory=Rates)
    origin: str = ""


def of_manifest(manifest: Manifest, rates: Rates) -> Sizes:
    """The sizes that a backup has. ConfigurationError for one of a version that did not note them."""
    sizes = manifest.contents.sizes
    if sizes is None:
        raise ConfigurationError(
            f"backup {manifest.backup_id} has no sizes of tables",
            detail="It was taken by an earlier version.",
            hint="Take a new backup, or use `invoke doctor --write-sizes=FILE` and --sizes=FILE.",
        )
    return Sizes(sizes, rates, f"backup {manifest.backup_id}")


def measured_rates(records: Iterable[Mapping[str, Any]]) -> Rates:
    """The rates of all statements of some rehearsals that did one thing alone."""
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
    """Write the sizes into a file that a repository or a CI system can keep."""
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


def estimate_ms(statement: Mapping[str, Any], sizes: Sizes) -> float | None:
    """Estimate the duration of a statement on the live tables; None without a measured rate for its kind of work.

    `statement` is that of a record, traced on empty tables: it has the kind of the work, and not the amount.
    """
    rates, tables = sizes.rates, _worked_on(statement)
    rows = sum(size.rows for name in tables if (size := sizes.tables.get(name))) / 1000
    if statement["rewrites"]:
        megabytes = sum(size.bytes for each in statement["rewrites"] if (size := sizes.tables.get(each["relation"])))
        return None if rates.rewrite is None else rates.rewrite * megabytes / 1e6
    rate = rates.index if statement["indexes_built"] else rates.change if _changes(statement) else rates.scan
    return None if rate is None or not tables else rate * rows


def _worked_on(statement: Mapping[str, Any]) -> Sequence[str]:
    return [each["relation"] for each in statement["scans"]]


def _changes(statement: Mapping[str, Any]) -> bool:
    return any(lock["mode"] == "ROW EXCLUSIVE" for lock in statement["locks"])
