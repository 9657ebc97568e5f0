"""Checks migrations before they run: their statements, their directives, and how to send each text."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from pgratchet.errors import Location, combine_mistakes
from pgratchet.migrations import squashed
from pgratchet.migrations.directives import (
    Directives,
    directive_name,
    find_directive,
    parse_directives,
    parse_required,
)
from pgratchet.migrations.files import FileMistake, Migration

if TYPE_CHECKING:
    from pgratchet.migrations.foreign_lines import Mark
    from pgratchet.migrations.plan import Plan
    from pgratchet.migrations.statement import Comment, Statement

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

    `runs_again`: a repeatable that has run before in the same run, and runs once more. `windows` are empty when the
    text is sent whole; a large text or a COPY is sent in windows.
    """

    migration: Migration
    directives: Directives
    statements: int
    size: int
    windows: tuple[Window, ...] = ()
    is_ascii: bool = True
    runs_again: bool = False

    @property
    def name(self) -> str:
        return self.migration.name

    @property
    def is_repeatable(self) -> bool:
        return self.migration.is_repeatable


def prepare_plan(plan: Plan) -> tuple[Script, ...]:
    """Read and check the migrations of a plan; returns the scripts in the order in which they run.

    A repeatable runs before the first file that requires it, and otherwise behind the versioned files.
    """
    names = frozenset(entry.name for entry in plan.repeatables.entries if entry.migration)
    scripts = prepare_scripts(plan.todo, names)
    if plan.last is not None or plan.stopped_before is not None:  # the plan leaves the repeatables out
        required = {name for script in scripts for name in script.directives.after}
        scripts += prepare_scripts((file for file in plan.repeatables.todo if file.name in required), names)
    return _in_order(scripts)


def is_contract(migration: Migration) -> bool:
    """Return whether a file has the directive phase=contract. A file with mistakes has none."""
    text = migration.text()
    if b"phase" not in text:  # most files, which then need no parsing
        return False
    pieces = _Pieces(text)
    directives, _ = parse_directives(pieces.directives, pieces.first if pieces.count else len(text))
    return directives.phase == "contract"


def files_up_to(files: Sequence[Migration], name: str) -> tuple[Migration, ...]:
    """Return the versioned files up to one that `--to` would name, with the repeatables that these require."""
    from pgratchet.migrations.plan import make_plan

    return tuple(script.migration for script in prepare_plan(make_plan(files, (), name)))


def _in_order(scripts: Iterable[Script]) -> tuple[Script, ...]:
    """The scripts in their order. A repeatable that ran early runs again when a later file of the run may drop it.

    On a new database all files run at once: also one that requires a repeatable, and a later one that drops it.
    """
    ordered: list[Script] = []
    waiting: dict[str, Script] = {}
    early: dict[str, Script] = {}
    for script in sorted(scripts, key=lambda script: not script.is_repeatable):
        if script.is_repeatable:
            waiting[script.name] = script
            continue
        required = sorted(set(script.directives.after) & waiting.keys())
        early |= {name: waiting.pop(name) for name in required}
        ordered += [*(early[name] for name in required), script]
        waiting |= {name: replace(each, runs_again=True) for name, each in early.items() if _may_drop(script, each)}
    return (*ordered, *sorted(waiting.values(), key=lambda script: script.name))


def _may_drop(script: Script, repeatable: Script) -> bool:
    from pgratchet.migrations.created_objects import created_names, may_drop

    return may_drop(script.migration.text(), set(created_names(repeatable.migration.text())))


def prepare_scripts(migrations: Iterable[Migration], repeatables: Collection[str] | None = None) -> tuple[Script, ...]:
    """Read and check the migrations; a single ConfigurationError names every mistake.

    `repeatables` are the names of all repeatables that a file may require; None when they are not known.
    """
    results = [_check(migration, repeatables) for migration in migrations]
    mistakes = [mistake for _, script_mistakes in results for mistake in script_mistakes]
    if mistakes:
        advice = dict.fromkeys(["Fix each file; nothing was run.", *(each.advice for each in mistakes if each.advice)])
        error = combine_mistakes(
            "the migrations cannot be run", [f"{each.location}: {each.reason}" for each in mistakes], "\n".join(advice)
        )
        error.location = mistakes[0].location
        raise error
    return tuple(script for script, _ in results)


def prove_additive(scripts: Iterable[Script]) -> frozenset[str] | None:
    """Prove that the scripts of a run change and remove no existing object or row; None without a proof.

    Returns the names of the tables that must not exist before the run for the proof to hold.
    """
    from pgratchet.migrations.additive import AdditionProof
    from pgratchet.migrations.lexer import split_statements

    proof = AdditionProof()
    for script in scripts:
        text = script.migration.text()
        if not all(proof.only_adds(text, statement) for statement in split_statements(text)):
            return None
        proof.end_file()
    return frozenset(proof.required_absent)


