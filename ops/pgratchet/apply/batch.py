"""Composes the text for a round trip, and locates errors by migration, line and column. Pure functions.

In a batch each migration has a BEGIN and a COMMIT. An error ends the batch: earlier migrations are committed, the
migration with the error is rolled back, and later ones do not run. The server parses the whole text before it runs the
first statement, so nothing has run after a syntax error anywhere
(https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-MULTI-STATEMENT).

A migration above the size limit, or with the rows of a COPY, is sent alone: in a single transaction, in windows of
whole statements. Only a window at a time is in flight, however large the migration is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pgratchet.apply.diagnosis import Diagnosis
from pgratchet.apply.pointing import find_unclosed, locate_in_statement
from pgratchet.errors import Location
from pgratchet.migrations.lexer import split_statements
from pgratchet.migrations.positions import byte_offset, location_at
from pgratchet.migrations.scripts import SIZE_LIMIT, Script, Window


@dataclass(frozen=True, slots=True)
class Frame:
    """The statements before and after a migration's text, without semicolons."""

    opening: Sequence[bytes]
    closing: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Batch:
    """Scripts composed into a text; for each script, the slice of the text and the number of earlier results."""

    scripts: tuple[Script, ...]
    text: bytes
    slices: tuple[slice, ...]
    results_before: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """The location of an error. `framing`: the error is in the opening of the migration's frame.

    `unclosed`: the location is that of a parenthesis that is not closed.
    """

    location: Location
    framing: bool = False
    unclosed: bool = False


def compose(
    parts: Sequence[tuple[Script, bytes]], frame: Callable[[Script, bytes], Frame], trailing: Sequence[bytes] = ()
) -> Batch:
    """Compose scripts with their texts into a single text, each in a frame; `trailing` statements end the text."""
    pieces: list[bytes] = []
    slices: list[slice] = []
    results_before: list[int] = []
    length = count = 0
    for script, text in parts:
        statements = frame(script, text)
        opening = b"".join(b"%b;\n" % statement for statement in statements.opening)
        # The line end closes a comment on the last line, the semicolon a last statement without one.
        closing = b"\n;\n" + b"".join(b"%b;\n" % statement for statement in statements.closing)
        slices.append(slice(length + len(opening), length + len(opening) + len(text)))
        results_before.append(count + len(statements.opening))
        pieces += (opening, text, closing)
        length += len(opening) + len(text) + len(closing)
        count += len(statements.opening) + script.statements + len(statements.closing)
    pieces += (b"%b;\n" % statement for statement in trailing)
    return Batch(tuple(script for script, _ in parts), b"".join(pieces), tuple(slices), tuple(results_before))


def locate(batch: Batch, answered: int, error: Diagnosis) -> Failure:
    """Locate an error. `answered` statements succeeded before the error; its position is one in the text."""
    if error.position is not None:
        offset = byte_offset(batch.text, error.position)
        for index, part in enumerate(batch.slices):
            # The server notices an unfinished last statement at the semicolon behind the text.
            if part.start <= offset <= part.stop + 1:
                return _failure_at(batch, index, min(offset, part.stop) - part.start, error)
    index = max((i for i, count in enumerate(_results_before_openings(batch)) if count <= answered), default=0)
    script, number = batch.scripts[index], answered - batch.results_before[index]
    if 0 <= number < script.statements:
        text = batch.text[batch.slices[index]]
        return Failure(locate_in_statement(script.migration, text, split_statements(text)[number], error))
    return Failure(whole_file(script, error.sqlstate), framing=number < 0)


def whole_file(script: Script, sqlstate: str | None) -> Location:
    """Return the location of an error that belongs to no statement of the file."""
    return Location(script.name, sqlstate=sqlstate, path=script.migration.path)


def _results_before_openings(batch: Batch) -> Iterator[int]:
    opening = batch.results_before[0]
    return (count - opening for count in batch.results_before)


def _failure_at(batch: Batch, index: int, offset: int, error: Diagnosis) -> Failure:
    """The failure at a position from the server, or at the parenthesis that was not closed before it."""
    text, migration = batch.text[batch.slices[index]], batch.scripts[index].migration
    unclosed = find_unclosed(text, offset, error)
    offset = min(offset, len(text.rstrip()))  # the last line may be empty
    location = location_at(migration, text, offset if unclosed is None else unclosed, error.sqlstate)
    return Failure(location, unclosed=unclosed is not None)


def locate_in_window(script: Script, text: bytes, window: Window, answered: int, error: Diagnosis) -> Failure:
    """Locate an error in a window of `text`, the whole text of the script."""
    piece = text[window.start : window.end]
    if error.position is not None:
        offset = window.start + byte_offset(piece, error.position)
        return Failure(location_at(script.migration, text, offset, error.sqlstate))
    statements = split_statements(piece, rows=False)
    failed = statements[min(answered, len(statements) - 1)]
    failed = failed._replace(start=window.start + failed.start, end=window.start + failed.end)
    return Failure(locate_in_statement(script.migration, text, failed, error))


def split_into_batches(scripts: Iterable[Script], size: int) -> Iterator[tuple[Script, ...]]:
    """Split the scripts, in order, into batches of at most `size` scripts and SIZE_LIMIT bytes.

    A script without a transaction, or with windows, makes a batch alone. Consecutive repeatables make one batch.
    """
    current: list[Script] = []
    for script in scripts:
        if current and not _fits(script, current, size):
            yield tuple(current)
            current = []
        current.append(script)
    if current:
        yield tuple(current)


def is_sent_alone(script: Script) -> bool:
    return bool(script.windows) or not script.directives.transactional


def _fits(script: Script, current: Sequence[Script], size: int) -> bool:
    if script.is_repeatable or current[-1].is_repeatable:
        return script.is_repeatable and current[-1].is_repeatable
    alone = is_sent_alone(script) or is_sent_alone(current[-1])
    total = sum(other.size for other in current) + script.size
    return not alone and len(current) < size and total <= SIZE_LIMIT
