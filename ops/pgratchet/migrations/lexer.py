"""Splits SQL into statements by PostgreSQL's lexical rules.

The rules are the same as in the server's scanner (src/backend/parser/scan.l) with standard_conforming_strings on, as in
every session of a run. As in psql (src/fe_utils/psqlscan.l), a semicolon inside parentheses or a BEGIN ATOMIC body does
not end a statement. tests/unit/migrations/test_lexer_against_postgresql.py compares both scanners.

Texts are bytes. For the server's scanner every byte above 127 is a letter of a name, so no text is decoded, and a file
costs no more memory than the size of the file. For speed the scanner reads in three modes:

- The first tokens, which classify a statement, are read singly.
- Behind these tokens the scanner jumps between quotes, comments, dollars, parentheses and semicolons.
- Statements such as INSERT make files large. A regular expression skips such a statement with all parentheses: no
  INSERT can hold a semicolon inside parentheses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from pgratchet.migrations.classify import HARMLESS_FIRST_WORDS, copies_from_client
from pgratchet.migrations.statement import Comment, LexicalError, Statement, Token

HEAD = 16
"""Tokens kept of each statement, enough to classify it. Of a COPY all tokens are kept: its source comes late."""
_ROUTINE_HEAD = 4
"""Tokens that show whether a statement creates a function or procedure."""
_QUOTES = ("'", '"')
_ROUTINES = frozenset((b"FUNCTION", b"PROCEDURE"))

# Characters that look like a space and are part of a name to the server; and psql's backslash.
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
# Text without special characters, and plain strings inside it. A string behind an e may be an E'' string.
_BULK = re.compile(
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
_STRAY_BYTES = re.compile(_STRAY)
_BLOCK_EDGE = re.compile(rb"/\*|\*/")
_ESCAPE_STOP = re.compile(rb"['\\]")
# A string continues after white space with a line end; an E'' string continues as an E'' string.
_CONTINUATION = re.compile(rb"(?:[ \t\f\v]|--[^\n\r]*)*[\n\r](?:[ \t\n\r\f\v]|--[^\n\r]*[\n\r])*'")
_NAME_PART = re.compile(rb"[" + _LETTER + rb"0-9$]")
_REST_OF_LINE = re.compile(rb"(?:[ \t\r\f\v]|/\*(?:(?!\*/|/\*)[^\n])*\*/)*(?:--[^\n]*)?(?:\n|\Z)")
_END_OF_ROWS = re.compile(rb"^\\\.\r?(?:\n|\Z)", re.MULTILINE)


def scan(text: bytes, *, rows: bool = True) -> Iterator[Statement | Comment]:
    """Yield the statements and line comments of `text`, in order; LexicalError where `text` is not valid.

    With `rows` false, the text behind a COPY ... FROM STDIN is SQL and not the data of the COPY.
    """
    scanner = _Scanner(text, rows=rows)
    while scanner.position < len(text):
        statement = scanner.statement()
        if scanner.comments:
            yield from scanner.comments
            scanner.comments.clear()
        if statement is not None:
            yield statement


def split_statements(text: bytes, *, rows: bool = True) -> list[Statement]:
    """Return the statements of `text`, without comments; LexicalError where `text` is not valid."""
    return [piece for piece in scan(text, rows=rows) if isinstance(piece, Statement)]


def read_tokens(text: bytes, statement: Statement) -> list[Token]:
    """Return every token of a statement of `text`; of a function with a BEGIN ATOMIC body, those of its beginning."""
    piece = text[statement.start : statement.end]
    scanner = _Scanner(piece, rows=False, tokens=HEAD + len(piece))
    reread = scanner.statement()
    tokens: list[Token] = []
    last_end = -1
    for word, (start, end) in zip(reread.head if reread else (), scanner.spans, strict=True):
        raw = piece[start:end].decode()
        if start == last_end and word in _QUOTES and word == tokens[-1].word == raw[0]:  # a doubled quote
            tokens[-1] = tokens[-1]._replace(raw=tokens[-1].raw + raw)
        else:
            tokens.append(Token(word, raw, statement.start + start))
        last_end = end
    return tokens


class _Scanner:
    """Reads a text. Every method starts at `position`, and moves `position` behind the text it has read."""

    def __init__(self, text: bytes, *, rows: bool, tokens: int = HEAD) -> None:
        self.text = text
        self._with_rows = rows
        self._head_limit = tokens
        self.position = 0
        self.comments: list[Comment] = []
        self.spans: list[tuple[int, int]] = []
        self._floor = 0  # the end of the last token that is not a plain word or number

    def statement(self) -> Statement | None:
        """Read to the end of the next statement; None at the end of the text."""
        self._start = self._end = -1
        self._head = head = list[str]()
        self._parentheses = 0
        self._body: _AtomicBody | None = None
        size, step, count = len(self.text), self._read_token, 0
        while self.position < size and not step():
            if count != len(head):
                count = len(head)
                step = self._choose_step()
        if not head:
            return None
        statement = Statement(self._start, self._end, tuple(self._head))
        has_rows = self._with_rows and copies_from_client(statement)
        return statement._replace(rows=self._rows(statement)) if has_rows else statement

    def _read_token(self) -> bool:
        """Read a token or a comment; True at the end of the statement."""
        match = _TOKEN.match(self.text, self.position)
        assert match is not None  # the last alternatives match any text
        kind = match.lastgroup or ""
        start, self.position = match.start(kind), match.end()
        if kind == "word" or kind == "number":
            word = match.group(kind)
            if not word.isascii() and (stray := _STRAY_BYTES.search(word)):
                self.position = start + stray.start()
                word = word[: stray.start()]
            self._add_token(start, word.upper().decode())
            return False
        if kind == "symbol" and match.group(kind) == b";" and self._ends():
            return True
        if kind in ("line", "block"):
            self._comment(kind, start)
        elif kind != "end":
            self._read_rest(kind, start, match.group(kind))
        self._floor = self.position
        return False

    def _read_words(self) -> bool:
        """Read words, numbers, parentheses and commas in a single step: most statements are made of these."""
        text, start = self.text, self.position
        match = _WORDS.match(text, start)
        assert match is not None  # the pattern matches the empty string
        run = match.group()
        if not text.startswith(b";", match.end()):
            run = run.rstrip(_WORD_BYTES)  # the last word may continue as another kind of token
        tokens = _WORD.findall(run)
        if not tokens or (self._head[0] == "CREATE" and not _ROUTINES.isdisjoint(run.upper().split()[:3])):
            return self._read_token()
        self._head += [token.upper().decode() for token in tokens[: HEAD - len(self._head)]]
        self._advance(start + len(run))
        if b"(" in run or b")" in run:
            for token in tokens:
                self._parentheses = max(0, self._parentheses + _DEPTH.get(token, 0))
        return False

    def _jump_to_landmark(self) -> bool:
        """Jump to the next landmark: a quote, comment, dollar, parenthesis, semicolon or stray character."""
        match = _LANDMARK.search(self.text, self.position)
        stop = match.start() if match else len(self.text)
        self._advance(stop)
        return self._read_landmark(stop) if match else False

    def _skip_bulk(self) -> bool:
        match = _BULK.match(self.text, self.position)
        assert match is not None  # the pattern matches the empty string
        stop = match.end()
        if stop > self.position:
            self._advance(stop)
        if self.text.startswith(b";", stop):
            self.position = stop + 1
            return True
        if stop < len(self.text):
            return self._read_landmark(stop)
        return False

    def _advance(self, stop: int) -> None:
        """Move to `stop`. The statement so far ends behind the last byte before `stop`, spaces excluded."""
        text, end = self.text, stop
        while end > self.position and text[end - 1] in _SPACE:
            end -= 1
        if end > self.position:
            self._end = end
        self.position = stop

    def _read_landmark(self, stop: int) -> bool:
        mark = self.text[stop]
        before = self._name_before(stop) if mark in b"'$" else b""
        if mark == 0x24 and before:  # a dollar inside a name, as in tab$1
            self.position = self._end = stop + 1
            return False
        if mark == 0x27 and before in (b"e", b"E"):
            self.position = stop + 1
            self._read_rest("escape", stop - 1, b"'")
            self._floor = self.position
            return False
        return self._read_token()

    def _name_before(self, stop: int) -> bytes:
        """Return the name or keyword before `stop`, without a number or parameter in front."""
        start = stop
        while start > self._floor and _NAME_PART.match(self.text, start - 1):
            start -= 1
        return self.text[start:stop].lstrip(b"0123456789$")

    def _choose_step(self) -> Callable[[], bool]:
        """Choose how to read on after a new token: token by token while words can still matter."""
        head = self._head
        if self._head_limit != HEAD:
            return self._read_token
        if head[0] in HARMLESS_FIRST_WORDS:
            return self._skip_bulk
        if len(head) == 1 and head[0] != "COPY":
            return self._read_words
        if head[0] == "CREATE" and len(head) == _ROUTINE_HEAD:
            routine = head[3] if head[1:3] == ["OR", "REPLACE"] else head[1]
            self._body = _AtomicBody() if routine in ("FUNCTION", "PROCEDURE") else None
        if len(head) < HEAD or head[0] == "COPY" or self._body:
            return self._read_token
        return self._jump_to_landmark

    def _ends(self) -> bool:
        return self._parentheses == 0 and not (self._body and self._body.inside)

    def _add_token(self, start: int, token: str) -> None:
        head = self._head
        if self._start < 0:
            self._start = start
        if len(head) < self._head_limit or head[0] == "COPY":
            head.append(token)
            if self._head_limit != HEAD:
                self.spans.append((start, self.position))
        self._end = self.position
        if self._body:
            self._body.add_token(token, self._parentheses)

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

    def _read_rest(self, kind: str, start: int, opening: bytes) -> None:
        """Read the rest of a token after `opening`, and add the token."""
        if kind == "escape":
            self._escape_string(start)
        elif kind in ("string", "quoted"):
            self._read_until(opening[-1:], start, "quoted string" if kind == "string" else "quoted name")
        elif kind == "dollar":
            self._read_until(opening, start, "dollar-quoted string")
        elif kind == "stray":
            raise _stray(opening, start)
        elif opening == b"(":
            self._parentheses += 1
        elif opening == b")":
            self._parentheses = max(0, self._parentheses - 1)
        self._add_token(start, "'" if kind in ("escape", "dollar") else chr(opening[-1]))

    def _read_until(self, closing: bytes, start: int, name: str) -> None:
        # A doubled quote reads as the end of one string and the start of another; the statement ends at the same byte.
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
                continuation = _CONTINUATION.match(self.text, self.position)
                if continuation is None:
                    return
                self.position = continuation.end()

    def _rows(self, copy: Statement) -> tuple[int, int]:
        """Return the offsets of the rows of a COPY: from the next line to a line with only a backslash and a dot."""
        line = _REST_OF_LINE.match(self.text, self.position)
        if line is None:
            raise LexicalError(
                "text after COPY ... FROM STDIN on the same line", self.position, "Its rows begin on the next line."
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
            "Remove it: the server does not know psql's backslash commands. "
            "pg_dump writes two of them, \\restrict and \\unrestrict: remove both lines.",
        )
    return LexicalError(
        f"an invisible character, U+{ord(character.decode()):04X}, which is no space for PostgreSQL",
        offset,
        "Replace it with an ordinary space. Text copied from a web page or a document often has such characters.",
    )


class _AtomicBody:
    """Tracks whether the scanner is inside the BEGIN ATOMIC ... END of a function; CASE ... END nests inside."""

    def __init__(self) -> None:
        self._depth = 0
        self._previous = ""

    @property
    def inside(self) -> bool:
        return self._depth > 0

    def add_token(self, word: str, parentheses: int) -> None:
        previous, self._previous = self._previous, word
        if word == "ATOMIC" and previous == "BEGIN" and not parentheses:
            self._depth = max(self._depth, 1)
        elif word == ";" and self._depth:
            self._depth = 1  # a CASE cannot contain a semicolon: the word was a name
        elif self._depth and previous not in ("AS", "."):
            if word == "CASE":
                self._depth += 1
            elif word == "END":
                self._depth -= 1
