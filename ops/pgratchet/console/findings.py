"""Shows the findings of `doctor`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pgratchet.console import commands
from pgratchet.console.output import say, show_table, write
from pgratchet.formatting import format_count

if TYPE_CHECKING:
    from pgratchet.checks.findings import Finding


def show_findings(title: str, findings: Sequence[Finding]) -> None:
    """Show the findings with their remedies, and the counts, below the target's title."""
    rows: list[tuple[str, ...]] = []
    for finding in findings:
        first, *others = finding.what.splitlines()
        rows.append((finding.subject, finding.severity, first))
        rows += [("", "", line) for line in (*others, *commands.typed(finding.remedy).splitlines())]
    show_table(title, ("subject", "state", "finding"), rows)
    severities = [finding.severity for finding in findings]
    problems, warnings = severities.count("problem"), severities.count("warning")
    write(f"{format_count(problems, 'problem')}, {format_count(warnings, 'warning')}")


def show_notes(findings: Iterable[Finding]) -> None:
    """Show findings as notes below the result of another task."""
    for finding in findings:
        say(f"note: {finding.what}")
        if finding.remedy:
            say(f"      {commands.typed(finding.remedy)}")
