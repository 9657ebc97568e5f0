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
    ├── Unreachable          10  network, host key, login; or another environment's database
    ├── NotRehearsed         11  no rehearsal of these migrations, or it exceeded the budget
    ├── SchemaDiffers        12  the live schema is not the one that the files make
    └── Interrupted         130  a signal; 143 for SIGTERM, 129 for SIGHUP

The wording follows https://www.postgresql.org/docs/current/error-style-guide.html: the message is a line in lower
case without a full stop; detail and hint are sentences.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Location:
    """A position in a migration file. Lines and columns count from 1, columns in characters.

    `last_line` is the end of a long statement, when the position in it is not known; `line` is then its beginning.
    `before` and `after` are the text of the line on both sides of the position; a long text is cut at its far end.
    """

    migration: str
    line: int | None = None
    column: int | None = None
    sqlstate: str | None = None
    path: str = field(default="", compare=False)
    before: str = field(default="", compare=False)
    after: str = field(default="", compare=False)
    last_line: int | None = field(default=None, compare=False)

    def describe(self) -> str:
        """Format the position, and say which lines a long statement has when the position in it is not known."""
        lines = f", in the statement of lines {self.line} to {self.last_line}" if self.last_line else ""
        return f"{self}{lines}"

    def __str__(self) -> str:
        """Format as sql/003_email.sql:3:10, which terminals and editors open."""
        parts = [self.path or self.migration, self.line, self.column]
        return ":".join(str(part) for part in parts if part is not None)


def role_advice(name: str) -> str:
    """Return the beginning of the hint about a role that the server lacks."""
    return f'Create the role on the server with `CREATE ROLE "{name}"`, or correct its name in the file'


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
        self.missing_role = ""  # the role that the server lacks, when that is the reason
        self.printed = False  # True once it was printed as JSON

    def __str__(self) -> str:
        """Format the three parts for people."""
        return combine_parts(*self.parts)

    @property
    def parts(self) -> tuple[str, str, str]:
        return self.message, self.detail, self.hint

    def rerun_with(self, task: str) -> None:
        """Name another task than `migrate` in the hint, when that task ran the migrations on a scratch server."""
        hint = self.hint.replace("`invoke migrate` again: it continues at that statement", "`invoke migrate` again")
        self.hint = hint.replace("`invoke migrate`", f"`invoke {task}`")

    def advise_inventory_roles(self) -> bool:
        """Name the inventory in the hint, on a server whose roles it creates; returns whether a role is missing."""
        if not self.missing_role:
            return False
        name = self.missing_role
        item = name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) else json.dumps(name)
        advice = f"Add `roles: [{item}]` to inventory/group_vars/all.yml, or `{item}` to its list"
        self.hint = self.hint.replace(role_advice(name), advice)
        return True

    def as_json(self) -> dict[str, str | int | None]:
        """Return the value of `error` in a `--json` result."""
        location = self.location
        return {
            "code": self.exit_code,
            "message": self.message,
            "detail": self.detail,
            "hint": self.hint,
            "migration": location.migration if location else None,
            "path": (location.path or None) if location else None,
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


class NotRehearsed(RatchetError):
    exit_code = 11


class SchemaDiffers(RatchetError):
    exit_code = 12


class ServerNotRunning(Unreachable):
    """The bundled PostgreSQL does not run. `is_new` when it was never started, and so has no data."""

    is_new = False


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


def combine_parts(message: str, detail: str, hint: str) -> str:
    """Combine the parts of an error. The lines of a detail or hint are indented below the first line."""
    parts = [message]
    if detail:
        parts.append("DETAIL: " + detail.replace("\n", "\n        "))
    if hint:
        parts.append("HINT: " + hint.replace("\n", "\n      "))
    return "\n".join(parts)


def combine_mistakes(summary: str, mistakes: list[str], hint: str) -> ConfigurationError:
    """Combine mistakes into one error: the message counts the mistakes, the detail lists them.

    >>> combine_mistakes("bad inventory", ["a", "b"], "Fix them.").message
    'bad inventory: 2 mistakes'
    """
    count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
    return ConfigurationError(f"{summary}: {count}", detail="\n".join(mistakes), hint=hint)
