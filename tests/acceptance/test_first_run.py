"""The first run on a database that is not empty, and entries of the migrations folder that are not read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.hosts.local_sshd import LocalSshd
from tests.servers.databases import Database
from tests.support.invoke import PARTS, InvokeOnDatabase


def test_a_database_with_tables_is_migrated_only_with_the_flag(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    database.run("CREATE TABLE orders (); CREATE TABLE flyway_schema_history ()")
    before = database.fingerprint()
    for arguments in ((), ("--dry-run",), ("--yes", "--without-backup=none")):
        refused = invoke_on_database("migrate", *arguments, status=8).stderr
        assert PARTS.search(refused)
        assert "is empty, and the database is not" in refused
        assert "public.orders" in refused
        assert "public.flyway_schema_history is the history of flyway." in refused
        assert "invoke migrate --not-empty" in refused
    error = invoke_on_database("migrate", "--json", status=8).json["error"]
    assert error["code"] == 8
    status = invoke_on_database("status")
    assert "pending 1" in status.stdout
    assert "WARNING: the history is empty, and the database has 2 tables (" in status.stderr
    assert "public.orders" in invoke_on_database("doctor", status=2).stdout
    assert not (checkout / "backups").exists()
    assert database.fingerprint() == before
    assert invoke_on_database("migrate", "--not-empty", "--json").json["applied"] == ["001_initial_schema"]
    assert invoke_on_database("migrate", "--json").json["pending"] == 0


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_a_host_refuses_a_database_with_tables_too(
    local_sshd: LocalSshd, invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    variables = local_sshd.variables(backup_policy="never")
    variables |= {f"pg_{key}": value for key, value in database.parameters.items() if key != "port"}
    (checkout / "inventory" / "near.yml").write_text(json.dumps({"all": {"hosts": {"app": variables}}}))
    database.run("CREATE TABLE orders ()")
    before = database.fingerprint()
    for arguments in ((), ("--dry-run",)):
        refused = invoke_on_database("migrate", "--env=near", *arguments, status=8).stderr
        assert "is empty, and the database is not" in refused
        assert "public.orders" in refused
    assert database.fingerprint() == before
    done = invoke_on_database("migrate", "--env=near", "--not-empty", "--json")
    assert done.json["applied"] == ["001_initial_schema"]


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_entries_that_are_not_read_are_named(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    (checkout / "sql" / "seeds").mkdir()
    (checkout / "sql" / "load.py").write_text("")
    for task in ("migrate", "status"):
        done = invoke_on_database(task, "--json")
        assert "not read in sql: load.py, seeds/" in done.stderr
        assert done.json["total"] == 1
    assert "not read in sql: load.py, seeds/" in invoke_on_database("doctor").stdout
    (checkout / "sql" / "seeds" / "002_more.sql").write_text("create table more ();")
    before = database.fingerprint()
    for task in ("migrate", "status"):
        refused = invoke_on_database(task, status=2).stderr
        assert PARTS.search(refused)
        assert "sql/seeds: sub-folders are not read, and seeds/002_more.sql looks like a migration." in refused
    assert database.fingerprint() == before
