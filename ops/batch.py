"""One round trip's worth of migrations: how it is put together, and where in it an error belongs.

Pure text and arithmetic. Each migration is framed by its own BEGIN and COMMIT, so a batch is not one
transaction but several that travel together: an error ends the string at its place, what was committed before
it stays, and only the migration it stands in is rolled back. A syntax error is found before anything runs,
wherever it stands, because the server parses the whole string first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ops.errors import Place
from ops.migrations import Script
from ops.statements import line_and_column

SIZE_LIMIT = 256_000
"""Characters of text up to which migrations share a batch: a large one goes alone, so that progress shows."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The statements around a migration's text, without semicolons."""

    opening: Sequence[str]
    closing: Sequence[str]


@dataclass(frozen=True, slots=True)
class Batch:
    """`text` is what is sent. Per script: where its text begins in it, and how many results come before that."""

    scripts: tuple[Script, ...]
    text: str
    offsets: tuple[int, ...]
    results: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """Where an error belongs: the index of its script, and the place. `framing`: it lies in our own opening."""

    index: int
    place: Place
    framing: bool


def compose(scripts: Sequence[Script], frame: Callable[[Script], Frame]) -> Batch:
    """Put the scripts, each in its frame, into one string."""
    pieces: list[str] = []
    offsets: list[int] = []
    results: list[int] = []
    length = count = 0
    for script in scripts:
        around = frame(script)
        opening = "".join(f"{statement};\n" for statement in around.opening)
        # The line end closes a comment on the last line, the semicolon a statement that has none.
        closing = "\n;\n" + "".join(f"{statement};\n" for statement in around.closing)
        offsets.append(length + len(opening))
        results.append(count + len(around.opening))
        pieces += (opening, script.text, closing)
        length += len(opening) + len(script.text) + len(closing)
        count += len(around.opening) + len(script.statements) + len(around.closing)
    return Batch(tuple(scripts), "".join(pieces), tuple(offsets), tuple(results))


def locate(batch: Batch, answered: int, position: int | None, sqlstate: str | None) -> Fault:
    """The place of an error: `answered` statements succeeded before it; `position` is 1-based in the whole text."""
    if position is not None:
        for index, (script, offset) in enumerate(zip(batch.scripts, batch.offsets, strict=True)):
            within = position - 1 - offset
            # An unfinished last statement is noticed at the semicolon that was put behind the text.
            if 0 <= within <= len(script.text) + 1:
                return _fault(script, index, min(within, len(script.text)), sqlstate)
    index = max((i for i, first in enumerate(_beginnings(batch)) if first <= answered), default=0)
    script, statement = batch.scripts[index], answered - batch.results[index]
    if 0 <= statement < len(script.statements):
        return _fault(script, index, script.statements[statement].start, sqlstate)
    return Fault(index, Place(script.migration.name, sqlstate=sqlstate), framing=statement < 0)


def _beginnings(batch: Batch) -> Iterator[int]:
    """How many results come before each script's opening."""
    opening = batch.results[0]
    return (first - opening for first in batch.results)


def _fault(script: Script, index: int, offset: int, sqlstate: str | None) -> Fault:
    line, column = line_and_column(script.text, offset)
    return Fault(index, Place(script.migration.name, line, column, sqlstate), framing=False)


def batches(scripts: Iterable[Script], size: int) -> Iterator[tuple[Script, ...]]:
    """Cut the scripts, in order, into runs of at most `size` that stay under the size limit together.

    One without a transaction is alone.
    """
    current: list[Script] = []
    for script in scripts:
        if current and not _fits(script, current, size):
            yield tuple(current)
            current = []
        current.append(script)
    if current:
        yield tuple(current)


def _fits(script: Script, current: Sequence[Script], size: int) -> bool:
    together = script.directives.transactional and current[-1].directives.transactional
    total = sum(len(each.text) for each in current) + len(script.text)
    return together and len(current) < size and total <= SIZE_LIMIT
