"""Settings with which the server reads a text: a file that changes them is still read as UTF-8, to its end."""

from __future__ import annotations

from contextlib import closing

import pytest

from pgratchet.migrations.scripts import SIZE_LIMIT
from tests.integration.apply.helpers import NO_TRANSACTION
from tests.servers.databases import Database
from tests.servers.pgbouncer import StartPooler
from tests.support.migrations import WriteMigrations, migrate

WORD = "naïve café"
CHANGES = {
    "SET": "set client_encoding = 'LATIN1'",
    "SET TO": "SET SESSION Client_Encoding TO latin1",
    "SET LOCAL": "set local client_encoding = 'LATIN1'",
    "SET NAMES": "set names 'LATIN1'",
    "set_config": "select set_config('client_encoding', 'LATIN1', false)",
    "DO": "do $$ begin perform set_config('client_encoding', 'LATIN1', false); end $$",
    "quoted": """set "client_encoding" = 'WIN1252'""",
    "RESET": "set client_encoding = 'LATIN1';\nreset client_encoding;\nset client_encoding = 'LATIN9'",
}
LARGE = "select 1;\n" * (SIZE_LIMIT // 10 + 100)
FILES = {
    "small": "{change};\ncreate table t as select '{word}'::text as x;\n",
    "rows": "create table t (x text);\n{change};\ncopy t from stdin;\n{word}\n\\.\n",
    "rows again": "create table t (x text);\ncopy t from stdin;\n\\.\n{change};\ncopy t from stdin;\n{word}\n\\.\n",
    "large": "{change};\n" + LARGE + "create table t as select '{word}'::text as x;\n",
    "without a transaction": NO_TRANSACTION + "{change};\ncreate table t as select '{word}'::text as x;\n",
}


def _write(write: WriteMigrations, shape: str, change: str) -> None:
    write(m1_a=FILES[shape].format(change=change, word=WORD), m2_b=f"create table u as select '{WORD}'::text as x")


def test_a_changed_encoding_damages_the_text_behind_it(database: Database) -> None:
    """The problem: the server decodes each text with the encoding that the one before has set."""
    with closing(database.connect()) as session:
        session.execute("SET client_encoding = 'LATIN1'")
        session.pgconn.exec_(f"CREATE TABLE t AS SELECT '{WORD}'::text AS x".encode())
    assert database.rows("SELECT x FROM t") == [(WORD.encode().decode("latin1"),)]


@pytest.mark.parametrize("shape", FILES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_is_read_as_utf8_whatever_it_sets(
    database: Database, write: WriteMigrations, shape: str, change: str
) -> None:
    _write(write, shape, CHANGES[change])
    assert migrate(database, write()).applied == ["1_a", "2_b"]
    assert database.rows("SELECT t.x, u.x FROM t, u") == [(WORD, WORD)]
    bodies = database.rows("SELECT body FROM ratchet.migrations WHERE name = '1_a'")
    assert bodies == [(write()[0].text().decode(),)] or shape == "large"


@pytest.mark.parametrize("shape", FILES)
@pytest.mark.parametrize("owner", ["DATABASE", "ROLE"])
def test_an_encoding_set_on_role_or_database_changes_nothing(
    database: Database, pool: StartPooler, write: WriteMigrations, shape: str, owner: str
) -> None:
    name = database.name if owner == "DATABASE" else f'"{database.parameters["user"]}" IN DATABASE {database.name}'
    change = f"alter {owner} {name} set client_encoding = 'LATIN1';\nreset all;\nreset client_encoding"
    _write(write, shape, change)
    session = database if shape == "without a transaction" else pool(1)[0]
    assert migrate(session, write()).applied == ["1_a", "2_b"]
    assert database.rows("SELECT t.x, u.x FROM t, u") == [(WORD, WORD)]


@pytest.mark.parametrize("local", ["true", "false"])
def test_a_backslash_stays_a_backslash_whatever_a_file_sets(
    database: Database, write: WriteMigrations, local: str
) -> None:
    change = f"select set_config('standard_conforming_strings', 'off', {local})"
    _write(write, "large", change)
    files = write(m1_a=write()[0].text().decode().replace(WORD, "C:\\new"))
    migrate(database, files)
    assert database.rows("SELECT x FROM t") == [("C:\\new",)]
