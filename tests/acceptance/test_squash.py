"""`invoke squash`: many migrations become one, and no database notices."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.hosts.local_target import LocalTarget
from tests.servers.databases import Database
from tests.support.invoke import PARTS, InvokeOnDatabase

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)
LAST = "210_last"


def generated(number: int) -> str:
    """A migration of a set of many kinds."""
    table = f"t{number % 20}"
    kinds = (
        (
            f"CREATE TABLE {table} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL,"
            f" state varchar(9) CHECK (state IN ('a', 'b')))"
        ),
        f"ALTER TABLE {table} ADD COLUMN c{number} numeric(8, 2) DEFAULT 1.5",
        f"CREATE INDEX ON {table} (lower(name)) WHERE state IN ('a', 'b')",
        f"INSERT INTO {table} (name, state) VALUES ('it''s {number}', 'a'), (E'a\\tb\\\\c', NULL)",
        f"CREATE OR REPLACE VIEW v{number} AS SELECT id, name FROM {table} WHERE state LIKE 'a%'",
        f"CREATE FUNCTION f{number}(a int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN a + {number}; END $$",
        f"CREATE POLICY p{number} ON {table} USING (name <> 'x')",
        f"GRANT SELECT ON {table} TO pg_monitor",
        f"CREATE TYPE e{number} AS ENUM ('x', 'y')",
        f"COMMENT ON TABLE {table} IS 'number {number}'",
    )
    return kinds[0 if number < 20 else number // 20 % 9 + 1] + ";\n"


def write_many(checkout: Path) -> None:
    for number in range(2, 210):
        (checkout / "sql" / f"{number:03}_step.sql").write_text(generated(number))
    parts = "CREATE TABLE parts (d date) PARTITION BY RANGE (d);\nCREATE TABLE parts_1 PARTITION OF parts DEFAULT;\n"
    (checkout / "sql" / f"{LAST}.sql").write_text(parts + "SELECT setval('t2_id_seq', 77);\n")
    (checkout / "sql" / "001_initial_schema.sql").unlink()
    (checkout / "sql" / "002_step.sql").write_text(generated(0) + generated(1) + generated(2))


def git(checkout: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    subprocess.run(["git", *identity, *arguments], cwd=checkout, check=True, capture_output=True)


def commit(checkout: Path) -> None:
    if not (checkout / ".git").exists():
        git(checkout, "init", "-q", "-b", "main")
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "files")


def test_two_hundred_files_become_one(invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database) -> None:
    write_many(checkout)
    commit(checkout)
    invoke_on_database("migrate", "--to=100")
    asked = invoke_on_database("squash", "--to=210", status=2)
    assert "public.t2: 2 rows" in asked.stderr
    assert "--rows=all" in asked.stderr
    assert invoke_on_database("squash", "--to=210", "--rows=all", "--dry-run", "--json").json["written"] is False
    assert len(list((checkout / "sql").glob("*.sql"))) == 209
    result = invoke_on_database("squash", "--to=210", "--rows=all", "--json").json
    assert len(result["replaced"]) == 209
    assert [path.name for path in (checkout / "sql").glob("*.sql")] == ["210_squash.sql"]
    half = invoke_on_database("migrate", status=8)
    assert "210_squash: replaces 209 migrations, and the database has run only a part" in half.stderr
    assert "Check out the commit before the squash" in half.stderr
    git(checkout, "stash", "-q", "-u")
    invoke_on_database("migrate")
    before = database.fingerprint()
    git(checkout, "stash", "pop", "-q")
    assert "nothing to apply" in invoke_on_database("migrate").stdout
    assert database.fingerprint() == before
    assert invoke_on_database("status", "--json").json["migrations"][0]["status"] == "applied"
    assert "as the migrations make it" in invoke_on_database("drift").stdout
    database.run("DROP SCHEMA public CASCADE; DROP SCHEMA ratchet CASCADE; CREATE SCHEMA public")
    migrated = invoke_on_database("migrate")
    assert "1 migration applied" in migrated.stdout
    assert database.rows("SELECT count(*) FROM t7") > [(0,)]
    assert database.rows("SELECT last_value FROM t2_id_seq") == [(77,)]
    commit(checkout)
    (checkout / "sql" / "211_more.sql").write_text("CREATE TABLE more ();\n")
    commit(checkout)
    again = invoke_on_database("squash", "--to=211", "--rows=all", "--json").json
    assert again["replaced"] == ["210_squash", "211_more"]
    invoke_on_database("status", "--check", status=8)  # 211 has not run here, and its squash has
    git(checkout, "stash", "-q", "-u")
    invoke_on_database("migrate")
    git(checkout, "stash", "pop", "-q")
    assert "nothing to apply" in invoke_on_database("migrate").stdout


def test_ci_accepts_a_squash_of_what_main_has(invoke_on_database: InvokeOnDatabase, checkout: Path) -> None:
    (checkout / "sql" / "002_two.sql").write_text("CREATE TABLE two (id bigint PRIMARY KEY);\n")
    commit(checkout)
    git(checkout, "checkout", "-qb", "squash")
    invoke_on_database("squash", "--to=002", "--rows=none")
    commit(checkout)
    assert "0 of them new" in invoke_on_database("ci", "--against=main").stdout
    path = checkout / "sql" / "002_squash.sql"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    refused = invoke_on_database("ci", "--against=main", status=2)
    assert "001_initial_schema: deleted, and main has it" in refused.stderr


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("INSERT INTO app_state VALUES ('k', gen_random_uuid()::text, now())", "do not make the same rows each time"),
        ("CREATE ROLE somebody_new", "002_x.sql:1:1: CREATE ROLE"),
    ],
)
def test_what_cannot_be_squashed_is_named_and_nothing_is_written(
    invoke_on_database: InvokeOnDatabase, checkout: Path, text: str, reason: str
) -> None:
    (checkout / "sql" / "002_x.sql").write_text(f"{text};\n")
    commit(checkout)
    before = sorted(path.name for path in (checkout / "sql").iterdir())
    refused = invoke_on_database("squash", "--to=002", "--rows=all", status=2)
    assert reason in refused.stderr
    assert PARTS.search(refused.stderr)
    assert sorted(path.name for path in (checkout / "sql").iterdir()) == before


def test_files_that_git_does_not_have_are_kept(invoke_on_database: InvokeOnDatabase, checkout: Path) -> None:
    commit(checkout)
    (checkout / "sql" / "002_new.sql").write_text("CREATE TABLE two ();\n")
    refused = invoke_on_database("squash", "--to=002", "--rows=none", status=2)
    assert "Not committed: 002_new.sql." in refused.stderr
    for arguments in (["squash"], ["squash", "--to=001"], ["squash", "--to=002", "--rows=nothing", "--dry-run"]):
        assert PARTS.search(invoke_on_database(*arguments, status=2).stderr)


def test_a_squash_on_a_host_is_known_there(near: LocalTarget) -> None:
    sql = near.clone / "sql"
    (sql / "002_two.sql").write_text("CREATE TABLE two (id bigint PRIMARY KEY);\n")
    near("migrate")
    commit(near.clone)
    near.invoke("squash", "--to=002", "--rows=none")
    assert sorted(path.name for path in sql.glob("*.sql")) == ["002_squash.sql"]
    assert "nothing to apply" in near("migrate").stdout
    near.database.run("DELETE FROM ratchet.migrations WHERE name = '002_two'")
    assert "has run only a part" in near("migrate", status=8).stderr


def test_each_squash_has_a_name_that_no_replaced_file_had(invoke_on_database: InvokeOnDatabase, checkout: Path) -> None:
    for number, name in enumerate(["002_squash.sql", "002_squash_2.sql", "002_squash_3.sql"]):
        (checkout / "sql" / f"00{number and 1}_{number}.sql").write_text(f"CREATE TABLE t{number} ();\n")
        (checkout / "sql" / "002_last.sql").write_text("-- migrate: empty\n") if not number else None
        commit(checkout)
        invoke_on_database("squash", "--to=002", "--rows=none")
        assert [path.name for path in (checkout / "sql").glob("*.sql")] == [name]
        commit(checkout)
