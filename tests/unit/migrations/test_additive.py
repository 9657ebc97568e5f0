"""What is proven to only add: nothing that can call a function of a user, and no change of what exists."""

from __future__ import annotations

import pytest

from pgratchet.migrations.additive import AdditionProof
from pgratchet.migrations.lexer import split_statements


def only_adds(*files: str) -> bool:
    proof = AdditionProof()
    for file in files:
        text = file.encode()
        if not all(proof.only_adds(text, statement) for statement in split_statements(text)):
            return False
        proof.end_file()
    return True


ADDS = [
    "create table t (a int references u on delete cascade)",
    "create table t (id bigserial primary key, at timestamptz not null default now(), n numeric(10, 2) default -1.5)",
    "create table t (a int default wipe() check (wipe() > 0), b mood)",
    "create table t (id int generated always as identity (start 7), a text[] default array[]::text[], unique (id, a))",
    "create table t (a date) partition by range (a)",
    "create unlogged table t () with (fillfactor = 70)",
    "create temporary table t (a int) on commit drop",
    "create unique index concurrently i on t (a)",
    'create index i on only s.t using gin (a gin_trgm_ops desc nulls last, "B" collate "C") include (c)',
    "create index i on t (a) where b is null and not c",
    "create function f() returns int language sql as $$ delete from t $$",
    "create function f() returns int begin atomic select wipe(); select 1; end",
    "create view v as select wipe()",
    "create materialized view v as select wipe() with no data",
    "create type mood as enum ('sad')",
    "create type s.pair as (a int, b mood)",
    "create schema if not exists s authorization r",
    'create extension if not exists "uuid-ossp" with schema s',
    "create domain d as int check (wipe(value))",
    "create sequence s owned by t.a",
    "alter table t add column a int, add column b text default 'drop'",
    "alter table if exists only s.t add if not exists a double precision not null default 0",
    "alter table t add a jsonb default '{}'::jsonb not null, add b timestamp(3) with time zone default now()",
    "alter table t add constraint k foreign key (a) references u (b) on update set null not valid",
    "alter table t add constraint c check (wipe(a)) not valid",
    "alter table t add primary key using index i",
    'alter table t add column "drop" int',
    "alter type mood add value 'sad'",
    "comment on table t is 'x'",
    "grant select on t to r",
    "set search_path = s",
    "vacuum t",
]
MAY_DO_ANYTHING = [
    "create table t as select wipe()",
    "create table t as table u",
    "create table t (a) as values (wipe())",
    "create table if not exists t as execute q",
    "create table t (a int, b int generated always as (wipe(1)) stored)",
    "create table t (a int, exclude using gist (wipe(1) with =))",
    "create table t (like u including all)",
    "create table t partition of u for values from (wipe()) to (maxvalue)",
    "create table t (a int) partition by range ((wipe(1)))",
    "create table t (a int) inherits (u)",
    "create materialized view v as select wipe()",
    "select wipe() into t",
    "insert into t select wipe()",
    "insert into t values (1)",
    "insert into t default values",
    "copy t from stdin;\n\\.\n",
    "alter table t add a int default wipe()",
    "alter table t add a int default (1 + wipe())",
    'alter table t add a int default "now"()',
    "alter table t add a int default s.now()",
    "alter table t add a int check (wipe(1))",
    "alter table t add check (wipe(a))",
    "alter table t add constraint c check (a > 0)",
    "alter table t add a a_domain",
    "alter table t add a s.text default 'x'",
    "alter table t add a int generated always as (wipe(1)) stored",
    "alter table t add a uuid default gen_random_uuid()",
    "alter table t add a bigserial",
    "alter table t add exclude using gist (wipe(a) with =)",
    "create index i on t (wipe(a))",
    "create index i on t ((a + 1))",
    "create index i on t (a) where wipe(a)",
    "create index i on t (a) where a > 0",
    "create index i on t (a) where a like 'x'",
    "create index i on t (a) where wipe (a) is null",
    "create extension something",
    "create schema s create table t (a int)",
    "create schema s create index i on t (wipe(a))",
    "create aggregate a (int) (sfunc = f, stype = a_domain, initcond = '0')",
    "create trigger x before insert on t execute function f()",
    "create rule r as on insert to t do instead nothing",
    "create event trigger e on ddl_command_end execute function f()",
    "create type pg_temp.text as enum ('a')",
    "set search_path = s, pg_catalog",
    "set search_path to 's, pg_catalog'",
    "analyze t",
    "vacuum (analyze) t",
    "vacuum full t",
    "reindex table t",
    "refresh materialized view v",
    "select wipe()",
    "do $$ begin end $$",
    "call p()",
    "execute q",
]
CHANGES = [
    "create or replace view v as select 1",
    "alter table t add a int, drop column b",
    "alter table t alter a type bigint",
    "alter table t alter a set not null",
    "alter table t owner to o",
    "alter table t rename to u",
    "alter table t enable row level security",
    "alter table t attach partition p default",
    """alter table t add a text default '"', drop b, add c text default '"'""",
    "alter table t add a text default '/*', drop b, add c text default '*/'",
    "alter table t add a text default e'\\'', drop b, add c text default ''",
    "alter type mood rename value 'a' to 'b'",
    "with gone as (delete from t returning *) insert into u select * from gone",
    "revoke select on t from r",
    "drop table t",
    "truncate t",
    "update t set a = 1",
    "delete from t",
    "merge into t using u on true when matched then delete",
]


