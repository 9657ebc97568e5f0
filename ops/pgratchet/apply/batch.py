"""What travels in one round trip: several small migrations, or a part of a large one; and where in it an error belongs.

Pure text and arithmetic. In a batch each migration is framed by its own BEGIN and COMMIT, so it is not one
transaction but several that travel together: an error ends the string at its place, what was committed before
it stays, and only the migration it stands in is rolled back. A syntax error is found before anything runs,
wherever it stands, because the server parses the whole string first.

A migration that is larger than a batch may be, or that holds the rows of a COPY, travels alone and in windows
of whole statements, all in one transaction: no more of it than a window is in flight, however large it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pgratchet.errors import Location
from pgratchet.migrations.lexer import Statement, byte_offset, line_and_column, scan
from pgratchet.migrations.scripts import SIZE_LIMIT, Script, Window


@dataclass(frozen=True, slots=True)
class Frame:
    """The statements around a migration's text, without semicolons."""

    opening: Sequence[bytes]
    closing: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Batch:
    """`text` is what is sent. Per script: where its text is in it, and how many results come before that."""

    scripts: tuple[Script, ...]
    text: bytes
    places: tuple[slice, ...]
    results: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """Where an error belongs. `framing`: it lies in our own opening."""

    place: Location
    framing: bool = False


def compose(
    parts: Sequence[tuple[Script, bytes]], frame: Callable[[Script, bytes], Frame], behind: Sequence[bytes] = ()
) -> Batch:
    """Put the scripts with their texts, each in its frame, into one string; `behind` are statements that end it."""
    pieces: list[bytes] = []
    places: list[slice] = []
    results: list[int] = []
    length = count = 0
    for script, text in parts:
        around = frame(script, text)
        opening = b"".join(b"%b;\n" % statement for statement in around.opening)
        # The line end closes a comment on the last line, the semicolon a statement that has none.
        closing = b"\n;\n" + b"".join(b"%b;\n" % statement for statement in around.closing)
        places.append(slice(length + len(opening), length + len(opening) + len(text)))
        results.append(count + len(around.opening))
        pieces += (opening, text, closing)
        length += len(opening) + len(text) + len(closing)
        count += len(around.opening) + script.statements + len(around.closing)
    pieces += (b"%b;\n" % statement for statement in behind)
    return Batch(tuple(script for script, _ in parts), b"".join(pieces), tuple(places), tuple(results))


def locate(batch: Batch, answered: int, position: int | None, sqlstate: str | None) -> Failure:
    """The place of an error: `answered` statements succeeded before it; `position` is in characters of the text."""
    if position is not None:
        offset = byte_offset(batch.text, position)
        for index, place in enumerate(batch.places):
            # An unfinished last statement is noticed at the semicolon that was put behind the text.
            if place.start <= offset <= place.stop + 1:
                return _fault(batch, index, min(offset, place.stop) - place.start, sqlstate)
    index = max((i for i, first in enumerate(_beginnings(batch)) if first <= answered), default=0)
    script, number = batch.scripts[index], answered - batch.results[index]
    if 0 <= number < script.statements:
        found = [piece for piece in scan(batch.text[batch.places[index]]) if isinstance(piece, Statement)]
        return _fault(batch, index, found[number].start, sqlstate)
    return Failure(Location(script.name, sqlstate=sqlstate), framing=number < 0)


def _beginnings(batch: Batch) -> Iterator[int]:
    """How many results come before each script's opening."""
    opening = batch.results[0]
    return (first - opening for first in batch.results)


def _fault(batch: Batch, index: int, offset: int, sqlstate: str | None) -> Failure:
    line, column = line_and_column(batch.text[batch.places[index]], offset)
    return Failure(Location(batch.scripts[index].name, line, column, sqlstate))


def locate_in_window(
    script: Script, text: bytes, window: Window, answered: int, position: int | None, sqlstate: str | None
) -> Failure:
    """The place, in the whole text, of an error that a window met."""
    if position is not None:
        offset = window.start + byte_offset(text[window.start : window.end], position)
    else:
        found = [piece for piece in scan(text[window.start : window.end], rows=False) if isinstance(piece, Statement)]
        offset = window.start + found[min(answered, len(found) - 1)].start
    return Failure(Location(script.name, *line_and_column(text, offset), sqlstate))


def batches(scripts: Iterable[Script], size: int) -> Iterator[tuple[Script, ...]]:
    """Cut the scripts, in order, into runs of at most `size` that stay under the size limit together.

    One without a transaction is alone, and so is one that travels in windows.
    """
    current: list[Script] = []
    for script in scripts:
        if current and not _fits(script, current, size):
            yield tuple(current)
            current = []
        current.append(script)
    if current:
        yield tuple(current)


def travels_alone(script: Script) -> bool:
    return bool(script.windows) or not script.directives.transactional


def _fits(script: Script, current: Sequence[Script], size: int) -> bool:
    alone = travels_alone(script) or travels_alone(current[-1])
    total = sum(each.size for each in current) + script.size
    return not alone and len(current) < size and total <= SIZE_LIMIT
