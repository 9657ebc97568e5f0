"""Proposes safe forms, as statements, for migrations with long stops. Pure.

Each form is one of PostgreSQL's documentation: NOT VALID with VALIDATE CONSTRAINT and ADD CONSTRAINT ... USING INDEX
(https://www.postgresql.org/docs/current/sql-altertable.html), CONCURRENTLY
(https://www.postgresql.org/docs/current/sql-createindex.html#SQL-CREATEINDEX-CONCURRENTLY), and the proof of SET NOT
NULL by a CHECK constraint (the notes of ALTER TABLE).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pgratchet.formatting import format_duration
from pgratchet.migrations.lexer import read_tokens, split_statements
from pgratchet.migrations.names import find_word, read_name, skip_if_exists
from pgratchet.migrations.statement import LexicalError, Token
from pgratchet.rehearsal.report import LEAST_STOP_MS, Position, Report, StatementReport, Stop

_NOT_NULL_NOT_VALID = 180000
"""The first server_version_num with NOT NULL ... NOT VALID."""
_ALONE = "-- migrate: no-transaction"


@dataclass(frozen=True, slots=True)
class Remedy:
    """A safe form of a statement. `sql` are the texts of new files in order, or empty."""

    position: Position
    problem: str
    advice: str
    sql: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Form:
    """The problem of a long statement, the advice, and the statements of the safe form."""

    problem: str
    advice: str
    sql: tuple[str, ...] = ()


def find_remedies(report: Report) -> tuple[Remedy, ...]:
    """Return a remedy for each lock taken too early, and for each long statement under a lock."""
    stops = sorted(
        (stop for stop in report.stops if stop.duration_ms >= LEAST_STOP_MS), key=lambda stop: -stop.duration_ms
    )
    remedies: dict[tuple[Position, str], Remedy] = {}
    for stop in stops:
        of_stop = [_split(stop)] if stop.locked_at != stop.spent_at and stop.blocks != "rows" else []
        of_stop += _safe_forms(stop, report)
        for remedy in of_stop:
            remedies.setdefault((remedy.position, remedy.advice), remedy)
    return tuple(remedies.values())


def _split(stop: Stop) -> Remedy:
    """The remedy for a lock held during another, long statement."""
    waiting = "reads and writes" if stop.blocks == "reads" else "writes"
    return Remedy(
        stop.locked_at,
        f"The statement locks {stop.relation}, and {stop.spent_at} then runs for "
        f"{format_duration(round(stop.spent_ms))} in the same transaction: {waiting} wait until its end.",
        "Split the file: put the statement that takes the time into a migration of its own.",
    )


def _safe_forms(stop: Stop, report: Report) -> Iterator[Remedy]:
    """Remedies for the long statements during a stop, the longest first."""
    end = stop.started_ms + stop.duration_ms
    under_lock = [
        each
        for each in report.statements
        if each.duration_ms >= LEAST_STOP_MS and stop.locked_at.migration == each.migration and each.started_ms < end
        if each.position == stop.locked_at or each.started_ms >= stop.started_ms
    ]
    for statement in sorted(under_lock, key=lambda each: -each.duration_ms):
        if form := _safe_form(statement, report.scratch_version):
            yield Remedy(statement.position, form.problem, form.advice, form.sql)


def _safe_form(statement: StatementReport, version: int) -> _Form | None:
    text = statement.text.encode()
    try:
        parsed = next(iter(split_statements(text)))
        tokens = read_tokens(text, parsed)
    except (LexicalError, StopIteration):  # such as the beginning of a long text
        return None
    words = tuple(token.word for token in tokens)
    rules: Sequence[Callable[[_Context], _Form | None]] = (
        _create_index, _drop_index, _reindex, _refresh, _full_vacuum, _batches, _new_partition, _alter_table
    )  # fmt: skip
    context = _Context(statement, tokens, words, version)
    return next((form for rule in rules if (form := rule(context))), None)


@dataclass(frozen=True, slots=True)
class _Context:
    statement: StatementReport
    tokens: Sequence[Token]
    words: tuple[str, ...]
    version: int

    @property
    def text(self) -> str:
        return self.statement.text

    def with_word(self, word: str, behind: str) -> str:
        """The text with a word behind the first `behind`."""
        token = self.tokens[self.words.index(behind)]
        position = len(self.text.encode()[: token.start].decode()) + len(token.raw)
        return f"{self.text[:position]} {word}{self.text[position:]};"


def _create_index(context: _Context) -> _Form | None:
    words = context.words
    if words[:2] not in (("CREATE", "INDEX"), ("CREATE", "UNIQUE")) or "CONCURRENTLY" in words:
        return None
    if sum(lock.mode == "SHARE" for lock in context.statement.locks if not lock.table) > 1:
        return _Form(
            "CREATE INDEX blocks writes of all partitions while it reads them.",
            "Build it with CONCURRENTLY on each partition, then on the parent with ON ONLY, and attach the indexes.",
        )
    named = words[words.index("INDEX") + 1] != "ON"
    advice = "Build it with CONCURRENTLY, in a file of its own" + ("." if named else ", and give it a name.")
    sql = (f"{_ALONE}\n{context.with_word('CONCURRENTLY', 'INDEX')}",) if named else ()
    return _Form("CREATE INDEX blocks writes while it reads the table.", advice, sql)


def _drop_index(context: _Context) -> _Form | None:
    if context.words[:2] != ("DROP", "INDEX") or "CONCURRENTLY" in context.words:
        return None
    is_simple = "," not in context.words and "CASCADE" not in context.words
    sql = (f"{_ALONE}\n{context.with_word('CONCURRENTLY', 'INDEX')}",) if is_simple else ()
    return _Form(
        "DROP INDEX locks the table.", "Drop each index with CONCURRENTLY, in a file without a transaction.", sql
    )


def _reindex(context: _Context) -> _Form | None:
    words = context.words
    if words[0] != "REINDEX" or "CONCURRENTLY" in words or words[1] not in ("TABLE", "INDEX"):
        return None
    sql = f"{_ALONE}\n{context.with_word('CONCURRENTLY', words[1])}"
    return _Form("REINDEX blocks reads and writes.", "Rebuild with CONCURRENTLY, in a file of its own.", (sql,))


def _refresh(context: _Context) -> _Form | None:
    if context.words[:3] != ("REFRESH", "MATERIALIZED", "VIEW") or "CONCURRENTLY" in context.words:
        return None
    advice = "Give the view a unique index over all its rows, and refresh with CONCURRENTLY."
    return _Form("REFRESH blocks reads.", advice, (context.with_word("CONCURRENTLY", "VIEW"),))


def _full_vacuum(context: _Context) -> _Form | None:
    if context.words[0] not in ("VACUUM", "CLUSTER"):
        return None
    return _Form(
        f"{context.words[0]} writes the whole table anew, and blocks reads and writes meanwhile.",
        "Run a plain VACUUM, or rewrite the table online with the extension pg_repack.",
    )


def _batches(context: _Context) -> _Form | None:
    if context.words[0] not in ("UPDATE", "DELETE"):
        return None
    return _Form(
        f"The changed rows stay locked until COMMIT, and the other statements of the file wait for this "
        f"{context.words[0]}.",
        "Change the rows in batches that commit by themselves: a DO block with a COMMIT in its loop, in a file "
        "without a transaction. The page about writing migrations has one.",
    )


def _new_partition(context: _Context) -> _Form | None:
    if context.words[:2] != ("CREATE", "TABLE") or "PARTITION" not in context.words:
        return None
    return _Form(
        "A new partition locks the parent, and reads the default partition for rows that belong to the new one.",
        "Make the table alone, give the default partition a CHECK constraint that excludes the new one's rows, with "
        "NOT VALID and VALIDATE CONSTRAINT in another file, and attach the table then.",
    )


def _alter_table(context: _Context) -> _Form | None:
    words = context.words
    if words[:2] != ("ALTER", "TABLE"):
        return None
    index = skip_if_exists(context.tokens, 2)
    index += words[index : index + 1] == ("ONLY",)
    table, behind = read_name(context.tokens, index)
    return next(_alterations(context, table, words[behind:], behind), None)


def _alterations(context: _Context, table: str, action: tuple[str, ...], index: int) -> Iterator[_Form]:
    if action[:1] == ("ALTER",) and action[-3:] == ("SET", "NOT", "NULL") and "," not in action:
        yield _set_not_null(context, table, index)
    if "VALIDATE" not in action and "CHECK" in action and action[:1] == ("ADD",):
        yield _validated_later(context, table, index, "A new CHECK constraint reads the whole table.")
    if "FOREIGN" in action or ("REFERENCES" in action and "COLUMN" not in action):
        yield _validated_later(context, table, index, "A new foreign key blocks writes to both tables while it reads.")
    if action[:1] == ("ADD",) and ("UNIQUE" in action or "PRIMARY" in action) and "USING" not in action:
        yield _Form(
            "A new unique constraint builds its index while it blocks reads and writes.",
            "Build the index first with CREATE UNIQUE INDEX CONCURRENTLY, in a file of its own, and then use it: ADD "
            "CONSTRAINT name UNIQUE USING INDEX index.",
        )
    if "ATTACH" in action:
        yield _Form(
            "ATTACH PARTITION reads the table for rows that do not belong to it.",
            "Give the table a CHECK constraint with the bounds of the partition first, with NOT VALID and VALIDATE "
            "CONSTRAINT in another file. Then nothing is read.",
        )
    if context.statement.rewrites:
        yield _rewritten(action)


def _rewritten(action: tuple[str, ...]) -> _Form:
    if "TYPE" in action:
        return _Form(
            "The change of the type writes the whole table and its indexes anew.",
            "Add a column of the new type, keep it equal with a trigger, fill it in batches, and rename the columns in "
            "a migration of its own.",
        )
    if action[:1] == ("ADD",):
        return _Form(
            "The default of the new column has to be computed for each row, so the table is written anew.",
            "Add the column without the default, set the default with ALTER COLUMN ... SET DEFAULT, and fill the old "
            "rows in batches.",
        )
    return _Form(
        "The statement writes the whole table anew.",
        "Look for a form that does not, or make a new table, fill it in batches, and rename the tables.",
    )


def _set_not_null(context: _Context, table: str, index: int) -> _Form:
    start = index + 1
    start += context.words[start : start + 1] == ("COLUMN",)
    column, _ = read_name(context.tokens, start)
    name = "{}_not_null".format(column.strip('"'))
    files: tuple[str, ...]
    if context.version >= _NOT_NULL_NOT_VALID:
        first = f'ALTER TABLE {table} ADD CONSTRAINT "{name}" NOT NULL {column} NOT VALID;'
        files = (first, f'ALTER TABLE {table} VALIDATE CONSTRAINT "{name}";')
    else:
        first = f'ALTER TABLE {table} ADD CONSTRAINT "{name}" CHECK ({column} IS NOT NULL) NOT VALID;'
        last = f'{context.text};\nALTER TABLE {table} DROP CONSTRAINT "{name}";'
        files = (first, f'ALTER TABLE {table} VALIDATE CONSTRAINT "{name}";', last)
    return _Form(
        "SET NOT NULL reads the whole table.",
        "Prove it in earlier files, without blocking anyone; it then reads nothing.",
        files,
    )


def _validated_later(context: _Context, table: str, index: int, problem: str) -> _Form:
    advice = "Add the constraint with a name and with NOT VALID, and validate it in another file, which blocks nobody."
    words = context.words
    if words[index : index + 2] != ("ADD", "CONSTRAINT") or words[-2:] == ("NOT", "VALID") or "," in _outer(words):
        return _Form(problem, advice)
    name, _ = read_name(context.tokens, find_word(context.tokens, "CONSTRAINT") + 1)
    return _Form(problem, advice, (f"{context.text} NOT VALID;", f"ALTER TABLE {table} VALIDATE CONSTRAINT {name};"))


def _outer(words: Sequence[str]) -> list[str]:
    """The words outside parentheses."""
    depth, outer = 0, []
    for word in words:
        depth += {"(": 1, ")": -1}.get(word, 0)
        outer += [word] if depth == 0 else []
    return outer
