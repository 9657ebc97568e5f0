"""The lexer agrees with the server's own scanner."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgratchet.migrations.lexer import scan
from pgratchet.migrations.positions import line_and_column
from pgratchet.migrations.statement import Comment, LexicalError, Statement


def split(text: str) -> list[str]:
    raw = text.encode()
    return [raw[piece.start : piece.end].decode() for piece in scan(raw) if isinstance(piece, Statement)]


LONG = "INSERT INTO t VALUES (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, "
"""Behind this the lexer jumps from landmark to landmark."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" ;; ; ", []),
        ("-- nothing\n/* at all */", []),
        ("select 1; select 2", ["select 1", "select 2"]),
        ("select 1 -- the; end\n; select 2;", ["select 1", "select 2"]),
        ("select 1 /* a; /* b; */ c; */; select 2", ["select 1", "select 2"]),
        ("select 'a;''b;'; select 2", ["select 'a;''b;'", "select 2"]),
        ("select e'a\\';b', E'\\\\'; select 2", ["select e'a\\';b', E'\\\\'", "select 2"]),
        ("select e'a'\n  'b\\';'; select 2", ["select e'a'\n  'b\\';'", "select 2"]),
        ("select e'a' -- c\n 'b\\';'; select 2", ["select e'a' -- c\n 'b\\';'", "select 2"]),
        ("select 'a\\'; select 2", ["select 'a\\'", "select 2"]),
        ('select "a;""b;"; select 2', ['select "a;""b;"', "select 2"]),
        ("select U&'a;', u&\"b;\", b'0;', x'f;', n'c;'; d", ["select U&'a;', u&\"b;\", b'0;', x'f;', n'c;'", "d"]),
        ("select $$a;$x$;$$, $x$;$$;$x$; select 2", ["select $$a;$x$;$$, $x$;$$;$x$", "select 2"]),
        ("select $ä$;$ä$; select 2", ["select $ä$;$ä$", "select 2"]),
        ("select a$1$, 'x;'; y", ["select a$1$, 'x;'", "y"]),
        ("execute q($1,$2); y", ["execute q($1,$2)", "y"]),
        ("select 1--;\n+2; y", ["select 1--;\n+2", "y"]),
        ("select 4 -/* ; */ 2; y", ["select 4 -/* ; */ 2", "y"]),
        ("create rule r as on insert to t do (a; b); y", ["create rule r as on insert to t do (a; b)", "y"]),
        ("select a); b", ["select a)", "b"]),
        (
            "create or replace function f() begin atomic select 1; select case when a then b end as end; end; y",
            ["create or replace function f() begin atomic select 1; select case when a then b end as end; end", "y"],
        ),
        (
            "create function f() begin atomic select 1 case; end; y",
            ["create function f() begin atomic select 1 case; end", "y"],
        ),
        ("create function f(begin atomic) as 'x'; y", ["create function f(begin atomic) as 'x'", "y"]),
        ("create procedure p() begin atomic end; y", ["create procedure p() begin atomic end", "y"]),
        (
            "create function f() returns int as 'begin; end;' language sql; y",
            ["create function f() returns int as 'begin; end;' language sql", "y"],
        ),
        (
            LONG + "'a;''b', e'\\';', $$;$$, $t$;$t$, a$t$, 11e5); y",
            [LONG + "'a;''b', e'\\';', $$;$$, $t$;$t$, a$t$, 11e5)", "y"],
        ),
        (LONG + "11) -- ;\n; y", [LONG + "11)", "y"]),
        (LONG + "'x' /* ; */)", [LONG + "'x' /* ; */)"]),
        (LONG + "type'a\\'); y", [LONG + "type'a\\')", "y"]),
    ],
)
def test_statements_end_where_the_server_ends_them(text: str, expected: list[str]) -> None:
    assert split(text) == expected


