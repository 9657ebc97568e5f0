"""The errors for users, in three parts: the failure, the detail, and the next step.

Every mistake of a user is raised as an error of these classes. The number is the exit code of the process:

    RatchetError
    ├── ConfigurationError    2  usage, inventory, templates, migration files
    ├── LockBusy              4  another run holds the migration lock
    ├── MigrationFailed       5  a statement failed; its file was rolled back
    ├── StoppedPartWay        6  a non-transactional file stopped between its statements
    ├── OutcomeUnknown        7  the server did not say whether a COMMIT took effect
    ├── HistoryDisagrees      8  the files and the history differ
    ├── BackupFailed          9  no backup, so no migration
    ├── Unreachable          10  network, host key, login
    └── Interrupted         130  a signal; 143 for SIGTERM, 129 for SIGHUP

The wording follows https://www.postgresql.org/docs/current/error-style-guide.html: the message is a line in lower
case without a full stop; detail and hint are sentences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Location:
    """A position in a migration file. Lines and columns count from 1, columns in characters."""

    migration: str
    line: int | None = None
    column: int | None = None
    sqlstate: str | None = None

    def __str__(self) -> str:
        if self.line is None:
            return self.migration
        if self.column is None:
            return f"{self.migration}, line {self.line}"
        return f"{self.migration}, line {self.line}, column {self.column}"


class RatchetError(Exception):
    """An error in three parts. The class sets the exit code."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, detail: str = "", hint: str = "", location: Location | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint
        self.location = location
        self.status: int = self.exit_code
        self.printed = False  # True once it was printed as JSON

    def __str__(self) -> str:
        """Format the three parts for people. The lines of a detail or hint are indented below the first line."""
        parts = [self.message]
        if self.detail:
            parts.append("DETAIL: " + self.detail.replace("\n", "\n        "))
        if self.hint:
            parts.append("HINT: " + self.hint.replace("\n", "\n      "))
        return "\n".join(parts)

    def as_json(self) -> dict[str, str | int | None]:
        """Return the value of `error` in a `--json` result."""
        location = self.location
        return {
            "code": self.exit_code,
            "message": self.message,
            "detail": self.detail,
            "hint": self.hint,
            "migration": location.migration if location else None,
            "line": location.line if location else None,
            "column": location.column if location else None,
            "sqlstate": location.sqlstate if location else None,
        }


class ConfigurationError(RatchetError):
    exit_code = 2


class LockBusy(RatchetError):
    exit_code = 4


class MigrationFailed(RatchetError):
    exit_code = 5


class StoppedPartWay(RatchetError):
    exit_code = 6


class OutcomeUnknown(RatchetError):
    exit_code = 7


class HistoryDisagrees(RatchetError):
    exit_code = 8


class BackupFailed(RatchetError):
    exit_code = 9


class Unreachable(RatchetError):
    exit_code = 10


class Interrupted(RatchetError):
    exit_code = 130

    def __init__(self, signal: KeyboardInterrupt, *, detail: str = "", hint: str = "") -> None:
        termination = signal if isinstance(signal, Terminated) else None
        super().__init__(termination.word if termination else "interrupted", detail=detail, hint=hint)
        self.status = termination.status if termination else 130

    def as_json(self) -> dict[str, str | int | None]:
        return super().as_json() | {"code": self.status}


ERRORS_BY_EXIT_CODE: dict[int, type[RatchetError]] = {kind.exit_code: kind for kind in RatchetError.__subclasses__()}
"""The classes by their exit codes."""


class Terminated(KeyboardInterrupt):
    """SIGTERM. As with an interrupt, the statement is cancelled, the lock released and partial files are removed."""

    word: ClassVar[str] = "terminated"
    status: ClassVar[int] = 143


class HungUp(Terminated):
    """SIGHUP: the terminal or the SSH session has ended, so the output may have no reader."""

    word = "hung up"
    status = 129


def combine_mistakes(summary: str, mistakes: list[str], hint: str) -> ConfigurationError:
    """Combine mistakes into one error: the message counts the mistakes, the detail lists them.

    >>> combine_mistakes("bad inventory", ["a", "b"], "Fix them.").message
    'bad inventory: 2 mistakes'
    """
    count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
    return ConfigurationError(f"{summary}: {count}", detail="\n".join(mistakes), hint=hint)
