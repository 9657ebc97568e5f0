"""`invoke restore --show-lost` and `--export-lost`, before and after a restore, here and on a host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.local_target import LocalTarget
from tests.servers.databases import Database
from tests.support.invoke import PARTS, InvokeOnDatabase

embedded = pytest.mark.parametrize("server", ["embedded"], indirect=True)


@embedded
def test_lost_rows_are_counted_before_a_restore_and_exported_after_it(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    (checkout / "sql" / "002_more.sql").write_text(
        "CREATE TABLE guests (id int GENERATED ALWAYS AS IDENTITY, name text)"
    )
    invoke_on_database("migrate")
    backup = f"--backup={invoke_on_database('backup', '--json').json['backup']}"
    database.run("INSERT INTO guests (name) VALUES ('ada'), ('bob'); UPDATE app_state SET value = 'changed'")
    counted = invoke_on_database("restore", "--show-lost", backup, "--json").json
    assert counted["tables"] == [{"name": "public.guests", "in_backup": 0, "now": 2}]
    assert counted["sequences"] == [{"name": "public.guests_id_seq", "in_backup": 1, "now": 2}]
    shown = invoke_on_database("restore", "--show-lost", backup).stdout
    assert "changed rows do not show in a count" in shown
    before = database.fingerprint()
    for flags in ((), ("--export-lost=lost",)):
        assert "no old database was kept" in invoke_on_database("restore", "--show-lost", *flags, status=2).stderr
    assert "it has no rows to export" in invoke_on_database("restore", backup, "--export-lost=lost", status=2).stderr
    assert database.fingerprint() == before
    assert not (checkout / "lost").exists()
    kept = invoke_on_database("restore", backup, "--yes", "--json").json["kept"]
    try:
        lost = invoke_on_database("restore", "--show-lost", "--json").json
        assert (lost["old_database"], lost["folder"]) == (kept, None)
        assert [(each["table"], each["rows"]) for each in lost["tables"]] == [
            ("public.app_state", 2),
            ("public.guests", 2),
        ]
        shown = invoke_on_database("restore", "--export-lost=lost", f"--old={kept}").stdout
        assert "4 lost rows in" in shown
        rows = (checkout / "lost" / "0002-public.guests.copy").read_text().splitlines()
        assert sorted(rows) == ["1\tada", "2\tbob"]
        refused = invoke_on_database("restore", "--export-lost=lost", status=2)
        assert "is not an empty folder" in refused.stderr
        assert PARTS.search(refused.stderr)
        assert "must be" in invoke_on_database("restore", "--export-lost=x", "--max-size=0", status=2).stderr
        assert not (checkout / "x").exists()
    finally:
        database.run(f"DROP DATABASE {kept} WITH (FORCE)")


@pytest.fixture
def kept(near: LocalTarget) -> Iterator[Database]:
    """A database with one row more, as a restore keeps it."""
    live = near.database
    live.run("CREATE TABLE guests AS SELECT 1 AS id")
    postgres = Database({**live.parameters, "dbname": "postgres"})
    name = f"{live.name}_old_20260101000000"
    postgres.run(f"CREATE DATABASE {name} TEMPLATE {live.name}")
    old = Database({**live.parameters, "dbname": name})
    old.run("INSERT INTO guests VALUES (2)")
    yield old
    postgres.run(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("server", ["outside"], indirect=True)  # a tunnel leads to a TCP port
def test_lost_rows_on_a_host_are_shown_and_exported_through_a_tunnel(near: LocalTarget, kept: Database) -> None:
    shown = near("restore", "--show-lost", "--json").json
    assert (shown["old_database"], [each["rows"] for each in shown["tables"]]) == (kept.name, [1])
    refused = near("restore", "--export-lost=lost", status=2)
    assert "reach: tunnel" in refused.stderr
    assert PARTS.search(refused.stderr)
    assert not (near.clone / "lost").exists()
    near.describe(reach="tunnel")
    near("restore", "--export-lost=lost")
    assert (near.clone / "lost" / "0001-public.guests.copy").read_text() == "2\n"
