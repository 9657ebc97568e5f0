"""Migrations: the files, what they declare, their checksums, and the plan made of files and history.

Owns the naming rule, the directives, the checksum and `plan`, one pure function that dry run, status and the
real run all use. Refuses to know connections. The one read is `read` and `Migration.text`: the text of a file
is fetched when it is needed and not kept, so that memory grows with the largest file and not with the folder.
Texts are bytes, UTF-8 with LF line ends and without a BOM: what the checksum is of, and what is sent.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pgratchet.errors import ConfigurationError, HistoryDisagrees, Place, several

if TYPE_CHECKING:
    from pgratchet.migrations import lexer

State = Literal["applied", "pending", "changed", "missing", "out-of-order", "unfinished"]

_FILE_NAME = re.compile(r"(?P<version>[0-9]{1,40}(?:T[0-9]{1,20})?)_[A-Za-z0-9_.-]{1,180}\.sql")
_DIRECTIVE = re.compile(rb"--\s*migrate\s*:\s*(?P<text>.*)", re.IGNORECASE)
_DURATION = re.compile(r"(?P<number>[0-9]{1,9})(?P<unit>ms|s|min|h)?")
_UNIT_MS = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, None: 1}
_PIECE = 1_000_000
SIZE_LIMIT = 256_000
"""Bytes up to which migrations share a batch, and of a window: what is in flight stays small, and progress shows."""
_NAMING = (
    "Name it <version>_<name>.sql, such as 0042_add_email.sql or 20250111T093000_add_email.sql; `invoke new` does."
)


UNKNOWN = datetime.min.replace(tzinfo=timezone.utc)
"""When a migration was run of which no more is known than that it was: before anything else."""


@dataclass(frozen=True, slots=True)
class Directives:
    """What a file declares about how it runs. Timeouts in milliseconds; None leaves the default, 0 is none."""

    transactional: bool = True
    lock_timeout: int | None = None
    statement_timeout: int | None = None


@dataclass(frozen=True, slots=True)
class Migration:
    """A file of the migrations folder. `checksum` is the SHA-256, in hex, of its text with LF and no BOM."""

    name: str
    version: int
    checksum: str
    path: str

    def text(self) -> bytes:
        """Read the file again; an error when it is no longer what the plan was made of."""
        try:
            content, checksum = _content(self.path)
        except _MistakeError:
            content, checksum = b"", ""
        if checksum != self.checksum:
            raise ConfigurationError(
                f"{self.path} was changed while the run was going on",
                hint="Run again when the file is as you want it.",
            )
        return content


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


@dataclass(frozen=True, slots=True)
class Record:
    """A row of the history. `executed_at` is None while unfinished, and UNKNOWN where it was not kept.

    `source` is what the row came by: a run, or the adoption of another tool's.
    """

    name: str
    checksum: str
    executed_at: datetime | None
    duration_ms: int | None
    source: str = "run"

    @property
    def moment(self) -> datetime | None:
        """When it was finished, where that is known."""
        return None if self.executed_at == UNKNOWN else self.executed_at


@dataclass(frozen=True, slots=True)
class Entry:
    """One migration as a plan sees it, with its file, its record, or both."""

    name: str
    state: State
    migration: Migration | None = None
    record: Record | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """`entries` in order of version; `todo` what a run would apply, which `--to` may cut short of all pending."""

    entries: tuple[Entry, ...]
    todo: tuple[Migration, ...] = field(default=())

    def names(self, *states: State) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.entries if entry.state in states)

    @property
    def left(self) -> int:
        """How many have not run to their end."""
        return len(self.names("pending", "unfinished"))

    def disagreements(self) -> tuple[Entry, ...]:
        """What must be settled by a person before anything may run."""
        return tuple(entry for entry in self.entries if entry.state not in ("applied", "pending", "unfinished"))


def read(folder: Path) -> tuple[Migration, ...]:
    """The folder's migrations in order; one ConfigurationError names every mistake in names, encoding, versions.

    Sub-folders, hidden files and files that do not end in .sql are not migrations.
    """
    if not folder.is_dir():
        raise ConfigurationError(
            f"no migrations folder {folder}",
            hint="Give the folder with --sql=DIR, or make it with `invoke new NAME`.",
        )
    found: list[Migration] = []
    mistakes: list[str] = []
    # scandir and open, not pathlib's walk: status reads every file, and there may be thousands.
    for name in sorted(e.name for e in os.scandir(folder) if _looks_like_sql(e.name) and not e.is_dir()):
        if not name.startswith("."):
            try:
                found.append(_read_file(f"{folder}/{name}", name))
            except _MistakeError as mistake:
                mistakes.append(f"{folder}/{name}: {mistake}")
    found.sort(key=lambda migration: migration.version)
    mistakes += _duplicates(found)
    if mistakes:
        raise several("the migrations cannot be used", mistakes, "Mend each file; nothing was run.")
    return tuple(found)


def listed(files: Iterable[tuple[str, bytes]]) -> tuple[Migration, ...]:
    """The migrations among files that lie elsewhere than in a folder, by name and content, in order; others are left
    out. Their text cannot be read again."""
    found = []
    for name, raw in files:
        if match := _FILE_NAME.fullmatch(name):
            with suppress(_MistakeError):
                found.append(Migration(name[:-4], _version(match), _normal(raw)[1], ""))
    return tuple(sorted(found, key=lambda migration: migration.version))


def create(folder: Path, name: str, moment: datetime) -> Path:
    """Write an empty migration named by the UTC time; never over an existing file or version."""
    slug = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    if not slug or len(slug) > 100:
        raise ConfigurationError(
            f'"{name}" makes no file name',
            hint="Say in a few words what the migration does, in letters and digits.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    version = f"{moment:%Y%m%dT%H%M%S}"
    path = folder / f"{version}_{slug}.sql"
    if any(folder.glob(f"{version}_*.sql")):
        raise ConfigurationError(
            f"{folder} already has a migration of this second",
            hint="Wait for the next second, and try again.",
        )
    with path.open("x", encoding="utf-8") as file:
        comment = " ".join(name.split())  # on one line, or what is behind its end would be SQL
        file.write(f"-- {comment}\n-- Runs in one transaction; it is not changed once it was applied.\n\n")
    return path


class _MistakeError(Exception):
    """Something wrong with one file, to be listed with the others."""


def _looks_like_sql(name: str) -> bool:
    return name.strip().lower().endswith(".sql")


def _read_file(path: str, name: str) -> Migration:
    match = _FILE_NAME.fullmatch(name)
    if match is None:
        raise _MistakeError(f"the file name is not one of a migration. {_NAMING}")
    if not os.path.isfile(path):  # noqa: PTH113
        raise _MistakeError("not a file that can be read; a link that leads nowhere, or a pipe.")
    _, checksum = _content(path)
    return Migration(name[:-4], _version(match), checksum, path)


def _version(match: re.Match[str]) -> int:
    return int(match["version"].replace("T", ""))


def _content(path: str) -> tuple[bytes, str]:
    """The text with LF line ends and without a BOM, and its checksum."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            raw = file.read()
    except OSError as error:
        raise _MistakeError(f"cannot be read: {error.strerror}.") from error
    return _normal(raw)


