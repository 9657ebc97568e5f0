"""Classification of statements: transaction control, COPY through the client, objects created and dropped."""

from __future__ import annotations

import pytest

from pgratchet.migrations.classify import copies_from_client, copies_to_client, outside_transaction, transaction_control
from pgratchet.migrations.effects import Effect, find_effect, find_reindexed
from tests.unit.migrations.helpers import only_statement


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
def test_transaction_control_is_distinguished_from_similar_statements(text: str, words: str | None) -> None:
    assert transaction_control(only_statement(text)) == words


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
        ("reindex (concurrently false) table t", None),
        ("reindex (verbose, concurrently off) index i", None),
        ("reindex (concurrently 0) table t", None),
        ("reindex (concurrently 'false') table t", None),
        ("reindex (concurrently false, verbose) schema s", "REINDEX SCHEMA"),
        ("reindex (concurrently on) table t", "REINDEX CONCURRENTLY"),
        ("reindex (concurrently, tablespace x) table t", "REINDEX CONCURRENTLY"),
        ("cluster", "CLUSTER"),
        ("cluster (verbose)", "CLUSTER"),
        ("cluster verbose", "CLUSTER"),
        ("discard all", "DISCARD ALL"),
        ("alter table a detach partition b concurrently", "DETACH PARTITION CONCURRENTLY"),
        ("reindex table t", None),
        ("cluster t", None),
        ("cluster (verbose) t using i", None),
        ("refresh materialized view concurrently v", None),
        ("create index i on t (a)", None),
        ("discard temp", None),
        ("alter database x set search_path = y", None),
        ("select 'vacuum'", None),
    ],
)
def test_statements_that_cannot_run_in_a_transaction_are_recognised(text: str, words: str | None) -> None:
    assert outside_transaction(only_statement(text)) == words


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
def test_copy_through_the_client_is_recognised(text: str, from_client: bool, to_client: bool) -> None:
    assert (copies_from_client(only_statement(text)), copies_to_client(only_statement(text))) == (
        from_client,
        to_client,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("create index concurrently I on T (a)", Effect("index", True, "I", "T")),
        ("create index concurrently -- why\n i on t (a)", Effect("index", True, "i", "t")),
        ("create index concurrently Имя on Ärzte (a)", Effect("index", True, "Имя", "Ärzte")),
        ("create index concurrently /* a /* nested */ b */ i on t (a)", Effect("index", True, "i", "t")),
        ("create index concurrently -- a /* b\n i on t (a) -- */", Effect("index", True, "i", "t")),
        ('create index concurrently "/*" on "--" (a /* c */)', Effect("index", True, '"/*"', '"--"')),
        (
            'create index concurrently U&"\\0041 ""b""" on s . U&"!0411!+01f600!!" uescape \'!\' (a)',
            Effect("index", True, '"A ""b"""', 's."Б😀!"'),
        ),
        ("create index concurrently if on exists (a)", Effect("index", True, "if", "exists")),
        (
            'create unique index concurrently if not exists "My ""I" /* on x */ on only "S".t using btree (a)',
            Effect("index", True, '"My ""I"', '"S".t'),
        ),
        ("drop index concurrently if exists s.i cascade", Effect("index", False, "s.i")),
        ("drop index concurrently i", Effect("index", False, "i")),
        ("reindex index concurrently i", None),
        ("create index i on t (a)", None),
        ("create database Тест with owner o", Effect("database", True, "Тест")),
        ('drop database if exists "D" with (force)', Effect("database", False, '"D"')),
        ("create tablespace /* a */ t location '/x'", Effect("tablespace", True, "t")),
        ("create subscription s connection 'x' publication p", Effect("subscription", True, "s")),
        ("drop subscription if exists s", Effect("subscription", False, "s")),
        (
            'alter table if exists only s."T" detach partition "P".one concurrently',
            Effect("partition", False, '"P".one', 's."T"'),
        ),
        ("alter table partition detach partition p concurrently", Effect("partition", False, "p", "partition")),
        ("alter table t detach partition p", None),
        ("vacuum t", None),
    ],
)
def test_objects_that_a_statement_creates_or_drops_are_recognised(text: str, expected: Effect | None) -> None:
    assert find_effect(text.encode(), only_statement(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("reindex index concurrently S.i", ("INDEX", "S.i")),
        ("reindex (concurrently, verbose) table t", ("TABLE", "t")),
        ("reindex (verbose) table concurrently t", ("TABLE", "t")),
        ('reindex schema concurrently "S"', ("SCHEMA", '"S"')),
        ("reindex database concurrently", ("DATABASE", "")),
        ("reindex (tablespace index, concurrently true) index Ü", ("INDEX", "Ü")),
        ("reindex (concurrently false) table t", None),
        ("reindex table t", None),
        ("create index concurrently i on t (a)", None),
    ],
)
def test_concurrent_reindexing_is_recognised(text: str, expected: tuple[str, str] | None) -> None:
    assert find_reindexed(text.encode(), only_statement(text)) == expected
