"""Writes the impact of new migrations: as Markdown, and in the formats of GitHub's and GitLab's code scanning.

SARIF: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html. Code Quality:
https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pgratchet.console.rehearsal import shorten, table_cell
from pgratchet.formatting import format_duration, format_size
from pgratchet.version import __version__

if TYPE_CHECKING:
    from pgratchet.rehearsal.impact import Impact

_BLOCKS = {"reads": "reads and writes", "writes": "writes"}
_NOTE = (
    "Sizes by {origin}. Locks, reads and rewrites are facts, traced on empty tables. An estimate is the size of "
    "the table multiplied by a rate of earlier rehearsals. `invoke rehearse` measures."
)
_HEADER = "| statement | lock | blocks | table | does | estimate | also waits |\n|---|---|---|---|---|---|---|"


def markdown(impacts: Sequence[Impact], origin: str, rehearsal: str) -> str:
    """The impacts as Markdown, for a comment. `rehearsal` is the report of a rehearsal of these files, or empty."""
    if rehearsal:
        return rehearsal
    lines = ["### What the new migrations do to production", ""]
    if not impacts:
        return "\n".join([*lines, f"No large table is locked, read or rewritten (by {origin}).", ""])
    rows = [_row(impact) for impact in impacts]
    return "\n".join([*lines, _HEADER, *rows, "", _NOTE.format(origin=origin), ""])


def _row(impact: Impact) -> str:
    work = "rewrites it" if impact.is_rewritten else "reads all of it" if impact.is_read else ""
    bound = "up to" if impact.mode == "ROW EXCLUSIVE" else "about"  # by its WHERE, a change may be of few rows
    estimate = "" if impact.estimate_ms is None else f"{bound} {format_duration(round(impact.estimate_ms))}"
    table = f"{impact.relation}, {format_size(impact.size.bytes + impact.size.index_bytes)}, {impact.size.rows:,} rows"
    cells = (
        f"{impact.migration}:{impact.line} {shorten(impact.text)}",
        impact.mode,
        _BLOCKS.get(impact.blocks or "", "the changed rows" if impact.mode == "ROW EXCLUSIVE" else "nothing"),
        table,
        work,
        estimate,
        ", ".join(impact.waits_too),
    )
    return f"| {' | '.join(table_cell(cell) for cell in cells)} |"


def sarif(impacts: Sequence[Impact]) -> str:
    """The impacts as a SARIF log."""
    driver = {
        "name": "pgratchet",
        "version": __version__,
        "rules": [{"id": "large-table", "shortDescription": {"text": "Work on a large table of the live database"}}],
    }
    results = [
        {
            "ruleId": "large-table",
            "level": "warning" if impact.blocks else "note",
            "message": {"text": impact.message},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": impact.path},
                        "region": {"startLine": impact.line},
                    }
                }
            ],
        }
        for impact in impacts
    ]
    shape = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }
    return json.dumps(shape, indent=2) + "\n"


def code_quality(impacts: Sequence[Impact]) -> str:
    """The impacts as GitLab's report of code quality."""
    return json.dumps([_code_quality(impact) for impact in impacts], indent=2) + "\n"


def _code_quality(impact: Impact) -> dict[str, Any]:
    identity = f"{impact.path} {impact.text} {impact.relation} {impact.mode}"
    return {
        "description": impact.message,
        "check_name": "large-table",
        "fingerprint": hashlib.sha256(identity.encode()).hexdigest(),
        "severity": "major" if impact.blocks else "info",
        "location": {"path": impact.path, "lines": {"begin": impact.line}},
    }
