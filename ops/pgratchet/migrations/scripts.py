"""Checks migration files before they run: their statements, their directives, and how they are sent."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgratchet.errors import Location, several
from pgratchet.migrations.files import Migration, _MistakeError

if TYPE_CHECKING:
    from pgratchet.migrations import lexer


_DIRECTIVE = re.compile(rb"--\s*migrate\s*:\s*(?P<text>.*)", re.IGNORECASE)


_DURATION = re.compile(r"(?P<number>[0-9]{1,9})(?P<unit>ms|s|min|h)?")


_UNIT_MS = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, None: 1}


SIZE_LIMIT = 256_000
"""Bytes up to which migrations share a batch, and of a window: what is in flight stays small, and progress shows."""


@dataclass(frozen=True, slots=True)
class Directives:
    """What a file declares about how it runs. Timeouts in milliseconds; None leaves the default, 0 is none."""

    transactional: bool = True
    lock_timeout: int | None = None
    statement_timeout: int | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """Whole statements of a text, or one COPY and the rows behind it, by offsets in bytes."""

    start: int
    end: int
    rows: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """A migration, judged fit to run. `size` is its text's in bytes.

    `windows` are what it is sent in where it is not sent whole: because of its size, or for the rows of a COPY.
    """

    migration: Migration
    directives: Directives
    statements: int
    size: int
    windows: tuple[Window, ...] = ()

    @property
    def name(self) -> str:
        return self.migration.name


def prepare(migrations: Iterable[Migration]) -> tuple[Script, ...]:
    """Read and lex the migrations that are to run; one ConfigurationError names every mistake in them."""
    judged = [_judge(migration) for migration in migrations]
    mistakes = [mistake for _, found in judged for mistake in found]
    if mistakes:
        error = several(
            "the migrations cannot be run",
            [f"{place}: {why}" for place, why in mistakes],
            "Mend each file; nothing was run.",
        )
        error.place = mistakes[0][0]
        raise error
    return tuple(script for script, _ in judged)


def _judge(migration: Migration) -> tuple[Script, list[tuple[Location, str]]]:
    from pgratchet.migrations import classify, lexer

    text = migration.text()
    cut = _Cut()
    declared: list[tuple[int, str]] = []
    notable: list[lexer.Statement] = []
    mistakes: list[tuple[int, str]] = []
    first = count = 0
    try:
        for piece in lexer.scan(text):
            if isinstance(piece, lexer.Statement):
                first = first if count else piece.start
                count += 1
                cut.take(piece)
                if not classify.is_harmless(piece):
                    notable.append(piece)
            elif match := _DIRECTIVE.match(text, piece.start, piece.end):
                declared.append((piece.start, match["text"].decode()))
    except lexer.LexicalError as error:
        mistakes.append((error.offset, f"{error.reason}. {error.hint}"))
    directives, wrong = _directives(declared, first if count else len(text))
    mistakes += wrong
    mistakes += [(s.start, why) for s in notable if (why := _unfit(s, directives))]
    places = [(Location(migration.name, *lexer.line_and_column(text, at)), why) for at, why in sorted(mistakes)]
    return Script(migration, directives, count, len(text), cut.windows()), places


def only_adds(script: Script) -> bool:
    """Whether a script takes away or changes nothing that is there already, as far as its words tell."""
    from pgratchet.migrations import classify, lexer

    text = script.migration.text()
    pieces = (piece for piece in lexer.scan(text) if isinstance(piece, lexer.Statement))
    return all(classify.only_adds(text, piece) for piece in pieces)


class _Cut:
    """Cuts a text into windows while its statements are read, since a large one is not to be read twice for that."""

    def __init__(self) -> None:
        self._done: list[Window] = []
        self._start = self._end = -1

    def take(self, statement: lexer.Statement) -> None:
        if self._start >= 0 and (statement.rows or statement.end - self._start > SIZE_LIMIT):
            self._close()
        if statement.rows:
            self._done.append(Window(statement.start, statement.end, statement.rows))
            return
        if self._start < 0:
            self._start = statement.start
        self._end = statement.end

    def windows(self) -> tuple[Window, ...]:
        """None where all of it is one: that can be sent whole."""
        if self._start >= 0:
            self._close()
        alone = len(self._done) > 1 or any(
            window.rows or window.end - window.start > SIZE_LIMIT for window in self._done
        )
        return tuple(self._done) if alone else ()

    def _close(self) -> None:
        self._done.append(Window(self._start, self._end))
        self._start = -1


def _unfit(statement: lexer.Statement, directives: Directives) -> str | None:
    """Why a statement cannot be part of a migration, as a sentence."""
    from pgratchet.migrations import classify

    control = classify.transaction_control(statement)
    if control:
        return f"{control} in a migration. Transactions are the runner's: take it out."
    if classify.unsettles_strings(statement):
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


def _directives(declared: Iterable[tuple[int, str]], first: int) -> tuple[Directives, list[tuple[int, str]]]:
    """The directives, by offset and text, folded into one, and what is wrong with them.

    `first` is where the first statement is.
    """
    result, mistakes = Directives(), list[tuple[int, str]]()
    for start, text in declared:
        if start > first:
            mistakes.append((start, "a directive below the first statement. Put it above all statements."))
            continue
        try:
            result = _apply(result, text)
        except _MistakeError as mistake:
            mistakes.append((start, str(mistake)))
    return result, mistakes


def _apply(given: Directives, text: str) -> Directives:
    name, _, value = text.strip().partition("=")
    if name == "no-transaction" and not value:
        return Directives(False, given.lock_timeout, given.statement_timeout)
    if name == "lock-timeout":
        return Directives(given.transactional, _milliseconds(value), given.statement_timeout)
    if name == "statement-timeout":
        return Directives(given.transactional, given.lock_timeout, _milliseconds(value))
    raise _MistakeError(
        f'unknown directive "{text.strip()}". Known are no-transaction, lock-timeout=10s and statement-timeout=0.'
    )


def _milliseconds(value: str) -> int:
    match = _DURATION.fullmatch(value)
    if match is None or int(match["number"]) * _UNIT_MS[match["unit"]] > 2**31 - 1:
        raise _MistakeError(f'"{value}" is no duration. Write 500ms, 10s, 5min or 0 for none.')
    return int(match["number"]) * _UNIT_MS[match["unit"]]
