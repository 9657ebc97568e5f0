"""Shows the findings of `doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pgratchet.console.output import data, table
from pgratchet.formatting import count_of

if TYPE_CHECKING:
    from pgratchet.checks.doctor import Finding


def show_findings(environment: str, target: str, findings: Sequence[Finding]) -> None:
    """Print the findings with their remedies, and the counts, on stdout."""
    rows: list[tuple[str, ...]] = []
    for finding in findings:
        first, *others = finding.what.splitlines()
        rows.append((finding.subject, finding.severity, first))
        rows += [("", "", line) for line in (*others, *finding.remedy.splitlines())]
    table(f"{environment}: {target}", ("subject", "state", "finding"), rows)
    problems, warnings = (
        sum(finding.severity == severity for finding in findings) for severity in ("problem", "warning")
    )
    data(f"{count_of(problems, 'problem')}, {count_of(warnings, 'warning')}")