class _Mistake(NamedTuple):
    """A mistake in a file. `advice` is a line for the hint."""

    location: Location
    reason: str
    advice: str = ""


def _check(migration: Migration, repeatables: Collection[str] | None) -> tuple[Script, list[_Mistake]]:
    from pgratchet.migrations.positions import location_at

    text = migration.text()
    pieces = _Pieces(text)
    first_statement = pieces.first if pieces.count else len(text)
    directives, directive_mistakes = parse_directives(pieces.directives, first_statement)
    mistakes = _only_mistake(text, pieces, directives)
    if not mistakes:
        if migration.is_repeatable:
            directive_mistakes += _not_in_repeatables(pieces)
        else:
            directive_mistakes += [*_late_replaced(pieces, migration), *_unknown_repeatables(pieces, repeatables)]
        mistakes = [*pieces.mistakes, *_foreign_part(pieces)]
        mistakes += [(offset, reason, "") for offset, reason in directive_mistakes]
        if not mistakes and directives.empty != (not pieces.count):
            empty = _EMPTY_REPEATABLE if migration.is_repeatable else _EMPTY
            mistakes.append((0, _NOT_EMPTY if pieces.count else empty, ""))
        refusal = _refusal_in_repeatable if migration.is_repeatable else _refusal
        mistakes += [(s.start, reason, "") for s in pieces.suspects if (reason := refusal(text, s, directives))]
    located = [_Mistake(location_at(migration, text, offset), *rest) for offset, *rest in sorted(mistakes)]
    script = Script(migration, directives, pieces.count, len(text), pieces.windows.build(), text.isascii())
    return script, located


def _not_in_repeatables(pieces: _Pieces) -> list[tuple[int, str]]:
    return [
        (offset, f'the directive "{directive_name(text)}" in a repeatable migration. {advice}')
        for offset, text in pieces.directives
        if (advice := _ONLY_IN_VERSIONED.get(directive_name(text)))
    ]


def _late_replaced(pieces: _Pieces, migration: Migration) -> list[tuple[int, str]]:
    """A mistake for replaced files that are not named by the first lines, where the plan looks for them."""
    offsets = [
        offset
        for offset, text in pieces.directives
        if directive_name(text) == "replaces" and squashed.is_valid(text.partition("=")[2])
    ]
    if len(offsets) <= len(migration.replaces):
        return []
    reason = "not among the first lines. Put all lines of this kind above all others."
    return [(offsets[len(migration.replaces)], reason)]


def _unknown_repeatables(pieces: _Pieces, repeatables: Collection[str] | None) -> list[tuple[int, str]]:
    unknown: list[tuple[int, str]] = []
    if repeatables is None:
        return unknown
    for offset, text in pieces.directives:
        with suppress(FileMistake):  # which `parse_directives` has noted
            if directive_name(text) == "after" and parse_required(text.partition("=")[2]) not in repeatables:
                unknown.append((offset, f"{text.strip()}: there is no such file. {_near(text, repeatables)}"))
    return unknown


def _near(text: str, repeatables: Collection[str]) -> str:
    import difflib

    name = parse_required(text.partition("=")[2])
    titles = {known.partition("/")[2]: known for known in sorted(repeatables)}
    near = difflib.get_close_matches(name.partition("/")[2], titles, n=1, cutoff=0.6)
    return f"Do you mean {titles[near[0]]}.sql?" if near else f"Write {name}.sql, or put it back if it was deleted."


class _Pieces:
    """The parts of a text that are checked. Mistakes have an offset, a reason and a line of advice.

    `suspects` are the statements that may be refused, and `marks` the comments for other tools.
    """

    def __init__(self, text: bytes) -> None:
        from pgratchet.migrations.classify import is_harmless
        from pgratchet.migrations.lexer import scan
        from pgratchet.migrations.statement import LexicalError, Statement

        self.windows = _WindowBuilder()
        self.directives: list[tuple[int, str]] = []
        self.marks: list[tuple[int, Mark]] = []
        self.suspects: list[Statement] = []
        self.mistakes: list[tuple[int, str, str]] = []
        self.first = self.count = 0
        try:
            for piece in scan(text):
                if isinstance(piece, Statement):
                    self.first = self.first if self.count else piece.start
                    self.count += 1
                    self.windows.add(piece)
                    if not is_harmless(piece):
                        self.suspects.append(piece)
                else:
                    self._add_comment(text, piece)
        except LexicalError as error:
            self.mistakes.append((error.offset, f"{error.reason}. {error.hint}", ""))

    def _add_comment(self, text: bytes, comment: Comment) -> None:
        from pgratchet.migrations.foreign_lines import begins_line, find_mark

        content = text[comment.start : comment.end].decode()
        if begins_line(text, comment.start) and (mark := find_mark(content)):
            self.marks.append((comment.start, mark))
        elif directive := find_directive(content):
            self.directives.append((comment.start, directive))


