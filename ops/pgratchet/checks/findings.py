"""The results of checks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from pgratchet.errors import RatchetError

Severity = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check. A migration, or the restore after it, would fail because of a `problem`.

    `what` is a phrase. `remedy` has sentences or an SQL statement.
    """

    severity: Severity
    subject: str
    what: str
    remedy: str = ""


def finding_of(error: RatchetError, subject: str) -> Finding:
    """Convert an error into a finding."""
    detail = f": {error.detail}" if error.detail else ""
    return Finding("problem", subject, error.message + detail, error.hint)


@contextmanager
def collecting(findings: list[Finding], subject: str, past: tuple[type[RatchetError], ...] = ()) -> Iterator[None]:
    """Convert an error in the block into a finding, except errors of the types in `past`."""
    try:
        yield
    except past:
        raise
    except RatchetError as error:
        findings.append(finding_of(error, subject))