def _normal(raw: bytes) -> tuple[bytes, str]:
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    if b"\r" in raw:
        raw = raw.replace(b"\r\n", b"\n")
    if (nul := raw.find(b"\0")) >= 0:
        raise _MistakeError(f"a NUL byte at byte {nul + 1}{_line_of(raw, nul)}, which PostgreSQL cannot store.")
    if not raw.isascii():
        _refuse_other_encodings(raw)
    return raw, hashlib.sha256(raw).hexdigest()


def _refuse_other_encodings(raw: bytes) -> None:
    """Decode it, a piece at a time: a text that is not ASCII would take four times its size."""
    decoder, done = codecs.getincrementaldecoder("utf-8")(), 0
    try:
        for done in range(0, len(raw), _PIECE):
            decoder.decode(raw[done : done + _PIECE], final=done + _PIECE >= len(raw))
    except UnicodeDecodeError as error:
        at = done - (len(error.object) - len(raw[done : done + _PIECE])) + error.start
        raise _MistakeError(
            f"not UTF-8: byte 0x{raw[at]:02x} at byte {at + 1}{_line_of(raw, at)}. Save the file as UTF-8."
        ) from error


def _line_of(raw: bytes, offset: int) -> str:
    return f" (line {raw.count(10, 0, offset) + 1})"


def _duplicates(found: Sequence[Migration]) -> list[str]:
    return [
        f"{one.path} and {other.name}.sql: the same version {one.version}."
        for one, other in pairwise(found)
        if one.version == other.version
    ]


def judge(migrations: Iterable[Migration]) -> tuple[Script, ...]:
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


def _judge(migration: Migration) -> tuple[Script, list[tuple[Place, str]]]:
    from pgratchet.migrations import lexer

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
                if not lexer.is_harmless(piece):
                    notable.append(piece)
            elif match := _DIRECTIVE.match(text, piece.start, piece.end):
                declared.append((piece.start, match["text"].decode()))
    except lexer.LexicalError as error:
        mistakes.append((error.offset, f"{error.reason}. {error.hint}"))
    directives, wrong = _directives(declared, first if count else len(text))
    mistakes += wrong
    mistakes += [(s.start, why) for s in notable if (why := _unfit(s, directives))]
    places = [(Place(migration.name, *lexer.line_and_column(text, at)), why) for at, why in sorted(mistakes)]
    return Script(migration, directives, count, len(text), cut.windows()), places


