"""The lexer, as a table of what the server's own scanner does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgratchet.migrations.classify import (
    Effect,
    copies_to_client,
    effect,
    only_adds,
    outside_transaction,
    reindexed,
    transaction_control,
)
from pgratchet.migrations.lexer import Comment, LexicalError, Statement, copies_from_client, line_and_column, scan


def split(text: str) -> list[str]:
    raw = text.encode()
    return [raw[piece.start : piece.end].decode() for piece in scan(raw) if isinstance(piece, Statement)]


def only(text: str) -> Statement:
    (statement,) = [piece for piece in scan(text.encode()) if isinstance(piece, Statement)]
    return statement


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
        ("select 1;\ncopy t from stdin; select 2", "something behind COPY ... FROM STDIN on its line", 28),
        ("select 1;\ncopy t from stdin;\n1\n\\. \n", "the rows of COPY ... FROM STDIN have no end", 10),
    ],
)
def test_what_cannot_be_sql_is_named_with_its_place(text: str, reason: str, offset: int) -> None:
    with pytest.raises(LexicalError) as caught:
        list(scan(text.encode()))
    assert caught.value.reason.startswith(reason)
    assert caught.value.offset == offset
    assert caught.value.hint.endswith(".")


def test_invisible_characters_may_stand_in_strings_and_comments() -> None:
    assert len(split("select '\u00a0' -- \u00a0\n, $$\u200b$$, \"\u00a0\" /* \ufeff */")) == 1


def test_comments_come_with_their_places() -> None:
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
def test_both_gaits_find_the_same_ends(statements: list[list[str]]) -> None:
    """Read by token behind an unknown word, by landmark behind INSERT: the parts must be the same."""
    bodies = [" ".join(fragments) for fragments in statements]
    slow = split("".join(f"frobnicate {body} ;" for body in bodies))
    fast = split("".join(f"insert {body} ;" for body in bodies))
    assert [s.removeprefix("frobnicate") for s in slow] == [s.removeprefix("insert") for s in fast]
    assert len(slow) == len(bodies)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("BEGIN", "BEGIN"),
        ("begin transaction isolation level serializable", "BEGIN"),
        ("start transaction", "START TRANSACTION"),
        ("commit work", "COMMIT"),
        ("END", "END"),
        ("abort", "ABORT"),
        ("rollback", "ROLLBACK"),
        ("rollback and chain", "ROLLBACK"),
        ("rollback prepared 'x'", "ROLLBACK"),
        ("commit prepared 'x'", "COMMIT PREPARED"),
        ("prepare transaction 'x'", "PREPARE TRANSACTION"),
        ("/* hidden */ co\u006dmit", "COMMIT"),
        ("rollback to savepoint a", None),
        ("rollback work to a", None),
        ("set transaction read only", "SET TRANSACTION"),
        ("set session characteristics as transaction read only", None),
        ("savepoint a", None),
        ("release a", None),
        ("prepare q as select 1", None),
        ("select 'commit'", None),
        ("do $$begin commit; end$$", None),
        ('"commit"', None),
    ],
)
def test_transaction_control_is_told_from_its_look_alikes(text: str, words: str | None) -> None:
    assert transaction_control(only(text)) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vacuum", "VACUUM"),
        ("vacuum (full, verbose) t", "VACUUM"),
        ("create database x", "CREATE DATABASE"),
        ("drop database if exists x", "DROP DATABASE"),
        ("alter database x set tablespace y", "ALTER DATABASE ... SET TABLESPACE"),
        ("create tablespace x location 'y'", "CREATE TABLESPACE"),
        ("alter system set x = 1", "ALTER SYSTEM"),
        ("create index concurrently on t (a)", "CREATE INDEX CONCURRENTLY"),
        ("create unique index concurrently if not exists i on t (a)", "CREATE INDEX CONCURRENTLY"),
        ("drop index concurrently i", "DROP INDEX CONCURRENTLY"),
        ("reindex index concurrently i", "REINDEX CONCURRENTLY"),
        ("reindex (verbose) table concurrently t", "REINDEX CONCURRENTLY"),
        ("reindex database x", "REINDEX DATABASE"),
        ("reindex (verbose) schema x", "REINDEX SCHEMA"),
        ("cluster", "CLUSTER"),
        ("discard all", "DISCARD ALL"),
        ("alter table a detach partition b concurrently", "DETACH PARTITION CONCURRENTLY"),
        ("reindex table t", None),
        ("cluster t", None),
        ("refresh materialized view concurrently v", None),
        ("create index i on t (a)", None),
        ("discard temp", None),
        ("alter database x set search_path = y", None),
        ("select 'vacuum'", None),
    ],
)
def test_what_needs_to_be_outside_a_transaction(text: str, words: str | None) -> None:
    assert outside_transaction(only(text)) == words


@pytest.mark.parametrize(
    ("text", "from_client", "to_client"),
    [
        ("copy t from stdin;\n\\.\n", True, False),
        ("copy t (a, b, c, d, e, f, g, h, i, j, k) from stdin with (format csv);\n\\.", True, False),
        ("copy t from stdout;\n\\.\n", True, False),
        ("copy (select 1 from stdin) to stdout", False, True),
        ("copy t to stdin", False, True),
        ("copy t (stdin) from '/tmp/x'", False, False),
        ("copy t from program 'cat'", False, False),
        ("select stdin from copy", False, False),
    ],
)
def test_copy_through_the_client_is_told(text: str, from_client: bool, to_client: bool) -> None:
    assert (copies_from_client(only(text)), copies_to_client(only(text))) == (from_client, to_client)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("copy t from stdin;\n1\t'\n2\t\\\\.\n\\.\nselect 1", "1\t'\n2\t\\\\.\n"),
        ("copy t from stdin; \t\n\\.\nselect 1", ""),
        ("copy t from stdin;\n1; -- /*\n\\.;\n\\.\nselect 1", "1; -- /*\n\\.;\n"),
    ],
)
def test_the_rows_of_a_copy_are_told_from_what_follows(text: str, rows: str) -> None:
    first, second = [piece for piece in scan(text.encode()) if isinstance(piece, Statement)]
    assert first.rows is not None
    assert text.encode()[slice(*first.rows)].decode() == rows
    assert second.head == ("SELECT",)
    assert second.rows is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("create index concurrently I on T (a)", Effect("index", True, ("i",), ("t",))),
        ("create index concurrently -- why\n i on t (a)", Effect("index", True, ("i",), ("t",))),
        (
            'create unique index concurrently if not exists "My ""I" /* on x */ on only "S".t using btree (a)',
            Effect("index", True, ('My "I',), ("S", "t")),
        ),
        ("drop index concurrently if exists s.i cascade", Effect("index", False, ("s", "i"))),
        ("drop index concurrently i", Effect("index", False, ("i",))),
        ("reindex index concurrently i", None),
        ("create index i on t (a)", None),
        ("create database d with owner o", Effect("database", True, ("d",))),
        ('drop database if exists "D" with (force)', Effect("database", False, ("D",))),
        ("create tablespace t location '/x'", Effect("tablespace", True, ("t",))),
        ("create subscription s connection 'x' publication p", Effect("subscription", True, ("s",))),
        ("drop subscription if exists s", Effect("subscription", False, ("s",))),
        (
            'alter table if exists only s."T" detach partition "P".one concurrently',
            Effect("partition", False, ("P", "one"), ("s", "T")),
        ),
        ("alter table t detach partition p", None),
        ("vacuum t", None),
    ],
)
def test_what_a_statement_makes_or_takes_away(text: str, expected: Effect | None) -> None:
    assert effect(text.encode(), only(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("reindex index concurrently S.i", ("INDEX", ("s", "i"))),
        ("reindex (concurrently, verbose) table t", ("TABLE", ("t",))),
        ("reindex (verbose) table concurrently t", ("TABLE", ("t",))),
        ('reindex schema concurrently "S"', ("SCHEMA", ("S",))),
        ("reindex database concurrently", ("DATABASE", ())),
        ("reindex table t", None),
        ("create index concurrently i on t (a)", None),
    ],
)
def test_what_is_reindexed_concurrently(text: str, expected: tuple[str, tuple[str, ...]] | None) -> None:
    assert reindexed(text.encode(), only(text)) == expected


@pytest.mark.parametrize(
    ("text", "adds"),
    [
        ("create table t (a int references u on delete cascade)", True),
        ("create unlogged table t ()", True),
        ("create unique index concurrently i on t (a)", True),
        ("create function f() returns int language sql as $$ delete from t $$", True),
        ("create or replace view v as select 1", False),
        ("create trigger x before insert on t execute function f()", False),
        ("create rule r as on insert to t do instead nothing", False),
        ("alter table t add column a int, add column b text default 'drop'", True),
        ("alter table t add a int, drop column b", False),
        ("alter table t alter a type bigint", False),
        ("alter table t alter a set not null", False),
        ("alter table t owner to o", False),
        ("alter table t rename to u", False),
        ('alter table t add column "drop" int', True),
        ("""alter table t add a text default '"', drop b, add c text default '"'""", False),
        ("alter table t add a text default '/*', drop b, add c text default '*/'", False),
        ("alter table t add a text default e'\\'', drop b, add c text default ''", False),
        ("alter type mood add value 'sad'", True),
        ("alter type mood rename value 'a' to 'b'", False),
        ("insert into t values ('delete')", True),
        ("insert into t values (1) on conflict (a) do update set a = 2", False),
        ("insert into t values (1) on conflict (a) do nothing", True),
        ("with gone as (delete from t returning *) insert into u select * from gone", False),
        ("copy t from stdin;\n\\.\n", True),
        ("comment on table t is 'x'", True),
        ("grant select on t to r", True),
        ("revoke select on t from r", False),
        ("drop table t", False),
        ("truncate t", False),
        ("update t set a = 1", False),
        ("delete from t", False),
        ("select f()", False),
        ("do $$ begin end $$", False),
        ("call p()", False),
        ("vacuum t", True),
        ("refresh materialized view v", False),
        ("merge into t using u on true when matched then delete", False),
    ],
)
def test_what_only_adds_needs_no_backup_where_the_policy_says_so(text: str, adds: bool) -> None:
    assert only_adds(text.encode(), only(text)) is adds
