"""Shows the findings of doctor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pgratchet.console.output import show_table, write
from pgratchet.formatting import format_count

if TYPE_CHECKING:
    from pgratchet.checks.doctor import Finding


def show_findings(environment: str, target: str, findings: Sequence[Finding]) -> None:
    """The list of `doctor`, each remedy below its finding, and the counts, on stdout."""
    rows: list[tuple[str, ...]] = []
    for each in findings:
        what, *more = each.what.splitlines()
        rows.append((each.subject, each.severity, what))
        rows += [("", "", line) for line in (*more, *each.remedy.splitlines())]
    show_table(f"{environment}: {target}", ("subject", "state", "finding"), rows)
    counts = (sum(each.severity == severity for each in findings) for severity in ("problem", "warning"))
    write(", ".join(format_count(number, word) for number, word in zip(counts, ("problem", "warning"), strict=True)))