def only_adds(script: Script) -> bool:
    """Whether a script takes away or changes nothing that is there already, as far as its words tell."""
    from pgratchet.migrations import lexer

    text = script.migration.text()
    pieces = (piece for piece in lexer.scan(text) if isinstance(piece, lexer.Statement))
    return all(lexer.only_adds(text, piece) for piece in pieces)


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
    from pgratchet.migrations import lexer

    control = lexer.transaction_control(statement)
    if control:
        return f"{control} in a migration. Transactions are the runner's: take it out."
    if lexer.unsettles_strings(statement):
        return "standard_conforming_strings is on in every migration. Write E'...' where a backslash is to escape."
    if lexer.copies_to_client(statement):
        return "COPY to the client. A migration has no one to give the rows to: take it out."
    if statement.rows and not directives.transactional:
        return "COPY ... FROM STDIN in a file without a transaction. Put it into a file of its own."
    outside = lexer.outside_transaction(statement)
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


def plan(files: Sequence[Migration], history: Sequence[Record], to: str | None = None) -> Plan:
    """What is applied, what is pending and what does not fit, from the two lists alone.

    `files` are in order of version, as `read` gives them. `to` names the last migration to run, by name or by
    version. ConfigurationError when it names none.
    """
    records = {record.name: record for record in history}
    by_name = {migration.name: migration for migration in files}
    newest = max((m.version for m in files if m.name in records), default=-1)
    entries = [_entry(m, records.get(m.name), newest) for m in files]
    entries += [Entry(r.name, "missing", None, r) for r in history if r.name not in by_name]
    entries.sort(key=lambda entry: (_version_of(entry.name), entry.name))
    pending = [e.migration for e in entries if e.state in ("pending", "out-of-order", "unfinished") and e.migration]
    last = _last_version(files, to) if to is not None else None
    return Plan(tuple(entries), tuple(m for m in pending if last is None or m.version <= last))


def _entry(migration: Migration, record: Record | None, newest: int) -> Entry:
    return Entry(migration.name, _state(migration, record, newest), migration, record)


def _state(migration: Migration, record: Record | None, newest: int) -> State:
    if record is None:
        return "pending" if migration.version > newest else "out-of-order"
    if record.executed_at is None:
        return "unfinished"  # its rest may be mended: what was done of it is compared when it goes on
    return "applied" if record.checksum == migration.checksum else "changed"


def _version_of(name: str) -> int:
    digits = name.partition("_")[0].replace("T", "")
    return int(digits) if digits.isdecimal() else -1


def _last_version(files: Sequence[Migration], to: str) -> int:
    wanted = to.removesuffix(".sql")
    number = int(wanted.replace("T", "")) if re.fullmatch(r"[0-9]{1,40}(T[0-9]{1,20})?", wanted) else None
    for migration in files:
        if wanted == migration.name or number == migration.version:
            return migration.version
    import difflib

    near = difflib.get_close_matches(wanted, [m.name for m in files], n=1, cutoff=0.3)
    raise ConfigurationError(
        f'--to names no migration: "{to}"',
        detail=f"The nearest is {near[0]}." if near else "There is none like it.",
        hint="Give a file's name, with or without .sql, or its version; `invoke status` lists them.",
    )


def check(plan: Plan, bodies: dict[str, str]) -> None:
    """Raise HistoryDisagrees, naming everything that is changed, missing or out of order.

    `bodies` are the texts that ran, by name, for showing what changed.
    """
    found = plan.disagreements()
    if not found:
        return
    sentences = [_disagreement(entry, plan, bodies) for entry in found]
    advice = list(dict.fromkeys(_ADVICE[entry.state] for entry in found))
    count = f"{len(found)} migrations" if len(found) > 1 else "1 migration"
    raise HistoryDisagrees(
        f"files and history disagree about {count}",
        detail="\n".join(sentences),
        hint="\n".join(advice),
        place=Place(found[0].name),
    )


_ADVICE = {
    "changed": "Put the applied text back, and make the change in a new migration.",
    "missing": "Put the file back, as it was applied, from version control.",
    "out-of-order": "Give the late file a newer version than every applied one, and run again.",
}


def _disagreement(entry: Entry, plan: Plan, bodies: dict[str, str]) -> str:
    if entry.state == "changed" and entry.migration and entry.record:
        head = f"{entry.name}: changed since it was applied{_when(entry.record)}."
        return "\n".join([head, *_difference(bodies.get(entry.name), entry.migration.text().decode())])
    if entry.state == "missing" and entry.record:
        twin = [e.name for e in plan.entries if e.migration and e.migration.checksum == entry.record.checksum]
        renamed = f" {twin[0]} has the same text: it looks renamed." if twin else ""
        return f"{entry.name}: applied, but its file is gone.{renamed}"
    newest = max(plan.names("applied", "changed", "unfinished"), key=_version_of)
    return f"{entry.name}: not applied, but the newer {newest} is."


def _when(record: Record) -> str:
    moment = record.moment
    return f" at {moment.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S}Z" if moment else ""


def _difference(applied: str | None, now: str) -> list[str]:
    if applied is None:
        return []
    import difflib

    lines = list(difflib.unified_diff(applied.splitlines(), now.splitlines(), "applied", "file", n=1, lineterm=""))
    return lines[:20] + (["..."] if len(lines) > 20 else [])
