"""`invoke drift` and `invoke snapshot` as processes, here and on a host."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hosts.local_target import LocalTarget
from tests.servers.databases import Database
from tests.support.invoke import PARTS, InvokeOnDatabase

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)
CHANGE = "ALTER TABLE app_state ADD COLUMN note text; CREATE INDEX by_value ON app_state (value)"


def describe(checkout: Path, **variables: str) -> None:
    lines = [f"{name}: {value}\n" for name, value in variables.items()]
    with (checkout / "inventory" / "group_vars" / "all.yml").open("a") as file:
        file.writelines(lines)


def test_drift_is_shown_written_as_a_migration_and_gone_after_it(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    invoke_on_database("migrate")
    assert "as the migrations make it" in invoke_on_database("drift").stdout
    database.run(CHANGE)
    before = database.fingerprint()
    shown = invoke_on_database("drift", status=12)
    assert "added column public.app_state.note\n  + note text;" in shown.stdout
    assert "added index public.by_value\n  + CREATE INDEX by_value" in shown.stdout
    names = [(each["change"], each["kind"], each["name"]) for each in drift_json(invoke_on_database)]
    assert names == [("added", "column", "public.app_state.note"), ("added", "index", "public.by_value")]
    assert database.fingerprint() == before, "nothing was written"
    written = invoke_on_database("drift", "--write=by hand at night", status=12)
    assert "note:" not in written.stderr, "the migration makes every change, and none where it was made"
    (path,) = (checkout / "sql").glob("*_by_hand_at_night.sql")
    assert "ADD COLUMN IF NOT EXISTS note text;" in path.read_text()
    invoke_on_database("migrate")
    assert "as the migrations make it" in invoke_on_database("drift").stdout


def drift_json(invoke_on_database: InvokeOnDatabase) -> list[dict[str, str]]:
    shape = invoke_on_database("drift", "--json", status=12).json
    return list(shape["differences"])


def test_only_the_migrations_that_ran_are_compared(invoke_on_database: InvokeOnDatabase, checkout: Path) -> None:
    invoke_on_database("migrate")
    (checkout / "sql" / "002_later.sql").write_text("CREATE TABLE later ()")
    assert "as the migrations make it" in invoke_on_database("drift").stdout


def test_the_inventory_can_refuse_a_run_or_warn_before_it(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    invoke_on_database("migrate")
    database.run(CHANGE)
    (checkout / "sql" / "002_later.sql").write_text("CREATE TABLE later ()")
    describe(checkout, drift="refuse")
    before, backups = database.fingerprint(), invoke_on_database("backups", "--json").json["backups"]
    refused = invoke_on_database("migrate", status=12)
    assert PARTS.search(refused.stderr)
    assert "added: index public.by_value" in refused.stderr
    assert database.fingerprint() == before
    assert invoke_on_database("backups", "--json").json["backups"] == backups, "refused before the backup"
    describe(checkout, drift_ignore="[public.by_value, public.app_state]")
    assert "2 migrations" not in invoke_on_database("migrate").stdout
    (checkout / "sql" / "003_last.sql").write_text("CREATE TABLE last ()")
    describe(checkout, drift="warn", drift_ignore="[]")
    warned = invoke_on_database("migrate")
    assert "WARNING: the live schema differs" in warned.stderr
    assert "1 migration applied" in warned.stdout
    describe(checkout, drift="off")
    (checkout / "sql" / "004_off.sql").write_text("CREATE TABLE off_ ()")
    assert "WARNING" not in invoke_on_database("migrate").stderr


def test_files_that_disagree_with_the_history_come_first(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    invoke_on_database("migrate")
    (checkout / "sql" / "001_initial_schema.sql").rename(checkout / "sql" / "002_schema.sql")
    assert "history disagree" in invoke_on_database("drift", status=8).stderr


def test_several_targets_are_refused_with_write(invoke_on_database: InvokeOnDatabase, checkout: Path) -> None:
    (checkout / "inventory" / "two.yml").write_text("all: {hosts: {a: {pg_dbname: a}, b: {pg_dbname: b}}}\n")
    refused = invoke_on_database("drift", "--env=two", "--write=x", status=2)
    assert "--write needs a single target" in refused.stderr


def test_drift_on_a_host_is_found_from_here(near: LocalTarget) -> None:
    near("migrate")
    near.database.run(CHANGE)
    assert "added index public.by_value" in near("drift", status=12).stdout
    near.database.run("DROP INDEX by_value; ALTER TABLE app_state DROP COLUMN note")
    assert "as the migrations make it" in near("drift").stdout


def test_a_snapshot_is_up_to_date_or_refused_by_ci(invoke_on_database: InvokeOnDatabase, checkout: Path) -> None:
    written = invoke_on_database("snapshot", "--json").json
    assert written == {"path": "sql/schema.sql", "migrations": 1, "changed": True}
    text = (checkout / "sql" / "schema.sql").read_text()
    assert "CREATE TABLE public.app_state (" in text
    assert "ratchet" not in text
    assert "unchanged" in invoke_on_database("snapshot").stdout
    invoke_on_database("ci")
    (checkout / "sql" / "002_more.sql").write_text("CREATE TABLE more (id bigint PRIMARY KEY);\n")
    stale = invoke_on_database("ci", status=2)
    assert "is not the schema that the migrations make" in stale.stderr
    assert "+CREATE TABLE public.more (" in stale.stderr
    other = text.replace("on PostgreSQL 18", "on PostgreSQL 15")
    (checkout / "sql" / "schema.sql").write_text(other)
    assert "is of PostgreSQL 15, so it was not compared" in invoke_on_database("ci").stderr
