"""Checks migrations before they run: their statements, their directives, and how to send each text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgratchet.errors import Location, combine_mistakes
from pgratchet.migrations.directives import DIRECTIVE, Directives, parse_directives
from pgratchet.migrations.files import Migration

if TYPE_CHECKING:
    from pgratchet.migrations.statement import Statement

SIZE_LIMIT = 256_000
"""Largest size of a batch and of a window, in bytes. The limit keeps memory small and lets progress show."""


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a text for a round trip, by offsets in bytes: whole statements, or a COPY with all rows."""

    start: int
    end: int
    rows: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """A checked migration. `statements` is the number of statements, `size` the size of the text in bytes.

    `windows` are empty when the text is sent whole; a large text or a COPY is sent in windows.
    """

    migration: Migration
    directives: Directives
    statements: int
    size: int
    windows: tuple[Window, ...] = ()

    @property
    def name(self) -> str:
        return self.migration.name


def prepare_scripts(migrations: Iterable[Migration]) -> tuple[Script, ...]:
    """Read and check the migrations; a single ConfigurationError names every mistake."""
    results = [_check(migration) for migration in migrations]
    mistakes = [mistake for _, script_mistakes in results for mistake in script_mistakes]
    if mistakes:
        error = combine_mistakes(
            "the migrations cannot be run",
            [f"{location}: {reason}" for location, reason in mistakes],
            "Fix each file; nothing was run.",
        )
        error.location = mistakes[0][0]
        raise error
    return tuple(script for script, _ in results)


def only_adds(script: Script) -> bool:
    """Return whether a script, by its words, changes and removes no existing object or row."""
    from pgratchet.migrations.additive import is_additive
    from pgratchet.migrations.lexer import split_statements

    text = script.migration.text()
    return all(is_additive(text, statement) for statement in split_statements(text))


def _check(migration: Migration) -> tuple[Script, list[tuple[Location, str]]]:
    from pgratchet.migrations import classify
    from pgratchet.migrations.lexer import scan
    from pgratchet.migrations.positions import line_and_column
    from pgratchet.migrations.statement import LexicalError, Statement

    text = migration.text()
    windows = _WindowBuilder()
    comments: list[tuple[int, str]] = []
    suspects: list[Statement] = []
    mistakes: list[tuple[int, str]] = []
    first = count = 0
    try:
        for piece in scan(text):
            if isinstance(piece, Statement):
                first = first if count else piece.start
                count += 1
                windows.add(piece)
                if not classify.is_harmless(piece):
                    suspects.append(piece)
            elif match := DIRECTIVE.match(text, piece.start, piece.end):
                comments.append((piece.start, match["text"].decode()))
    except LexicalError as error:
        mistakes.append((error.offset, f"{error.reason}. {error.hint}"))
    directives, directive_mistakes = parse_directives(comments, first if count else len(text))
    mistakes += directive_mistakes
    mistakes += [(s.start, reason) for s in suspects if (reason := _refusal(s, directives))]
    located = [
        (Location(migration.name, *line_and_column(text, offset)), reason) for offset, reason in sorted(mistakes)
    ]
    return Script(migration, directives, count, len(text), windows.build()), located


def _refusal(statement: Statement, directives: Directives) -> str | None:
    """Return the reason to refuse a statement in a migration, or None."""
    from pgratchet.migrations import classify

    control = classify.transaction_control(statement)
    if control:
        return f"{control} in a migration. Transactions are the runner's: take it out."
    if classify.turns_off_standard_strings(statement):
        return "standard_conforming_strings is on in every migration. Write E'...' where a backslash is to escape."
    if classify.copies_to_client(statement):
        return "COPY to the client. A migration has no one to give the rows to: take it out."
    if statement.rows and not directives.transactional:
        return "COPY ... FROM STDIN in a file without a transaction. Put it into a file of its own."
    outside = classify.outside_transaction(statement)
    head = statement.head
    if outside == "CREATE INDEX CONCURRENTLY" and head[head.index("CONCURRENTLY") + 1] == "ON":
        return "CREATE INDEX CONCURRENTLY without a name. Name it: what it leaves when it fails must be found again."
    if outside and directives.transactional:
        return f"{outside} cannot run inside a transaction. Declare above all statements: -- migrate: no-transaction"
    return None


class _WindowBuilder:
    """Cuts a text into windows while the statements are read, so a large text is read once."""

    def __init__(self) -> None:
        self._windows: list[Window] = []
        self._start = self._end = -1

    def add(self, statement: Statement) -> None:
        if self._start >= 0 and (statement.rows or statement.end - self._start > SIZE_LIMIT):
            self._close()
        if statement.rows:
            self._windows.append(Window(statement.start, statement.end, statement.rows))
            return
        if self._start < 0:
            self._start = statement.start
        self._end = statement.end

    def build(self) -> tuple[Window, ...]:
        """Return the windows; none when the text can be sent whole."""
        if self._start >= 0:
            self._close()
        needed = len(self._windows) > 1 or any(
            window.rows or window.end - window.start > SIZE_LIMIT for window in self._windows
        )
        return tuple(self._windows) if needed else ()

    def _close(self) -> None:
        self._windows.append(Window(self._start, self._end))
        self._start = -1
