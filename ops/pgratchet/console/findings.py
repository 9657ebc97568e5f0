"""Shows the findings of `doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pgratchet.console.output import show_table, write
from pgratchet.formatting import format_count

if TYPE_CHECKING:
    from pgratchet.checks.doctor import Finding


def show_findings(environment: str, target: str, findings: Sequence[Finding]) -> None:
    """Show the findings with their remedies, and the counts."""
    rows: list[tuple[str, ...]] = []
    for finding in findings:
        first, *others = finding.what.splitlines()
        rows.append((finding.subject, finding.severity, first))
        rows += [("", "", line) for line in (*others, *finding.remedy.splitlines())]
    show_table(f"{environment}: {target}", ("subject", "state", "finding"), rows)
    severities = [finding.severity for finding in findings]
    problems, warnings = severities.count("problem"), severities.count("warning")
    write(f"{format_count(problems, 'problem')}, {format_count(warnings, 'warning')}")
