"""The family of errors: what failed, the detail, what to do next.

Every mistake that a user can make or meet is one of these, and carries the exit code of its process:

    RatchetError
    ├── ConfigurationError    2  usage, inventory, templates, migration files
    ├── LockBusy              4  another run holds the migration lock
    ├── MigrationFailed       5  a statement failed; its file was rolled back
    ├── StoppedPartWay        6  a non-transactional file stopped between its statements
    ├── OutcomeUnknown        7  the server could not be asked what became of a COMMIT
    ├── HistoryDisagrees      8  the files and the history tell different stories
    ├── BackupFailed          9  no backup, so no migration
    ├── Unreachable          10  network, host key, login
    └── Interrupted         130  a signal; 143 for SIGTERM, 129 for SIGHUP

The wording follows PostgreSQL's style guide: the message is one line, lower case, without a full stop;
detail and hint are sentences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Location:
    """Where SQL is to blame. Line and column count characters from 1; sqlstate has five characters."""

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
    """An error in three parts; the class decides the exit code."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, detail: str = "", hint: str = "", place: Location | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint
        self.place = place
        self.status: int = self.exit_code
        self.printed = False  # whether a program has been given it as JSON

    def __str__(self) -> str:
        """The three parts as people read them; a detail of several lines keeps them, indented."""
        parts = [self.message]
        if self.detail:
            parts.append("DETAIL: " + self.detail.replace("\n", "\n        "))
        if self.hint:
            parts.append("HINT: " + self.hint.replace("\n", "\n      "))
        return "\n".join(parts)

    def as_json(self) -> dict[str, str | int | None]:
        """The shape of `error` in every `--json` result."""
        place = self.place
        return {
            "code": self.exit_code,
            "message": self.message,
            "detail": self.detail,
            "hint": self.hint,
            "migration": place.migration if place else None,
            "line": place.line if place else None,
            "column": place.column if place else None,
            "sqlstate": place.sqlstate if place else None,
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
        ended = signal if isinstance(signal, Terminated) else None
        super().__init__(ended.word if ended else "interrupted", detail=detail, hint=hint)
        self.status = ended.status if ended else 130

    def as_json(self) -> dict[str, str | int | None]:
        return super().as_json() | {"code": self.status}


FAMILY: dict[int, type[RatchetError]] = {kind.exit_code: kind for kind in RatchetError.__subclasses__()}
"""The errors by their exit codes."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, as an interrupt: the statement is cancelled, the lock released, the partial files removed."""

    word: ClassVar[str] = "terminated"
    status: ClassVar[int] = 143


class HungUp(Terminated):
    """SIGHUP: the terminal or the SSH session is gone, so that no one may read what is said."""

    word = "hung up"
    status = 129


def several(summary: str, mistakes: list[str], hint: str) -> ConfigurationError:
    """One error for every mistake found: counted in the message, listed in the detail.

    >>> several("bad inventory", ["a", "b"], "Fix them.").message
    'bad inventory: 2 mistakes'
    """
    count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
    return ConfigurationError(f"{summary}: {count}", detail="\n".join(mistakes), hint=hint)