@pytest.mark.parametrize("text", ADDS)
def test_statements_that_only_add_are_proven_to(text: str) -> None:
    assert only_adds(text)


@pytest.mark.parametrize("text", MAY_DO_ANYTHING + CHANGES)
def test_other_statements_are_not_proven_to_only_add(text: str) -> None:
    assert not only_adds(text)


TABLE = "create table s.T (a int primary key, b text default 'x');"


@pytest.mark.parametrize(
    "text",
    [
        "insert into s.t values (1, 'a'), (-2.5e3, e'a\\'' 'b'), (default, null), ('3', '{}'::json)",
        "insert into S.t (a, b) values (1, now()) on conflict (a) do nothing",
        "insert into s.t default values",
        "copy s.t (a, b) from stdin with (format csv);\n1,x\n\\.\n",
    ],
)
def test_rows_of_a_table_of_the_run_only_add(text: str) -> None:
    assert only_adds(TABLE + text)
    assert only_adds("create index i on u (a);" + TABLE, "comment on table s.t is 'x';" + text)
    assert not only_adds(text)
    assert not only_adds(TABLE + "set search_path = u;" + text)
    assert not only_adds("set search_path = u;" + TABLE, text)


@pytest.mark.parametrize(
    "between",
    [
        "create trigger x before insert on s.t execute function f()",
        "create rule r as on insert to s.t do also delete from u",
        "create view t as select 1",
        "alter table s.t add check (wipe(a)) not valid",
        "create index i on s.t (wipe(a))",
        "create policy p on s.t with check (wipe(a))",
    ],
)
def test_rows_may_do_anything_once_their_table_may(between: str) -> None:
    assert not only_adds(TABLE + between + "; insert into s.t values (1)")


@pytest.mark.parametrize(
    ("column", "row"),
    [
        ("a int default wipe()", "(default)"),
        ("a int check (wipe(a))", "(1)"),
        ("a a_domain", "(1)"),
        ("a int, check (wipe(a))", "(1)"),
        ("a int", "(wipe())"),
        ("a int", "((select wipe()))"),
        ("a int", "(1 + 1)"),
        ("a int", "(1::a_domain)"),
        ("a int", "(1) returning wipe()"),
        ("a int primary key", "(1) on conflict (a) do update set a = 2"),
    ],
)
def test_rows_that_call_something_are_not_proven_to_only_add(column: str, row: str) -> None:
    assert not only_adds(f"create table t ({column}); insert into t values {row}")


def test_rows_with_a_condition_are_not_proven_to_only_add() -> None:
    assert not only_adds("create table t (a int); copy t from stdin where wipe(a);\n1\n\\.\n")


def test_a_table_that_may_exist_is_named_when_rows_are_added() -> None:
    text = b"create table if not exists a (x int); create table if not exists B (x int); insert into b values (1);"
    proof = AdditionProof()
    assert all(proof.only_adds(text, statement) for statement in split_statements(text))
    assert proof.required_absent == {"b"}
