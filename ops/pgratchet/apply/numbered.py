"""The statements of a file without a transaction, numbered from 1 as in messages and in the history."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pgratchet.errors import Location
from pgratchet.migrations.classify import outside_transaction
from pgratchet.migrations.effects import Effect, find_effect, find_reindexed
from pgratchet.migrations.lexer import split_statements
from pgratchet.migrations.positions import byte_offset, line_and_column
from pgratchet.migrations.scripts import Script
from pgratchet.migrations.statement import Statement

_COMMITS_INSIDE = ("CALL", "DO")
_WAITS_FOR_SNAPSHOTS = (
    "CREATE INDEX CONCURRENTLY",
    "DROP INDEX CONCURRENTLY",
    "REINDEX CONCURRENTLY",
    "DETACH PARTITION CONCURRENTLY",
)
_SET_CONFIG = re.compile(rb"select\s+(pg_catalog\s*\.\s*)?set_config\s*\([^()]*\)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class NumberedStatements:
    """The statements of the migration `name`, whose text is `text`."""

    name: str
    text: bytes
    statements: tuple[Statement, ...]

    @classmethod
    def read(cls, script: Script) -> NumberedStatements:
        text = script.migration.text()
        return cls(script.name, text, tuple(split_statements(text)))

    def __len__(self) -> int:
        return len(self.statements)

    def text_of(self, number: int) -> bytes:
        statement = self.statements[number - 1]
        return self.text[statement.start : statement.end]

    def settings_before(self, number: int) -> list[bytes]:
        """Return the earlier statements whose only effect is to set parameters of the session."""
        return [self.text_of(earlier) for earlier in range(1, number) if self._only_sets(earlier)]

    def commits_inside(self, number: int) -> bool:
        """Return whether a statement can run code with a COMMIT."""
        return self.statements[number - 1].head[0] in _COMMITS_INSIDE

    def can_share_transaction(self, number: int) -> bool:
        """Return whether a statement, by its words, can share a transaction with the record in the history."""
        return not self.commits_inside(number) and outside_transaction(self.statements[number - 1]) is None

    def waits_for_snapshots(self, number: int) -> bool:
        """Return whether a statement waits for all older transactions with a snapshot."""
        return outside_transaction(self.statements[number - 1]) in _WAITS_FOR_SNAPSHOTS

    def effect(self, number: int) -> Effect | None:
        """Return the object created or dropped by a statement; None when the catalog cannot show an effect."""
        return find_effect(self.text, self.statements[number - 1])

    def reindexed(self, number: int) -> tuple[str, tuple[str, ...]] | None:
        """Return kind and name of the object of a REINDEX CONCURRENTLY; None for other statements."""
        return find_reindexed(self.text, self.statements[number - 1])

    def begin_with(self, body: bytes, count: int) -> bool:
        """Return whether the first `count` statements, or all of fewer, are the same as in `body`."""
        earlier = [body[s.start : s.end] for s in split_statements(body)[:count]]
        return earlier == [self.text_of(number) for number in range(1, min(count, len(self)) + 1)]

    def locate(self, number: int, position: int | None = None, sqlstate: str | None = None) -> Location:
        """Return the location of a statement, or of the server's `position` in the statement."""
        within = max(0, byte_offset(self.text_of(number), position)) if position is not None else 0
        line, column = line_and_column(self.text, self.statements[number - 1].start + within)
        return Location(self.name, line, column, sqlstate)

    def _only_sets(self, number: int) -> bool:
        sets = self.statements[number - 1].head[0] in ("SET", "RESET")
        return sets or _SET_CONFIG.fullmatch(self.text_of(number)) is not None