_OLD_STAND_IN = b"which has no SQL that could be taken over."
"""The end of the only line of a stand-in that an earlier version wrote."""
_EMPTY = "holds no statement. Write the SQL, or the line `-- migrate: empty` if that is right."
_EMPTY_REPEATABLE = "holds no statement. Write the SQL, or delete the file."
_ONLY_IN_VERSIONED = {
    "no-transaction": "All repeatables of a run share one transaction. Put its statements into a versioned migration.",
    "empty": "Delete the file if there is nothing to run.",
    "after": "Repeatables find their order themselves: remove the line.",
    "phase": "Repeatables run with the last phase: remove the line.",
    "replaces": "Only a versioned migration replaces others: remove the line.",
}
"""What to do about a directive that only versioned migrations can have."""
_NOT_EMPTY = "is declared as empty, and holds statements. Remove the line `-- migrate: empty`."
_STAND_IN = "a stand-in for an adopted migration that cannot run here."
_REPLACE_STAND_INS = (
    "Replace each stand-in with the SQL of its migration, and run `invoke adopt`. "
    "Or run `invoke adopt --write-baseline`: it adopts the live schema as one file."
)
_CONFLICT = "a merge conflict. Keep the right lines, and remove the lines that begin with <<<<<<<, ======= and >>>>>>>."


def _only_mistake(text: bytes, pieces: _Pieces, directives: Directives) -> list[tuple[int, str, str]]:
    """Return the mistake beside which others are of no interest, if there is one."""
    from pgratchet.migrations.foreign_lines import find_conflict

    if directives.stand_in or (not pieces.count and text.startswith(b"-- Stands for ") and _OLD_STAND_IN in text):
        return [(0, _STAND_IN, _REPLACE_STAND_INS)]  # the rest is another tool's text
    conflict = find_conflict(text)
    return [] if conflict is None else [(conflict, _CONFLICT, "")]  # the rest is two texts


def _foreign_part(pieces: _Pieces) -> list[tuple[int, str, str]]:
    """Return a mistake for the marks of another tool: at the one that undoes, if any, else at the first."""
    marks = sorted(pieces.marks, key=lambda each: not each[1].undoes)
    return [(offset, mark.reason, mark.advice) for offset, mark in marks[:1]]


def _refusal(text: bytes, statement: Statement, directives: Directives) -> str | None:
    """Return the reason to refuse a statement in a migration, or None."""
    from pgratchet.migrations import classify

    control = classify.transaction_control(statement)
    if control:
        return f"{control} in a migration. pgratchet begins and ends the transactions: remove it."
    if classify.turns_off_standard_strings(statement):
        return "standard_conforming_strings is on in every migration. Write E'...' for a string with backslash escapes."
    if classify.copies_to_client(statement):
        return "COPY to the client. A migration has no use for the rows: remove it."
    if statement.rows and not directives.transactional:
        return "COPY ... FROM STDIN in a file without a transaction. Put it into a file of its own."
    if statement.rows and classify.reads_other_encoding(text, statement):
        return "COPY with another ENCODING than UTF8. The file, with its rows, is UTF-8: remove the option."
    outside = classify.outside_transaction(statement)
    head = statement.head
    if outside == "CREATE INDEX CONCURRENTLY" and head[head.index("CONCURRENTLY") + 1] == "ON":
        return "CREATE INDEX CONCURRENTLY without a name. Name the index: a failed build is found by its name."
    if outside and directives.transactional:
        return f"{outside} cannot run inside a transaction. Declare above all statements: -- migrate: no-transaction"
    return None


def _refusal_in_repeatable(text: bytes, statement: Statement, directives: Directives) -> str | None:
    """Return the reason to refuse a statement in a repeatable, or None."""
    from pgratchet.migrations import classify

    if statement.rows:
        return "COPY ... FROM STDIN in a repeatable migration. Put it into a versioned migration."
    if outside := classify.outside_transaction(statement):
        return f"{outside} cannot run inside a transaction, as repeatables do. Put it into a versioned migration."
    return _refusal(text, statement, directives)


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
