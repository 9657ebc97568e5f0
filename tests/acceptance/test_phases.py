"""`--phase=expand` and the phases in `status` and `ci`, as a user sees them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.hosts.local_target import LocalTarget
from tests.servers.databases import Database
from tests.support.invoke import PARTS, InvokeOnDatabase

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)
CONTRACT = "-- migrate: phase=contract\n"
FILES = {
    "002_add": "ALTER TABLE app_state ADD COLUMN added text;\n",
    "003_drop": f"{CONTRACT}ALTER TABLE app_state DROP COLUMN added;\n",
    "004_more": "CREATE TABLE more (id bigint PRIMARY KEY);\n",
}


def write(checkout: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (checkout / "sql" / f"{name}.sql").write_text(text)


def names(invoke_on_database: InvokeOnDatabase, state: str) -> list[str]:
    shape = invoke_on_database("status", "--json").json
    return [each["name"] for each in shape["migrations"] if each["status"] == state]


def test_expand_stops_before_the_first_contract_file(invoke_on_database: InvokeOnDatabase, checkout: Path) -> None:
    write(checkout, FILES)
    assert "003_drop" not in invoke_on_database("migrate", "--phase=expand", "--dry-run").stdout
    migrated = invoke_on_database("migrate", "--phase=expand")
    assert "2 migrations applied" in migrated.stdout
    assert "stopped before 003_drop, a contract file" in migrated.stdout
    status = invoke_on_database("status", "--json").json
    assert [each["phase"] for each in status["migrations"]] == [None, None, "contract", "expand"]
    assert "pending, contract" in invoke_on_database("status").stdout
    again = invoke_on_database("migrate", "--phase=expand")
    assert "nothing to apply: the next migration is 003_drop, a contract file" in again.stdout
    assert "2 migrations applied" in invoke_on_database("migrate").stdout
    assert names(invoke_on_database, "pending") == []
    assert "nothing to apply" in invoke_on_database("migrate", "--phase=expand").stdout


def test_both_limits_hold(invoke_on_database: InvokeOnDatabase, checkout: Path) -> None:
    write(checkout, FILES)
    invoke_on_database("migrate", "--phase=expand", "--to=001")
    assert names(invoke_on_database, "pending") == ["002_add", "003_drop", "004_more"]
    invoke_on_database("migrate", "--phase=expand", "--to=004")
    assert names(invoke_on_database, "pending") == ["003_drop", "004_more"]
    invoke_on_database("migrate", "--phase=contract", "--to=003")
    assert names(invoke_on_database, "pending") == ["004_more"]


def test_another_phase_is_refused(invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database) -> None:
    before = database.fingerprint()
    refused = invoke_on_database("migrate", "--phase=extend", status=2)
    assert PARTS.search(refused.stderr)
    write(checkout, {"002_x": "-- migrate: phase=extend\nSELECT 1;\n"})
    assert '002_x.sql:1:1: "extend" is not a phase' in invoke_on_database("migrate", status=2).stderr
    assert database.fingerprint() == before


def test_expand_on_a_host(near: LocalTarget) -> None:
    near.sql(**{f"m{name}": text for name, text in FILES.items()})
    assert "stopped before 003_drop" in near("migrate", "--phase=expand").stdout
    assert near.applied() == {"001_initial_schema", "002_add"}
    assert "nothing to apply: the next" in near("migrate", "--phase=expand").stdout
    near("migrate")
    assert len(near.applied()) == 4


def git(checkout: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    subprocess.run(["git", *identity, *arguments], cwd=checkout, check=True, capture_output=True)


def test_ci_refuses_an_expand_file_that_needs_a_contract_file(
    invoke_on_database: InvokeOnDatabase, checkout: Path
) -> None:
    git(checkout, "init", "-q", "-b", "main")
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "first")
    git(checkout, "checkout", "-qb", "change")
    write(checkout, FILES)
    invoke_on_database("ci", "--against=main")
    write(checkout, {"005_again": "ALTER TABLE app_state ADD COLUMN added bigint;\n"})
    refused = invoke_on_database("ci", "--against=main", status=2)
    assert "the expand file 005_again needs the contract file before it: 003_drop" in refused.stderr
    assert PARTS.search(refused.stderr)
    write(checkout, {"005_again": f"{CONTRACT}ALTER TABLE app_state ADD COLUMN added bigint;\n"})
    invoke_on_database("ci", "--against=main")
