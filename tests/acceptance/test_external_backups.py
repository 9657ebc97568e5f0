"""Backups by another tool, and object stores, as the inventory names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers.databases import Database
from tests.support.invoke import PARTS, Invoke, InvokeOnDatabase

embedded = pytest.mark.parametrize("server", ["embedded"], indirect=True)


def with_variables(clone: Path, text: str) -> None:
    """Add variables to the target of dev."""
    dev = clone / "inventory" / "dev.yml"
    dev.write_text(dev.read_text() + "".join(f"      {line}\n" for line in text.splitlines()))


def tool(clone: Path, script: str) -> None:
    """A backup command in the inventory, which records that it ran."""
    path = clone / "take-backup"
    path.write_text(f'#!/bin/sh\necho "$PGRATCHET_ENV $PGRATCHET_TARGET" >> {clone}/ran\n{script}\n')
    path.chmod(0o755)
    with_variables(clone, f"backup_command: [{path}, full]")


NOW = "$(date -u +%Y-%m-%dT%H:%M:%SZ)"


@embedded
def test_a_backup_of_another_tool_is_required_and_recorded(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    tool(checkout, f"echo talk; echo 20261124-101500F {NOW}")
    ran = invoke_on_database("migrate", "--json").json
    assert (ran["backup"], ran["applied"]) == ("20261124-101500F", ["001_initial_schema"])
    assert database.rows("SELECT name, backup_id FROM ratchet.migrations") == [
        ("001_initial_schema", "20261124-101500F")
    ]
    assert (checkout / "ran").read_text() == "dev hyperpage_dev\n"
    assert not (checkout / "backups").exists(), "pg_dump was not asked"
    invoke_on_database("migrate")
    assert (checkout / "ran").read_text() == "dev hyperpage_dev\n", "nothing was pending, and no backup was taken"


@embedded
@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo the repository is locked >&2; exit 3", "the repository is locked\n        It ended with status 3."),
        ("echo 20200101-000000F 2020-01-01T00:00:00Z", "may be 3600 s old at most."),
        ("true", "Its last line must be the backup's name and time"),
        ("kill -9 $$", "It ended with status -9."),
        (
            r"printf '\033]0;owned\007\033[2Jno space\n' >&2; exit 1",
            "DETAIL: no space\n        It ended with status 1.",
        ),
    ],
)
def test_nothing_runs_without_a_fresh_backup(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database, script: str, message: str
) -> None:
    tool(checkout, script)
    before = database.fingerprint()
    failed = invoke_on_database("migrate", status=9)
    assert (checkout / "ran").exists()
    assert "take-backup did not give a fresh backup" in failed.stderr
    assert message in failed.stderr
    assert PARTS.search(failed.stderr)
    assert database.fingerprint() == before
    assert invoke_on_database("migrate", "--json", status=9).json["error"]["code"] == 9
    assert database.fingerprint() == before


@embedded
def test_a_missing_backup_command_is_named(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    with_variables(checkout, "backup_command: [/nowhere/take-backup]")
    before = database.fingerprint()
    failed = invoke_on_database("migrate", status=9)
    assert "It could not be started: No such file or directory." in failed.stderr
    assert database.fingerprint() == before


@embedded
def test_tasks_say_that_the_command_keeps_the_backups(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    tool(checkout, f"echo 20261124-101500F {NOW}")
    invoke_on_database("migrate")
    kept = f"The inventory's backup_command, {checkout}/take-backup, keeps the backups."
    rolled = invoke_on_database("rollback", status=2)
    assert kept in rolled.stderr
    assert "there is no backup" not in rolled.stderr
    assert kept in invoke_on_database("backups").stdout
    before = database.fingerprint()
    for task in (["verify"], ["drill"], ["restore", "--backup=20261124-101500F", "--yes"]):
        failed = invoke_on_database(*task, status=9)
        assert kept in failed.stderr
        assert failed.stderr.startswith("pgratchet has no backup")
        assert PARTS.search(failed.stderr)
    assert database.fingerprint() == before


@embedded
def test_output_of_another_tool_need_not_be_utf_8(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    tool(checkout, f"printf 'caf\\351\\n'; printf '\\377' >&2; echo 20261124-101500F {NOW}")
    invoke_on_database("migrate")
    assert database.rows("SELECT backup_id FROM ratchet.migrations") == [("20261124-101500F",)]


def test_an_endpoint_in_the_environment_is_ignored(invoke: Invoke, checkout: Path) -> None:
    """A developer's machine may have AWS_ENDPOINT_URL set, and only the inventory says where backups go."""
    with_variables(
        checkout,
        "backup_store: 's3://bucket/x'\nbackup_store_options: {region: us-east-1, access_key_id: k,"
        " secret_access_key: \"{{ env('KEY', 'x') }}\"}",
    )
    stray = {"AWS_ENDPOINT_URL": "https://127.0.0.1:9", "AWS_ENDPOINT_URL_S3": "https://127.0.0.1:9"}
    failed = invoke("backups", env={**stray, "HTTPS_PROXY": "http://127.0.0.1:1"}, status=9)
    assert "https://s3.us-east-1.amazonaws.com/bucket" in failed.stderr
    assert "127.0.0.1:9" not in failed.stderr
