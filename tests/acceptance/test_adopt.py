"""`invoke adopt`: a history of Drizzle, a history that disagrees with the files, and a database without a history."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.other_tools import handwritten
from tests.other_tools.handwritten import ONE, SAMPLES, TWO
from tests.servers.databases import Database, Server
from tests.support.invoke import PARTS, Invoke, InvokeOnDatabase

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


@pytest.fixture
def checkout_beside_drizzle(checkout: Path, database: Database) -> Path:
    """A checkout without migrations, beside the files of Drizzle."""
    (checkout / "sql" / "001_initial_schema.sql").unlink()
    for name, text in SAMPLES["drizzle"].files.items():
        path = checkout / "drizzle" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    database.run(f"{ONE} {TWO} {SAMPLES['drizzle'].table}")
    return checkout


def test_a_history_is_previewed_adopted_and_continued(
    checkout_beside_drizzle: Path, invoke_on_database: InvokeOnDatabase, database: Database
) -> None:
    database.run(SAMPLES["drizzle"].rows)
    shown = invoke_on_database("adopt", "--dry-run")
    assert "0001_two    verified  0001_two" in shown.stdout
    assert list((checkout_beside_drizzle / "sql").iterdir()) == []
    done = invoke_on_database("adopt", "--from=drizzle", "--json").json
    assert (done["from"], done["adopted"], done["pending"]) == ("drizzle", ["0000_one", "0001_two"], 1)
    assert [each["status"] for each in done["migrations"]] == ["verified", "verified", "pending"]
    assert "total 3, applied 2, pending 1" in invoke_on_database("status").stdout
    invoke_on_database("migrate", "--without-backup=a test")
    assert invoke_on_database("status", "--check").stdout.endswith("total 3, applied 3, pending 0\n")
    assert [each["applied_at"] is None for each in invoke_on_database("status", "--json").json["migrations"]] == [
        True,
        True,
        False,
    ]
    assert invoke_on_database("adopt").stdout.endswith("nothing to adopt\n")


def test_a_history_that_disagrees_is_refused_in_three_parts(
    checkout_beside_drizzle: Path, invoke_on_database: InvokeOnDatabase, database: Database
) -> None:
    database.run(handwritten.drizzle((ONE, 1000), ("edited", 2000)))
    before = database.fingerprint()
    refused = invoke_on_database("adopt", status=8)
    assert PARTS.search(refused.stderr)
    assert "0001_two: changed." in refused.stderr
    error = invoke_on_database("adopt", "--json", status=8).json
    assert (error["error"]["code"], error["adopted"], error["migrations"][1]["status"]) == (8, [], "changed")
    assert database.fingerprint() == before
    assert list((checkout_beside_drizzle / "sql").iterdir()) == []


def test_a_database_without_a_history_is_compared_before_adoption(
    checkout: Path, invoke_on_database: InvokeOnDatabase, database: Database
) -> None:
    (checkout / "sql" / "001_initial_schema.sql").write_text(ONE)
    (checkout / "sql" / "002_two.sql").write_text(TWO)
    assert "-CREATE TABLE public.one" in invoke_on_database("adopt", "--baseline=1", status=8).stderr
    database.run(ONE)
    assert "to be adopted" in invoke_on_database("adopt", "--baseline=1", "--dry-run").stdout
    assert invoke_on_database("adopt", "--baseline=1", "--json").json["adopted"] == ["001_initial_schema"]
    assert "total 2, applied 1, pending 1" in invoke_on_database("status").stdout


def test_adopt_says_whether_the_files_alone_build_the_database(
    checkout_beside_drizzle: Path, invoke_on_database: InvokeOnDatabase, database: Database
) -> None:
    database.run(SAMPLES["drizzle"].rows)
    shown = invoke_on_database("adopt", "--dry-run")
    assert "the adopted files alone build the schema of the database (tried on a scratch server)" in shown.stderr
    database.run("CREATE TABLE by_hand (a int)")
    shown = invoke_on_database("adopt")
    assert "the adopted files alone build another schema than that of the database" in shown.stderr
    assert "+CREATE TABLE public.by_hand" in shown.stderr
    assert "invoke adopt --write-baseline" in shown.stderr
    adopted = invoke_on_database("adopt", "--write-baseline", "--json").json
    assert (adopted["adopted"], adopted["files"]) == (["0001_baseline"], ["0001_baseline"])
    assert adopted["notes"][-1].startswith("the adopted files alone build the schema of the database")
    assert "total 2, applied 1, pending 1" in invoke_on_database("status").stdout


@pytest.fixture
def checkout_beside_alembic(checkout: Path, database: Database) -> Path:
    """A checkout without migrations, beside the revisions of Alembic."""
    (checkout / "sql" / "001_initial_schema.sql").unlink()
    for name, text in SAMPLES["alembic"].files.items():
        path = checkout / "alembic" / "versions" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    database.run(f"{ONE} {TWO} {SAMPLES['alembic'].table}; {SAMPLES['alembic'].rows}")
    return checkout


def test_stand_ins_are_refused_on_an_empty_database_and_a_baseline_replaces_them(
    checkout_beside_alembic: Path, invoke_on_database: InvokeOnDatabase, invoke: Invoke, server: Server
) -> None:
    shown = invoke_on_database("adopt")
    assert "the adopted files alone cannot build an empty database" in shown.stderr
    assert "0001_one.sql:1:1: a stand-in for an adopted migration that cannot run here." in shown.stderr
    assert "alembic upgrade REVISION:REVISION --sql" in shown.stderr
    empty = server.create()
    try:
        before = empty.fingerprint()
        refused = invoke("migrate", "--without-backup=a test", env={"DATABASE_URL": empty.url}, status=2)
        assert "0001_one.sql:1:1: a stand-in for an adopted migration" in refused.stderr
        assert empty.fingerprint() == before
        assert "0001_baseline" not in invoke_on_database("adopt", "--write-baseline").stdout
        assert [path.name for path in (checkout_beside_alembic / "sql").iterdir()] == ["0002_baseline.sql"]
        invoke("migrate", "--without-backup=a test", env={"DATABASE_URL": empty.url})
        assert empty.rows("SELECT to_regclass('one')::text, to_regclass('two')::text") == [("one", "two")]
    finally:
        server.drop(empty)


def test_excluded_changesets_of_liquibase_need_a_choice(
    checkout: Path, invoke_on_database: InvokeOnDatabase, database: Database
) -> None:
    (checkout / "sql" / "001_initial_schema.sql").unlink()
    files = checkout / "changelog"
    files.mkdir()
    for name, text in SAMPLES["liquibase"].files.items():
        (files / name).write_text(text)
    (files / "test.sql").write_text("--liquibase formatted sql\n--changeset nene:t context:test\nDELETE FROM one;\n")
    database.run(f"{ONE} {TWO} {SAMPLES['liquibase'].table}; {SAMPLES['liquibase'].rows}; INSERT INTO one VALUES (1)")
    before = database.fingerprint()
    refused = invoke_on_database("adopt", status=8)
    assert 'test.sql: nene:t: excluded. Liquibase runs it by the context "test" of the changeset.' in refused.stderr
    assert database.fingerprint() == before
    assert list((checkout / "sql").iterdir()) == []
    invoke_on_database("adopt", "--exclude")
    invoke_on_database("migrate", "--without-backup=a test")
    assert database.rows("SELECT count(*) FROM one") == [(1,)]