@pytest.mark.parametrize(
    ("text", "reason", "offset"),
    [
        ("select 'a", "unterminated quoted string", 7),
        ("select e'a\\'", "unterminated quoted string", 7),
        ('select "a', "unterminated quoted name", 7),
        ("select $x$a$$", "unterminated dollar-quoted string", 7),
        ("select /* /* */", "unterminated comment", 7),
        ("select 1;\n\\d", "a psql meta-command or a stray backslash", 10),
        ("select\u00a01", "an invisible character, U+00A0", 6),
        ("select 1\u200b;", "an invisible character, U+200B", 8),
        (LONG + "\u00a011)", "an invisible character, U+00A0", len(LONG)),
        ("select a\u3000b", "an invisible character, U+3000", 8),
        ("create table long_enough (a int, b int, c int, d\u2003int)", "an invisible character, U+2003", 48),
        ("select 1;\ncopy t from stdin; select 2", "text after COPY ... FROM STDIN on the same line", 28),
        ("select 1;\ncopy t from stdin; /* a\n */\n1\n\\.\n", "text after COPY ... FROM STDIN on the same line", 28),
        ("select 1;\ncopy t from stdin; /* a */ select 2\n1\n\\.\n", "text after COPY ... FROM STDIN on the same", 28),
        ("select 1;\ncopy t from stdin;\n1\n\\. \n", "the rows of COPY ... FROM STDIN have no end", 10),
    ],
)
def test_a_text_that_cannot_be_sql_is_refused_with_its_location(text: str, reason: str, offset: int) -> None:
    with pytest.raises(LexicalError) as caught:
        list(scan(text.encode()))
    assert caught.value.reason.startswith(reason)
    assert caught.value.offset == offset
    assert caught.value.hint.endswith(".")


def test_invisible_characters_may_stand_in_strings_and_comments() -> None:
    assert len(split("select '\u00a0' -- \u00a0\n, $$\u200b$$, \"\u00a0\" /* \ufeff */")) == 1


@pytest.mark.parametrize("comment", ["-- note", " -- it's", "\t/* a; */ -- b", "/* a *//* b */ ", "--", " /**/"])
def test_rows_of_a_copy_may_follow_a_comment(comment: str) -> None:
    text = f"copy t from stdin;{comment}\n1\n\\.\nselect 1".encode()
    (copy, select) = [piece for piece in scan(text) if isinstance(piece, Statement)]
    assert copy.rows is not None
    assert text[slice(*copy.rows)] == b"1\n"
    assert text[select.start : select.end] == b"select 1"


def test_comments_have_their_positions() -> None:
    text = b"-- one\nselect 1; -- two"
    assert [text[c.start : c.end] for c in scan(text) if isinstance(c, Comment)] == [b"-- one", b"-- two"]


def test_line_and_column_count_characters_from_one() -> None:
    assert line_and_column("ä\n😀b".encode(), 7) == (2, 2)
    assert line_and_column(b"", 0) == (1, 1)


FRAGMENTS = st.sampled_from(
    [
        "'a;b'",
        "E'\\';'",
        '";"',
        "$$;$$",
        "$q$;'$q$",
        "-- ;'\n",
        "/* ; /* ' */ */",
        "(a, b)",
        "x$1",
        " 12 ",
        "é",
        " + ",
        "\n",
    ]
)


@given(st.lists(st.lists(FRAGMENTS, max_size=6), max_size=5))
def test_reading_by_token_and_by_landmark_finds_the_same_ends(statements: list[list[str]]) -> None:
    """After an unknown word the lexer reads by token, after INSERT by landmark."""
    bodies = [" ".join(fragments) for fragments in statements]
    slow = split("".join(f"frobnicate {body} ;" for body in bodies))
    fast = split("".join(f"insert {body} ;" for body in bodies))
    assert [s.removeprefix("frobnicate") for s in slow] == [s.removeprefix("insert") for s in fast]
    assert len(slow) == len(bodies)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("copy t from stdin;\n1\t'\n2\t\\\\.\n\\.\nselect 1", "1\t'\n2\t\\\\.\n"),
        ("copy t from stdin; \t\n\\.\nselect 1", ""),
        ("copy t from stdin;\n1; -- /*\n\\.;\n\\.\nselect 1", "1; -- /*\n\\.;\n"),
    ],
)
def test_rows_of_a_copy_are_separated_from_the_next_statement(text: str, rows: str) -> None:
    first, second = [piece for piece in scan(text.encode()) if isinstance(piece, Statement)]
    assert first.rows is not None
    assert text.encode()[slice(*first.rows)].decode() == rows
    assert second.head == ("SELECT",)
    assert second.rows is None
