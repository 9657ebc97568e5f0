"""A login role without rights of its own that acts as another role by default: files of every kind run as that role."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgratchet.errors import StoppedPartWay
from tests.integration.apply.helpers import NO_TRANSACTION
from tests.servers.databases import Database
from tests.support.migrations import WriteMigrations, history, migrate

pytestmark = pytest.mark.every_major

DEFAULTS = {
    "role": "ALTER ROLE login_only SET role = acting",
    "role in database": "ALTER ROLE login_only IN DATABASE {database} SET role = acting",
    "database": "ALTER DATABASE {database} SET role = acting",
    "connection": "",
}


@pytest.fixture(params=DEFAULTS)
def acting(database: Database, request: pytest.FixtureRequest) -> Iterator[Database]:
    """The database, for sessions of a role with NOINHERIT that act as the role `acting`."""
    database.run(
        "CREATE ROLE acting; CREATE ROLE other;"
        "CREATE ROLE login_only LOGIN PASSWORD 'x' NOINHERIT IN ROLE acting, other;"
        f"GRANT CREATE ON DATABASE {database.name} TO acting; GRANT ALL ON SCHEMA public TO acting, other"
    )
    if statement := DEFAULTS[request.param]:
        database.run(statement.format(database=database.name))
    options = {} if statement else {"options": "-c role=acting"}
    try:
        yield Database({**database.parameters, "user": "login_only", "password": "x", **options})
    finally:
        database.run(f"SET ROLE NONE; ALTER DATABASE {database.name} RESET role")
        database.run("DROP OWNED BY acting, other, login_only; DROP ROLE login_only, acting, other")


def owners(database: Database) -> dict[object, object]:
    rows = "SELECT relname, relowner::regrole::text FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    return dict(database.rows(rows))  # type: ignore[arg-type]


def test_files_without_a_transaction_run_as_the_default_role(
    database: Database, acting: Database, write: WriteMigrations
) -> None:
    files = write(
        m1_a="create table a ()",
        m2_b=NO_TRANSACTION + "create table b (x int);\ncreate index concurrently i on b (x);\n"
        "do $$ begin create table c (); commit; end $$;\nvacuum b;\n"
        "set role other;\ncreate table d ();\nreset role;\ncreate table e ()",
        m3_c="set role other; create table f ()",
        m4_d=NO_TRANSACTION + "create table g ()",
    )
    assert len(migrate(acting, files).applied) == 4
    assert owners(database) == {**dict.fromkeys("abcegi", "acting"), **dict.fromkeys("df", "other")}
    assert database.rows("SELECT DISTINCT applied_by FROM ratchet.migrations") == [("login_only",)]


def test_a_stopped_file_resumes_as_the_default_role(
    database: Database, acting: Database, write: WriteMigrations
) -> None:
    files = write(m1_a=NO_TRANSACTION + "create table a ();\nset role other;\ncreate table b ();\nselect 1 / 0;")
    with pytest.raises(StoppedPartWay, match=r"statement 4 of 4.*division by zero"):
        migrate(acting, files)
    text = files[0].text().decode()
    assert migrate(acting, write(m1_a=text.replace("1 / 0", "1") + "create table c ()")).applied == ["1_a"]
    assert history(database) == [("1_a", True)]
    assert owners(database) == {"a": "acting", "b": "other", "c": "other"}
