"""The statements of a file without a transaction, numbered from 1 as in messages and in the history."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from pgratchet.apply.diagnosis import Diagnosis
from pgratchet.apply.pointing import locate_in_statement
from pgratchet.database.history import BODY_LIMIT
from pgratchet.errors import Location
from pgratchet.migrations.classify import outside_transaction
from pgratchet.migrations.effects import Effect, find_effect, find_reindexed
from pgratchet.migrations.files import Migration
from pgratchet.migrations.lexer import read_tokens, split_statements
from pgratchet.migrations.plan import DIGEST
from pgratchet.migrations.positions import byte_offset, location_at
from pgratchet.migrations.scripts import Script
from pgratchet.migrations.statement import Statement

_COMMITS_INSIDE = ("CALL", "DO")
_WAITS_FOR_SNAPSHOTS = (
    "CREATE INDEX CONCURRENTLY",
    "DROP INDEX CONCURRENTLY",
    "REINDEX CONCURRENTLY",
    "DETACH PARTITION CONCURRENTLY",
)
_SET_CONFIG = (["SET_CONFIG", "("], ["PG_CATALOG", ".", "SET_CONFIG", "("])


@dataclass(frozen=True, slots=True)
class NumberedStatements:
    """The statements of a migration, whose text is `text`.

    `digests` has a hash of the first statements for each number of them, when the text is too large for its row.
    """

    migration: Migration
    text: bytes
    statements: tuple[Statement, ...]
    digests: tuple[str, ...] = ()

    @classmethod
    def read(cls, script: Script) -> NumberedStatements:
        text = script.migration.text()
        statements = tuple(split_statements(text))
        digests = _digests(text, statements) if len(text) > BODY_LIMIT else ()
        return cls(script.migration, text, statements, digests)

    @property
    def name(self) -> str:
        return self.migration.name

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

    def is_replacement(self, number: int, body: str | None) -> bool:
        """Return whether a statement that can run code with a COMMIT has another text than in `body`, an earlier text.

        The user has then looked at what the earlier statement did. A hash in the place of a large text does not tell.
        """
        if not self.commits_inside(number) or body is None or body.startswith(DIGEST):
            return False
        text = body.encode()
        earlier = split_statements(text)[number - 1 : number]
        words = [text[statement.start : statement.end].split() for statement in earlier]
        return words != [self.text_of(number).split()]

    def can_share_transaction(self, number: int) -> bool:
        """Return whether a statement, by its words, can share a transaction with the record in the history."""
        return not self.commits_inside(number) and outside_transaction(self.statements[number - 1]) is None

    def waits_for_snapshots(self, number: int) -> bool:
        """Return whether a statement waits for all older transactions with a snapshot."""
        return outside_transaction(self.statements[number - 1]) in _WAITS_FOR_SNAPSHOTS

    def effect(self, number: int) -> Effect | None:
        """Return the object created or dropped by a statement; None when the catalog cannot show an effect."""
        return find_effect(self.text, self.statements[number - 1])

    def ignores_existing(self, number: int) -> bool:
        """Return whether a statement does nothing when the name is taken."""
        return "EXISTS" in self.statements[number - 1].head

    def reindexed(self, number: int) -> tuple[str, str] | None:
        """Return kind and name of the object of a REINDEX CONCURRENTLY; None for other statements."""
        return find_reindexed(self.text, self.statements[number - 1])

    def record_of(self, count: int) -> bytes:
        """Return what the history keeps when `count` statements are done: the text, or a hash of these statements."""
        return self.digests[count].encode() if self.digests else self.text

    def begin_with(self, record: bytes, count: int) -> bool:
        """Return whether the first `count` statements, or all of fewer, are the same as in an earlier `record_of`."""
        if record.startswith(DIGEST.encode()):
            digests = self.digests or _digests(self.text, self.statements)
            return digests[min(count, len(self))].encode() == record
        earlier = [record[s.start : s.end] for s in split_statements(record)[:count]]
        return earlier == [self.text_of(number) for number in range(1, min(count, len(self)) + 1)]

    def locate(self, number: int, error: Diagnosis | None = None) -> Location:
        """Return the location of a statement, or of what an error is about; its position is one in the statement."""
        statement = self.statements[number - 1]
        offset = statement.start
        if error and error.position is not None:
            offset += max(0, byte_offset(self.text_of(number), error.position))
        elif error:
            return locate_in_statement(self.migration, self.text, statement, error)
        return location_at(self.migration, self.text, offset, error.sqlstate if error else None)

    def _only_sets(self, number: int) -> bool:
        head = self.statements[number - 1].head
        if head[0] != "SELECT":
            return head[0] in ("SET", "RESET")
        words = [token.word for token in read_tokens(self.text, self.statements[number - 1])]
        call = words[1:3] if words[1:2] == ["SET_CONFIG"] else words[1:5]
        return call in _SET_CONFIG and words[-1] == ")" and words.count("(") == 1


def _digests(text: bytes, statements: Sequence[Statement]) -> tuple[str, ...]:
    digest = hashlib.sha256()
    digests = [DIGEST + digest.hexdigest()]
    for statement in statements:
        digest.update(b"%d:" % (statement.end - statement.start))
        digest.update(memoryview(text)[statement.start : statement.end])
        digests.append(DIGEST + digest.hexdigest())
    return tuple(digests)
