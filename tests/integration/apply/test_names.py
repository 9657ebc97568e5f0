"""Names of objects in files without a transaction: read by the server's rules, whatever they are written with."""

from __future__ import annotations

import pytest

from pgratchet.errors import StoppedPartWay
from tests.integration.apply.helpers import NO_TRANSACTION, last_row
from tests.servers.databases import Database
from tests.support.migrations import WriteMigrations, migrate

NAMES = {
    "umlaut": "Ärzte",
    "cyrillic": "Заказы",
    "upper case": "Orders",
    "comment in a comment": "/* a /* b */ on x */ t",
    "comment that opens no block": "-- a /* b\n t -- */\n",
    "quoted comment": '"a /* b"',
    "quoted quotes": '"a "" -- .b"',
    "escapes": r'U&"d\0061t\+000061"',
    "other escapes": """u&"d!0061t!+00006!!" uescape '!'""",
    "dots and comments": "public /* the */ . -- schema\n ТаБ",
    "dollar": "Tab$1",
    "too long": "é" * 40,
    "keyword": "exists",
}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    if request.param == "other escapes":
        return NAMES["other escapes"].replace("!+00006!!", "!+000061")
    return NAMES[request.param]


def test_an_index_is_found_whatever_its_name(database: Database, write: WriteMigrations, name: str) -> None:
    index = name.rpartition(".")[2] if name.startswith("public") else name
    tables = f"create table {name} (a int);\ncreate schema s;\ncreate table s.base (a int);\n"
    text = f"create index concurrently if not exists i on {name} (a);\ncreate index concurrently {index} on s.base (a)"
    assert migrate(database, write(m1_a=NO_TRANSACTION + tables + text)).applied == ["1_a"]
    valid = "SELECT count(*) FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indrelid"
    valid += " WHERE indisvalid AND relnamespace IN ('public'::regnamespace, 's'::regnamespace)"
    assert database.rows(valid) == [(2,)]
    drop = f"drop index concurrently i;\ndrop index concurrently s . {index}"
    assert migrate(database, write(m2_b=NO_TRANSACTION + drop)).applied == ["2_b"]
    assert database.rows(valid) == [(0,)]


def test_an_invalid_index_is_found_whatever_its_name(database: Database, write: WriteMigrations, name: str) -> None:
    files = write(m1_a=NO_TRANSACTION + f"create unique index concurrently i on {name} (a)")
    database.run(f"CREATE TABLE {name} (a int); INSERT INTO {name} VALUES (1), (1)")
    with pytest.raises(StoppedPartWay, match="could not create unique index"):
        migrate(database, files)
    assert last_row(database) == (0, 1, False)
    database.run(f"TRUNCATE {name}")
    assert migrate(database, files).applied == ["1_a"]
    assert database.rows("SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass") == [(True,)]


def test_a_database_is_found_whatever_its_name(database: Database, write: WriteMigrations) -> None:
    names = ("Тест", "/* a /* b */ c */ Ö", r'U&"d\0061"')
    text = ";\n".join(f"create database {name};\ndrop database {name}" for name in names)
    before = database.rows("SELECT datname FROM pg_database ORDER BY 1")
    assert migrate(database, write(m1_a=NO_TRANSACTION + text)).applied == ["1_a"]
    assert database.rows("SELECT datname FROM pg_database ORDER BY 1") == before


def test_an_index_of_another_table_is_not_called_invalid(database: Database, write: WriteMigrations) -> None:
    database.run("CREATE TABLE t (x int); CREATE TABLE u (x int); CREATE INDEX i ON u (x)")
    files = write(m1_a=NO_TRANSACTION + "create index concurrently if not exists i on t (x)")
    with pytest.raises(StoppedPartWay, match="no index was created, because the name i is taken") as caught:
        migrate(database, files)
    assert "DROP" not in caught.value.hint
    assert database.rows("SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass") == [(True,)]
    assert migrate(database, write(m1_a=files[0].text().decode().replace(" i ", " j "))).applied == ["1_a"]


@pytest.mark.parametrize("options", ["(concurrently false)", "(verbose, concurrently off)", "(concurrently 0)"])
def test_a_reindex_that_is_not_concurrent_runs_in_a_transaction(
    database: Database, write: WriteMigrations, options: str
) -> None:
    files = write(m1_a=f"create table t (x int primary key);\nreindex {options} table t")
    assert migrate(database, files).applied == ["1_a"]
