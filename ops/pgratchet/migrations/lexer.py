"""PostgreSQL's lexical rules: where statements begin and end, what they begin with, and where that is.

Owns the lexer. Refuses to know files, directives or databases: UTF-8 in, statements out. The rules are those
of the server's own scanner (src/backend/parser/scan.l) with standard_conforming_strings on, which the applier
sets, and of psql (psqlscan.l) for what a semicolon does not end: parentheses and BEGIN ATOMIC bodies.

Bytes, as the server's scanner: every byte above 127 is a letter of a name to it, so nothing is decoded, and a
file costs no more memory than its size. Three gaits, one set of rules. The head of a statement is read token by
token, since its words say what the statement is. The rest only matters where a quote, a comment, a dollar, a
parenthesis or a semicolon stands, so a search jumps from one to the next. What large files are made of, rows of
INSERT, is passed over by one expression a statement: parentheses do not matter there, as no INSERT can hold a
semicolon in them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

HEAD = 16
"""Tokens that are kept of a statement, enough to tell what it is; of COPY, whose source comes late, all are."""

_ROUTINE_TOLD = 4
"""Tokens that tell whether a statement makes a routine; what its body begins with comes later."""
_ROUTINES = frozenset((b"FUNCTION", b"PROCEDURE"))

# Files are large because of these, and no refused form begins with them.
_SAID_BY_FIRST_WORD = frozenset(("INSERT", "UPDATE", "DELETE", "SELECT", "VALUES", "WITH", "COMMENT"))
# Characters that look like a space, which the server takes for part of a name, and psql's backslash.
_STRAY = rb"\\|\xc2\xa0|\xe1\x9a\x80|\xe2\x80[\x80-\x8b\xa8\xa9\xaf]|\xe2\x81\x9f|\xe3\x80\x80|\xef\xbb\xbf"
_LETTER = rb"A-Za-z_\x80-\xff"
_SPACE = b" \t\n\r\f\v"
_TOKEN = re.compile(
    rb"""
    [ \t\n\r\f\v]*
    (?:
        (?P<stray>   %(stray)b )
      | (?P<line>    --[^\n\r]* )
      | (?P<block>   /\* )
      | (?P<escape>  [eE]' )
      | (?P<string>  (?:[uU]&)?' )
      | (?P<quoted>  (?:[uU]&)?" )
      | (?P<dollar>  \$(?:[%(letter)b][%(letter)b0-9]*)?\$ )
      | (?P<word>    [%(letter)b][%(letter)b0-9$]* )
      | (?P<number>  [0-9]+ | \$[0-9]+ )
      | (?P<symbol>  . )
      | (?P<end>     \Z )
    )
    """
    % {b"stray": _STRAY, b"letter": _LETTER},
    re.VERBOSE | re.DOTALL,
)
_LANDMARK = re.compile(rb"""'|"|\$|;|\(|\)|--|/\*|""" + _STRAY)
# Runs of what cannot matter, and plain strings between them. A string behind an e may be an E'' string.
_ROWS = re.compile(
    rb"""
    [^'"$;\\/\-\xc2\xe1-\xe3\xef]*
    (?: (?: (?<![eE])'[^']*' | -(?!-) | /(?!\*) ) [^'"$;\\/\-\xc2\xe1-\xe3\xef]* ){0,1000}
    """,
    re.VERBOSE,
)
_WORDS = re.compile(rb"[ \t\n\r\f\vA-Za-z0-9_(),.]{0,500}")
_WORD = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[(),.]")
_WORD_BYTES = bytes(range(0x30, 0x3A)) + bytes(range(0x41, 0x5B)) + bytes(range(0x61, 0x7B)) + b"_"
_DEPTH = {b"(": 1, b")": -1}
_STRAY_WITHIN = re.compile(_STRAY)
_BLOCK_EDGE = re.compile(rb"/\*|\*/")
_ESCAPE_STOP = re.compile(rb"['\\]")
# A string goes on after white space that holds a line end; an E'' string goes on as an E'' string.
_CONTINUATION = re.compile(rb"(?:[ \t\f\v]|--[^\n\r]*)*[\n\r](?:[ \t\n\r\f\v]|--[^\n\r]*[\n\r])*'")
_NAME_PART = re.compile(rb"[" + _LETTER + rb"0-9$]")
_REST_OF_LINE = re.compile(rb"[ \t\r]*(?:\n|\Z)")
_END_OF_ROWS = re.compile(rb"^\\\.\r?(?:\n|\Z)", re.MULTILINE)


class Statement(NamedTuple):
    """One statement: offsets in bytes, the end exclusive and before its semicolon.

    `head` holds the first tokens, at least one: words in upper case, quoted names and strings as a lone quote mark,
    symbols as they are. `rows` is where the data of a COPY ... FROM STDIN stands, behind its line.
    """

    start: int
    end: int
    head: tuple[str, ...]
    rows: tuple[int, int] | None = None


class Comment(NamedTuple):
    """A `--` comment: offsets in bytes, the line end not included."""

    start: int
    end: int


class LexicalError(ValueError):
    """The text cannot be PostgreSQL's SQL; `offset` is where, in bytes, and `hint` what to do."""

    def __init__(self, reason: str, offset: int, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.offset = offset
        self.hint = hint


def line_and_column(text: bytes, offset: int) -> tuple[int, int]:
    """The place of a byte, both counted from 1, the column in characters, as editors show it."""
    line_start = text.rfind(b"\n", 0, offset) + 1
    return text.count(b"\n", 0, line_start) + 1, len(text[line_start:offset].decode(errors="replace")) + 1


def byte_offset(text: bytes, position: int) -> int:
    """Where a character is that the server counts from 1."""
    return position - 1 if text.isascii() else len(text.decode()[: position - 1].encode())


def scan(text: bytes, *, rows: bool = True) -> Iterator[Statement | Comment]:
    """Yield the statements and the line comments of `text` in order; LexicalError where it stops.

    Without `rows` none are looked for behind a COPY ... FROM STDIN.
    """
    scanner = _Scanner(text, rows=rows)
    while scanner.position < len(text):
        statement = scanner.statement()
        if scanner.comments:
            yield from scanner.comments
            scanner.comments.clear()
        if statement is not None:
            yield statement


class _Scanner:
    """A position in a text. Every method begins at `position` and leaves it behind what it read."""

    def __init__(self, text: bytes, *, rows: bool, tokens: int = HEAD) -> None:
        self.text = text
        self._with_rows = rows
        self._kept = tokens
        self.position = 0
        self.comments: list[Comment] = []
        self._floor = 0  # where the last token that is not a bare word or number ended

    def statement(self) -> Statement | None:
        """Read to the end of a statement, or of the text."""
        self._start = self._end = -1
        self._head = head = list[str]()
        self._parentheses = 0
        self._body: _AtomicBody | None = None
        size, step, told = len(self.text), self._by_token, 0
        while self.position < size and not step():
            if told != len(head):
                told = len(head)
                step = self._gait()
        if not head:
            return None
        found = Statement(self._start, self._end, tuple(self._head))
        has_rows = self._with_rows and copies_from_client(found)
        return found._replace(rows=self._rows(found)) if has_rows else found

    def _by_token(self) -> bool:
        match = _TOKEN.match(self.text, self.position)
        assert match is not None  # the last alternatives take anything
        kind = match.lastgroup or ""
        start, self.position = match.start(kind), match.end()
        if kind == "word" or kind == "number":
            word = match.group(kind)
            if not word.isascii() and (stray := _STRAY_WITHIN.search(word)):
                self.position = start + stray.start()
                word = word[: stray.start()]
            self._token(start, word.upper().decode())
            return False
        if kind == "symbol" and match.group(kind) == b";" and self._ends():
            return True
        if kind in ("line", "block"):
            self._comment(kind, start)
        elif kind != "end":
            self._read(kind, start, match.group(kind))
        self._floor = self.position
        return False

    def _by_words(self) -> bool:
        """Read at once what is only words, numbers, parentheses and commas: much of most statements."""
        text, start = self.text, self.position
        match = _WORDS.match(text, start)
        assert match is not None  # it takes the empty string
        passed = match.group()
        if not text.startswith(b";", match.end()):
            passed = passed.rstrip(_WORD_BYTES)  # what goes on may be another kind of token
        tokens = _WORD.findall(passed)
        if not tokens or (self._head[0] == "CREATE" and not _ROUTINES.isdisjoint(passed.upper().split()[:3])):
            return self._by_token()
        self._head += [token.upper().decode() for token in tokens[: HEAD - len(self._head)]]
        self._pass(start + len(passed))
        if b"(" in passed or b")" in passed:
            for token in tokens:
                self._parentheses = max(0, self._parentheses + _DEPTH.get(token, 0))
        return False

    def _by_landmark(self) -> bool:
        """Jump to the next landmark; the statement ends at its last character that is neither space nor comment."""
        match = _LANDMARK.search(self.text, self.position)
        stop = match.start() if match else len(self.text)
        self._pass(stop)
        return self._landmark(stop) if match else False

    def _by_rows(self) -> bool:
        match = _ROWS.match(self.text, self.position)
        assert match is not None  # it takes the empty string
        stop = match.end()
        if stop > self.position:
            self._pass(stop)
        if self.text.startswith(b";", stop):
            self.position = stop + 1
            return True
        if stop < len(self.text):
            return self._landmark(stop)
        return False

    def _pass(self, stop: int) -> None:
        """Move to `stop` over what cannot matter."""
        text, end = self.text, stop
        while end > self.position and text[end - 1] in _SPACE:
            end -= 1
        if end > self.position:
            self._end = end
        self.position = stop

    def _landmark(self, stop: int) -> bool:
        mark = self.text[stop]
        before = self._name_before(stop) if mark in b"'$" else b""
        if mark == 0x24 and before:  # a dollar within a name, as in tab$1
            self.position = self._end = stop + 1
            return False
        if mark == 0x27 and before in (b"e", b"E"):
            self.position = stop + 1
            self._read("escape", stop - 1, b"'")
            self._floor = self.position
            return False
        return self._by_token()

    def _name_before(self, stop: int) -> bytes:
        """The name or keyword that touches `stop` from the left, without a number or parameter before it."""
        start = stop
        while start > self._floor and _NAME_PART.match(self.text, start - 1):
            start -= 1
        return self.text[start:stop].lstrip(b"0123456789$")

    def _gait(self) -> Callable[[], bool]:
        """How to go on behind a head that has grown: by token while words can matter."""
        head = self._head
        if self._kept != HEAD:
            return self._by_token
        if head[0] in _SAID_BY_FIRST_WORD:
            return self._by_rows
        if len(head) == 1 and head[0] != "COPY":
            return self._by_words
        if head[0] == "CREATE" and len(head) == _ROUTINE_TOLD:
            routine = head[3] if head[1:3] == ["OR", "REPLACE"] else head[1]
            self._body = _AtomicBody() if routine in ("FUNCTION", "PROCEDURE") else None
        if len(head) < HEAD or head[0] == "COPY" or self._body:
            return self._by_token
        return self._by_landmark

    def _ends(self) -> bool:
        return self._parentheses == 0 and not (self._body and self._body.inside)

    def _token(self, start: int, shown: str) -> None:
        head = self._head
        if self._start < 0:
            self._start = start
        if len(head) < self._kept or head[0] == "COPY":
            head.append(shown)
        self._end = self.position
        if self._body:
            self._body.word(shown, self._parentheses)

    def _comment(self, kind: str, start: int) -> None:
        if kind == "block":
            self._block_comment(start)
        else:
            self.comments.append(Comment(start, self.position))

    def _block_comment(self, start: int) -> None:
        depth = 1
        while depth:
            edge = _BLOCK_EDGE.search(self.text, self.position)
            if edge is None:
                raise LexicalError("unterminated comment", start, "Close it with */; comments nest.")
            depth += 1 if edge.group() == b"/*" else -1
            self.position = edge.end()

    def _read(self, kind: str, start: int, opening: bytes) -> None:
        """Read the rest of what `opening` began, and note it as one token."""
        if kind == "escape":
            self._escape_string(start)
        elif kind in ("string", "quoted"):
            self._until(opening[-1:], start, "quoted string" if kind == "string" else "quoted name")
        elif kind == "dollar":
            self._until(opening, start, "dollar-quoted string")
        elif kind == "stray":
            raise _stray(opening, start)
        elif opening == b"(":
            self._parentheses += 1
        elif opening == b")":
            self._parentheses = max(0, self._parentheses - 1)
        shown = {"escape": "'", "dollar": "'"}.get(kind, chr(opening[-1]))
        self._token(start, shown)

    def _until(self, closing: bytes, start: int, name: str) -> None:
        # A doubled quote closes one string and opens the next: for finding the end that is the same.
        end = self.text.find(closing, self.position)
        if end < 0:
            raise LexicalError(f"unterminated {name}", start, f"Close it with {closing.decode()}.")
        self.position = end + len(closing)

    def _escape_string(self, start: int) -> None:
        while True:
            stop = _ESCAPE_STOP.search(self.text, self.position)
            if stop is None:
                raise LexicalError("unterminated quoted string", start, "Close it with '.")
            self.position = stop.end()
            if stop.group() == b"\\" or self.text.startswith(b"'", self.position):
                self.position += 1
            else:
                again = _CONTINUATION.match(self.text, self.position)
                if again is None:
                    return
                self.position = again.end()

    def _rows(self, copy: Statement) -> tuple[int, int]:
        """Where the rows of a COPY are: from the next line to a line that is only a backslash and a dot."""
        line = _REST_OF_LINE.match(self.text, self.position)
        if line is None:
            raise LexicalError(
                "something behind COPY ... FROM STDIN on its line", self.position, "Its rows begin on the next line."
            )
        end = _END_OF_ROWS.search(self.text, line.end())
        if end is None:
            raise LexicalError(
                "the rows of COPY ... FROM STDIN have no end", copy.start, "End them with a line that is only \\."
            )
        self.position = self._floor = end.end()
        return line.end(), end.start()


def _stray(character: bytes, offset: int) -> LexicalError:
    if character == b"\\":
        return LexicalError(
            "a psql meta-command or a stray backslash",
            offset,
            "Only SQL can be here: psql's backslash commands are not understood by the server.",
        )
    return LexicalError(
        f"an invisible character, U+{ord(character.decode()):04X}, which PostgreSQL does not take for a space",
        offset,
        "Replace it with an ordinary space; it often comes in by copying from a web page or a document.",
    )


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


def copies_from_client(statement: Statement) -> bool:
    """Whether the statement is a COPY whose rows come from the client."""
    return _copies(statement, "FROM")


def _copies(statement: Statement, direction: str) -> bool:
    if statement.head[0] != "COPY":
        return False
    depth = 0
    for word, after in zip(statement.head, statement.head[1:], strict=False):
        depth += {"(": 1, ")": -1}.get(word, 0)
        if depth == 0 and word == direction:
            return after in ("STDIN", "STDOUT")  # the server takes either word for either direction
    return False
