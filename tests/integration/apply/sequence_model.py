"""A model of a folder of migrations and of the resulting database (test_sequences.py)."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pgratchet.migrations.scripts import SIZE_LIMIT

MARK = "INSERT INTO public.effects VALUES ('{name}', {number})"


TABLE = "CREATE TABLE t{version} (x int)"


PROCEDURE = f"DO $$ BEGIN {MARK}; COMMIT; END $$"


TRANSACTIONAL = {
    "plain": (TABLE, MARK),
    "empty": (),
    "slow": (TABLE, "SELECT pg_sleep(0.2)", MARK),
    "copy": (MARK, TABLE, "COPY t{version} FROM STDIN;\n1\n2\n\\.\n", MARK),
    "large": (MARK, TABLE, *(f"INSERT INTO t{{version}} VALUES (length('{'x' * 100_000}'))",) * 3, MARK),
    "fails": (TABLE, MARK, "SELECT 1 / 0"),
    "no_sql": (TABLE, MARK, "SELEKT 1"),
    "copy_fails": (MARK, TABLE, "COPY t{version} FROM STDIN;\n1\nx\n\\.\n"),
    "fails_at_its_end": (
        TABLE,
        MARK,
        "ALTER TABLE t{version} ADD UNIQUE (x) DEFERRABLE INITIALLY DEFERRED",
        "INSERT INTO t{version} VALUES (1), (1)",
    ),
    "unfit": (TABLE, MARK, "COMMIT"),
}


BY_STEPS = {
    "steps": (
        TABLE,
        MARK,
        "CREATE INDEX CONCURRENTLY i{version} ON t{version} (x)",
        MARK,
        "CREATE UNIQUE INDEX CONCURRENTLY u{version} ON t{version} (x)",
        "DROP INDEX CONCURRENTLY i{version}",
        MARK,
    ),
    "elsewhere": (
        "CREATE SCHEMA s{version}",
        "SET search_path = s{version}",
        TABLE,
        MARK,
        "CREATE INDEX CONCURRENTLY i{version} ON t{version} (x)",
        "VACUUM t{version}",
        "ALTER TABLE t{version} ADD y int",
        MARK,
    ),
    "procedure": (TABLE, PROCEDURE, MARK, "VACUUM t{version}", PROCEDURE),
    "steps_fail": (TABLE, MARK, "CREATE INDEX CONCURRENTLY i{version} ON t{version} (x)", "SELECT 1 / 0", MARK),
    "steps_empty": (),
}


MENDED = {"1 / 0": "1 / 1", "SELEKT": "SELECT", "\nx\n": "\n3\n", "COMMIT": "SELECT 1", "(1), (1)": "(1), (2)"}


@dataclass(frozen=True)
class File:
    """A migration by its statements. `comment` is added by an edit."""

    name: str
    statements: tuple[str, ...]
    stepwise: bool
    comment: str = ""

    @staticmethod
    def make(version: int, kind: str) -> File:
        name = f"{version:05}_{kind}"
        statements = (TRANSACTIONAL | BY_STEPS)[kind]
        numbered = (s.format(name=name, version=version, number=number) for number, s in enumerate(statements, start=1))
        return File(name, tuple(numbered), kind in BY_STEPS)

    @property
    def version(self) -> int:
        return int(self.name[:5])

    @property
    def text(self) -> str:
        head = "-- migrate: no-transaction\n" if self.stepwise else ""
        head += "-- migrate: empty\n" if not self.statements else ""
        ended = (s if s.startswith("COPY") else f"{s};\n" for s in self.statements)
        return f"{head}{''.join(ended)}{self.comment}"

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def trips(self) -> int:
        """The approximate number of round trips."""
        if self.stepwise:
            return 5 + sum(6 if "CONCURRENTLY" in statement else 2 for statement in self.statements)
        return 7 if len(self.text) > SIZE_LIMIT or "COPY" in self.text else 1

    @property
    def fails(self) -> bool:
        return any(wrong in self.text for wrong in MENDED if wrong != "COMMIT")

    def mended(self, begun: int | None) -> File:
        """The corrected file. A statement with an unknown outcome is replaced, as if a person had examined it."""
        statements = list(self.statements)
        if begun:
            statements[begun - 1] = "SELECT 'looked at'"
        for number, statement in enumerate(statements):
            for wrong, right in MENDED.items():
                if not statement.startswith("DO "):
                    statements[number] = statement = statement.replace(wrong, right)
        return replace(self, statements=tuple(statements))


@dataclass
class Model:
    """The expected content of folder and database. `done` and `begun` belong to `stopped`, the unfinished row.

    `doubtful` are effects that may or may not exist.
    """

    folder: dict[str, File] = field(default_factory=dict)
    finished: dict[str, File] = field(default_factory=dict)
    stopped: File | None = None
    done: int = 0
    begun: int | None = None
    doubtful: set[tuple[str, int]] = field(default_factory=set)

    def rows(self) -> set[str]:
        return {*self.finished, *([self.stopped.name] if self.stopped else [])}

    def late(self) -> list[str]:
        newest = max((name for name in self.folder if name in self.rows()), default="")
        return [name for name in self.folder if name not in self.rows() and name < newest]

    def disagrees(self) -> bool:
        changed = any(self.folder.get(name) != file for name, file in self.finished.items())
        return changed or bool(self.late()) or bool(self.rows() - self._untouched() - set(self.folder))

    def _untouched(self) -> set[str]:
        """The unfinished file, if no statement of it took effect: it may be removed."""
        return {self.stopped.name} if self.stopped and not self.done and self.begun is None else set()

    def expects(self) -> tuple[list[str], str | None]:
        """The files that a run without a fault applies, and the error that ends it."""
        if self.disagrees():
            return [], "HistoryDisagrees"
        todo = sorted(set(self.folder) - set(self.finished))
        if any(self.folder[name].statements[-1:] == ("COMMIT",) for name in todo):
            return [], "ConfigurationError"
        for number, name in enumerate(todo):
            if self.folder[name].fails or self.in_doubt(name):
                return todo[:number], "StoppedPartWay" if self.folder[name].stepwise else "MigrationFailed"
        return todo, None

    def trips(self) -> int:
        """The approximate number of round trips of a run."""
        todo = [] if self.disagrees() else set(self.folder) - set(self.finished)
        return 4 + sum(self.folder[name].trips for name in todo) if todo else 1

    def in_doubt(self, name: str) -> bool:
        """Return whether a statement of this file has begun whose outcome is unknown."""
        begun = self.begun is not None and self.stopped is not None and self.stopped.name == name
        return begun and self.folder[name].statements[(self.begun or 0) - 1].startswith("DO ")

    def ran(self) -> Iterator[tuple[str, int, str]]:
        """Every statement that took effect, by file and number."""
        for file in self.finished.values():
            yield from ((file.name, number, text) for number, text in enumerate(file.statements, start=1))
        if self.stopped:
            for number, text in enumerate(self.stopped.statements[: self.done], start=1):
                yield self.stopped.name, number, text

    def effects(self) -> Counter[tuple[str, int]]:
        return Counter((name, number) for name, number, text in self.ran() if "public.effects" in text)

    def tables(self) -> list[tuple[str, str]]:
        created = (
            (name, int(match[1])) for name, _, text in self.ran() if (match := re.match(r"CREATE TABLE t(\d+)", text))
        )
        return sorted((f"s{version}" if "elsewhere" in name else "public", f"t{version}") for name, version in created)

    def indexes(self) -> set[str]:
        matches = [(text, re.match(r"(CREATE|DROP).* INDEX CONCURRENTLY (\w+)", text)) for _, _, text in self.ran()]
        created = {match[2] for _, match in matches if match and match[1] == "CREATE"}
        return created - {match[2] for _, match in matches if match and match[1] == "DROP"}
