"""PostgreSQL's lexical rules: where statements begin and end, what they begin with, and where that is.

Owns the lexer. Refuses to know files, directives or databases: text in, statements out. The rules are those
of the server's own scanner (src/backend/parser/scan.l) with standard_conforming_strings on, which the applier
sets, and of psql (psqlscan.l) for what a semicolon does not end: parentheses and BEGIN ATOMIC bodies.

Two gaits, one set of rules. The head of a statement is read token by token, since its words say what the
statement is. The rest only matters where a quote, a comment, a dollar, a parenthesis or a semicolon stands,
so a search jumps from one to the next: that keeps a file of 100 MB a matter of seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

HEAD = 12
"""Tokens that are kept of a statement, enough to tell what it is; of COPY, whose source comes late, all are."""

# Files are large because of these, and no refused form begins with them.
_SAID_BY_FIRST_WORD = frozenset(("INSERT", "UPDATE", "DELETE", "SELECT", "VALUES", "WITH", "COMMENT"))
# Characters that look like a space, which the server takes for part of a name, and psql's backslash.
_STRAY = r"\xa0\u1680\u2000-\u200b\u2028\u2029\u202f\u205f\u3000\ufeff\\"
_NAME = r"A-Za-z_\x80-\U0010ffff"
_TOKEN = re.compile(
    rf"""
    (?P<space>    [ \t\n\r\f\v]+ )
  | (?P<line>     --[^\n\r]* )
  | (?P<block>    /\* )
  | (?P<escape>   [eE]' )
  | (?P<string>   (?:[uU]&)?' )
  | (?P<quoted>   (?:[uU]&)?" )
  | (?P<dollar>   \$(?:[{_NAME}][{_NAME}0-9]*)?\$ )
  | (?P<stray>    [{_STRAY}] )
  | (?P<word>     [{_NAME}](?:(?![{_STRAY}])[{_NAME}0-9$])* )
  | (?P<number>   [0-9]+ | \$[0-9]+ )
  | (?P<symbol>   . )
    """,
    re.VERBOSE | re.DOTALL,
)
_LANDMARK = re.compile(rf"""['"$;(){_STRAY}]|--|/\*""")
_BLOCK_EDGE = re.compile(r"/\*|\*/")
_ESCAPE_STOP = re.compile(r"['\\]")
# A string goes on after white space that holds a line end; an E'' string goes on as an E'' string.
_CONTINUATION = re.compile(r"(?:[ \t\f\v]|--[^\n\r]*)*[\n\r](?:[ \t\n\r\f\v]|--[^\n\r]*[\n\r])*'")
_NAME_PART = re.compile(rf"[{_NAME}0-9$]")


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement: offsets in characters, the end exclusive and before its semicolon.

    `head` holds the first tokens, at least one: words in upper case, quoted names and strings as a lone quote mark,
    symbols as they are.
    """

    start: int
    end: int
    head: tuple[str, ...]

    def begins(self, *words: str) -> bool:
        return self.head[: len(words)] == words


@dataclass(frozen=True, slots=True)
class Comment:
    """A `--` comment: offsets in characters, the line end not included."""

    start: int
    end: int


class LexicalError(ValueError):
    """The text cannot be PostgreSQL's SQL; `offset` is where, in characters, and `hint` what to do."""

    def __init__(self, reason: str, offset: int, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.offset = offset
        self.hint = hint


def line_and_column(text: str, offset: int) -> tuple[int, int]:
    """The place of a character, both counted from 1 in characters, as editors show it."""
    line_start = text.rfind("\n", 0, offset) + 1
    return text.count("\n", 0, line_start) + 1, offset - line_start + 1


def scan(text: str) -> Iterator[Statement | Comment]:
    """Yield the statements and the line comments of `text` in order of their ends; LexicalError where it stops."""
    scanner = _Scanner(text)
    while scanner.position < len(text):
        yield from scanner.next_statement()


class _Scanner:
    """A position in a text. Every method begins at `position` and leaves it behind what it read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self._floor = 0  # where the last token that is not a bare word or number ended
        self._comments: list[Comment] = []

    def next_statement(self) -> Iterator[Statement | Comment]:
        self._start = self._end = -1
        self._head: list[str] = []
        self._parentheses = 0
        self._body = _AtomicBody()
        while self.position < len(self.text):
            ended = self._step_by_token() if _wants_words(self._head) else self._step_by_landmark()
            if self._comments:
                yield from self._comments
                self._comments.clear()
            if ended:
                break
        if self._head:
            yield Statement(self._start, self._end, tuple(self._head))

    def _step_by_token(self) -> bool:
        match = _TOKEN.match(self.text, self.position)
        assert match is not None  # the last alternative takes any character
        kind, start = match.lastgroup or "", self.position
        self.position = match.end()
        if kind in ("word", "number"):
            word = match.group().upper()
            self._token(start, word)
            self._body.word(word, self._parentheses)
            return False
        if kind == "space":
            return False
        if kind in ("line", "block"):
            self._comment(kind, start)
        else:
            if kind == "symbol" and match.group() == ";" and self._ends():
                return True
            self._read(kind, start, match.group())
        self._floor = self.position
        return False

    def _step_by_landmark(self) -> bool:
        """Jump to the next landmark; the statement ends at its last character that is neither space nor comment."""
        text, start = self.text, self.position
        match = _LANDMARK.search(text, start)
        stop = match.start() if match else len(text)
        passed = text[start:stop].rstrip(" \t\n\r\f\v")
        if passed:
            self._end = start + len(passed)
        self.position = stop
        return self._landmark(stop, text[stop]) if match else False

    def _landmark(self, stop: int, mark: str) -> bool:
        before = self._name_before(stop) if mark in "'$" else ""
        if mark == "$" and before:  # a dollar within a name, as in tab$1
            self.position = self._end = stop + 1
            return False
        if mark == "'" and before in ("e", "E"):
            self.position = stop + 1
            self._read("escape", stop - 1, "'")
            self._floor = self.position
            return False
        return self._step_by_token()

    def _name_before(self, stop: int) -> str:
        """The name or keyword that touches `stop` from the left, without the digits of a number before it."""
        start = stop
        while start > self._floor and _NAME_PART.match(self.text, start - 1):
            start -= 1
        return self.text[start:stop].lstrip("0123456789")

    def _ends(self) -> bool:
        return self._parentheses == 0 and not self._body.inside

    def _token(self, start: int, shown: str) -> None:
        if self._start < 0:
            self._start = start
        if len(self._head) < HEAD or self._head[0] == "COPY":
            self._head.append(shown)
        self._end = self.position

    def _comment(self, kind: str, start: int) -> None:
        if kind == "block":
            self._block_comment(start)
        else:
            self._comments.append(Comment(start, self.position))

    def _block_comment(self, start: int) -> None:
        depth = 1
        while depth:
            edge = _BLOCK_EDGE.search(self.text, self.position)
            if edge is None:
                raise LexicalError("unterminated comment", start, "Close it with */; comments nest.")
            depth += 1 if edge.group() == "/*" else -1
            self.position = edge.end()

    def _read(self, kind: str, start: int, opening: str) -> None:
        """Read the rest of what `opening` began, and note it as one token."""
        if kind == "escape":
            self._escape_string(start)
        elif kind in ("string", "quoted"):
            self._until(opening[-1], start, "quoted string" if kind == "string" else "quoted name")
        elif kind == "dollar":
            self._until(opening, start, "dollar-quoted string")
        elif kind == "stray":
            raise _stray(opening, start)
        elif opening == "(":
            self._parentheses += 1
        elif opening == ")":
            self._parentheses = max(0, self._parentheses - 1)
        shown = {"escape": "'", "dollar": "'"}.get(kind, opening[-1])
        self._token(start, shown)
        self._body.word(shown, self._parentheses)

    def _until(self, closing: str, start: int, name: str) -> None:
        # A doubled quote closes one string and opens the next: for finding the end that is the same.
        end = self.text.find(closing, self.position)
        if end < 0:
            raise LexicalError(f"unterminated {name}", start, f"Close it with {closing}.")
        self.position = end + len(closing)

    def _escape_string(self, start: int) -> None:
        while True:
            stop = _ESCAPE_STOP.search(self.text, self.position)
            if stop is None:
                raise LexicalError("unterminated quoted string", start, "Close it with '.")
            self.position = stop.end()
            if stop.group() == "\\" or self.text.startswith("'", self.position):
                self.position += 1
            else:
                again = _CONTINUATION.match(self.text, self.position)
                if again is None:
                    return
                self.position = again.end()


def _stray(character: str, offset: int) -> LexicalError:
    if character == "\\":
        return LexicalError(
            "a psql meta-command or a stray backslash",
            offset,
            "Only SQL can be here: psql's backslash commands are not understood by the server.",
        )
    return LexicalError(
        f"an invisible character, U+{ord(character):04X}, which PostgreSQL does not take for a space",
        offset,
        "Replace it with an ordinary space; it often comes in by copying from a web page or a document.",
    )


def _wants_words(head: list[str]) -> bool:
    """Whether the next token's word can matter: in every head, in all of COPY, in the body of a routine."""
    if not head:
        return True
    if head[0] in _SAID_BY_FIRST_WORD:
        return False
    if len(head) < HEAD or head[0] == "COPY":
        return True
    routine = head[3] if head[1:3] == ["OR", "REPLACE"] else head[1]
    return head[0] == "CREATE" and routine in ("FUNCTION", "PROCEDURE")


class _AtomicBody:
    """Whether a position is inside the BEGIN ATOMIC ... END of a function; CASE ... END nests in it."""

    def __init__(self) -> None:
        self._depth = 0
        self._before = ""

    @property
    def inside(self) -> bool:
        return self._depth > 0

    def word(self, word: str, parentheses: int) -> None:
        last, self._before = self._before, word
        if word == "ATOMIC" and last == "BEGIN" and not parentheses:
            self._depth = max(self._depth, 1)
        elif word == ";" and self._depth:
            self._depth = 1  # no CASE goes on behind it: what looked like one was a label
        elif self._depth and last not in ("AS", "."):
            if word == "CASE":
                self._depth += 1
            elif word == "END":
                self._depth -= 1


def transaction_control(statement: Statement) -> str | None:
    """The words of a statement that begins, ends or sets up a transaction, else None. Savepoints do none of it."""
    head = statement.head
    first = head[0]
    if first in ("BEGIN", "COMMIT", "END", "ABORT"):
        return "COMMIT PREPARED" if head[:2] == ("COMMIT", "PREPARED") else first
    if first == "ROLLBACK":
        to_savepoint = "TO" in head[1:3]
        return None if to_savepoint else first
    if head[:2] in (("START", "TRANSACTION"), ("PREPARE", "TRANSACTION"), ("SET", "TRANSACTION")):
        return " ".join(head[:2])
    return None


def copies_through_client(statement: Statement) -> bool:
    """Whether the statement is a COPY whose rows travel between client and server."""
    if statement.head[0] != "COPY":
        return False
    depth = 0
    for word, after in zip(statement.head, statement.head[1:], strict=False):
        depth += {"(": 1, ")": -1}.get(word, 0)
        if depth == 0 and word in ("FROM", "TO") and after in ("STDIN", "STDOUT"):
            return True
    return False


def outside_transaction(statement: Statement) -> str | None:
    """The words of a statement that PostgreSQL refuses inside a transaction block (25001), else None.

    From the list measured on 15, 16 and 18, and the source where the run needs a subscription or a partition.
    What depends on the object rather than on the words (CLUSTER of a partitioned table, ALTER SUBSCRIPTION
    with a refresh) is left to the server.
    """
    head = statement.head
    command = " ".join(word for word in head[:3] if word not in ("UNIQUE", "(", "'"))
    for forbidden in _OUTSIDE:
        if command == forbidden or command.startswith(forbidden + " "):
            return forbidden
    if head[:2] == ("ALTER", "DATABASE") and "TABLESPACE" in head:
        return "ALTER DATABASE ... SET TABLESPACE"
    if "CONCURRENTLY" in head and (concurrent := _concurrent(head)):
        return f"{concurrent} CONCURRENTLY"
    if head[0] == "REINDEX" and any(word in ("SCHEMA", "DATABASE", "SYSTEM") for word in _behind_options(head)[:1]):
        return f"REINDEX {_behind_options(head)[0]}"
    if head == ("CLUSTER",) or head == ("CLUSTER", "VERBOSE"):
        return "CLUSTER"
    return None


_OUTSIDE = (
    "VACUUM",
    "CREATE DATABASE",
    "DROP DATABASE",
    "CREATE TABLESPACE",
    "DROP TABLESPACE",
    "ALTER SYSTEM",
    "DISCARD ALL",
)


def _concurrent(head: tuple[str, ...]) -> str | None:
    """The command whose keyword CONCURRENTLY is: on an index, REINDEX, ALTER TABLE ... DETACH PARTITION."""
    kind = head[2:3] if head[1:2] == ("UNIQUE",) else head[1:2]
    if head[0] in ("CREATE", "DROP") and kind == ("INDEX",):
        return f"{head[0]} INDEX"
    if head[0] == "REINDEX":
        return "REINDEX"
    return "DETACH PARTITION" if head[:2] == ("ALTER", "TABLE") and "DETACH" in head else None


def _behind_options(head: tuple[str, ...]) -> tuple[str, ...]:
    """The words of REINDEX behind its options in parentheses."""
    return head[head.index(")") + 1 :] if ")" in head[1:] else head[1:]


@dataclass(frozen=True, slots=True)
class ConcurrentIndex:
    """The index that a statement builds or drops CONCURRENTLY, by the parts of its names, folded as the server does."""

    creates: bool
    name: tuple[str, ...]
    table: tuple[str, ...] = ()


def concurrent_index(text: str, statement: Statement) -> ConcurrentIndex | None:
    """What a statement of `text` does to which index; None when it is no CREATE or DROP INDEX CONCURRENTLY."""
    command = outside_transaction(statement)
    if command not in ("CREATE INDEX CONCURRENTLY", "DROP INDEX CONCURRENTLY"):
        return None
    tokens = list(_names(text, statement))
    at = tokens.index(_Name("concurrently", quoted=False)) + 1
    while tokens[at] in (_Name("if", False), _Name("not", False), _Name("exists", False)):
        at += 1
    name, at = _dotted(tokens, at)
    if command.startswith("DROP"):
        return ConcurrentIndex(False, name)
    at += 2 if tokens[at + 1] == _Name("only", False) else 1
    return ConcurrentIndex(True, name, _dotted(tokens, at)[0])


@dataclass(frozen=True, slots=True)
class _Name:
    text: str
    quoted: bool


_NAMES = re.compile(
    rf"""--[^\n\r]*|"(?P<quoted>(?:[^"]|"")*)"|(?P<word>[{_NAME}][{_NAME}0-9$]*)|(?P<dot>\.)|(?P<other>[^\s])"""
)


def _names(text: str, statement: Statement) -> Iterator[_Name]:
    """The names, dots and first other symbols of a statement; enough of it to know what it names."""
    for match in _NAMES.finditer(_BLOCK_COMMENT.sub(" ", text[statement.start : statement.end])):
        if match["quoted"] is not None:
            yield _Name(match["quoted"].replace('""', '"'), quoted=True)
        elif match["word"]:
            yield _Name(match["word"].lower(), quoted=False)
        elif match["dot"] or match["other"]:
            yield _Name(match["dot"] or match["other"], quoted=False)


_BLOCK_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def _dotted(tokens: list[_Name], at: int) -> tuple[tuple[str, ...], int]:
    parts = [tokens[at].text]
    while at + 2 < len(tokens) and tokens[at + 1] == _Name(".", quoted=False):
        at += 2
        parts.append(tokens[at].text)
    return tuple(parts), at + 1
