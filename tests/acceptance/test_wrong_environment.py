"""An address that leads to the wrong server: the pinned system identifier prevents every write."""

from __future__ import annotations

import re
from pathlib import Path

from tests.servers.databases import Database, Server
from tests.support.invoke import Invoke

PARTS = re.compile(r"^[^\n]+\nDETAIL: .+\nHINT: .+", re.DOTALL | re.MULTILINE)


def pin(clone: Path, identifier: object) -> None:
    dev = clone / "inventory" / "dev.yml"
    unpinned = re.sub(r" *pg_system_identifier: .*\n", "", dev.read_text())
    dev.write_text(f"{unpinned}      pg_system_identifier: '{identifier}'\n")


def test_every_task_that_writes_refuses_another_cluster(
    invoke: Invoke, checkout: Path, server: Server, database: Database
) -> None:
    ((own,),) = database.rows("SELECT system_identifier::text FROM pg_control_system()")
    shown = server.create()
    (checkout / "sql" / "002_shown.sql").write_text("create table shown ();")
    backup = invoke("migrate", "--json", env={"DATABASE_URL": shown.url}).json["backup"]
    assert shown.rows("SELECT to_regclass('shown') IS NOT NULL") == [(True,)], "no one but the pin would have minded"
    server.drop(shown)
    pin(checkout, int(str(own)) + 1)
    before = database.fingerprint(), sorted(checkout.glob("backups/**/*"))
    for task in (
        ("migrate",),
        ("migrate", "--yes", "--without-backup=none"),
        ("migrate", "--dry-run"),
        ("backup",),
        ("restore", f"--backup={backup}", "--into=elsewhere"),
    ):
        failed = invoke(*task, env={"DATABASE_URL": database.url}, status=2)
        assert "is on another cluster than the pinned one" in failed.stderr, task
        assert f"Its system identifier is {own}; the inventory says {int(str(own)) + 1}." in failed.stderr
        assert PARTS.search(failed.stderr)
    assert (database.fingerprint(), sorted(checkout.glob("backups/**/*"))) == before
    pin(checkout, own)
    assert "002_shown" in invoke("migrate", "--json", env={"DATABASE_URL": database.url}).json["applied"]


def test_variables_of_dev_are_ignored_by_other_environments(invoke: Invoke, checkout: Path, database: Database) -> None:
    """Variables of other environments are ignored by dev, too."""
    assert invoke("status", "--json", env={"DATABASE_URL": database.url}).json["pending"] == 1
    for name in ("staging", "prod"):
        path = checkout / "inventory" / f"{name}.yml"
        path.write_text(re.sub(r"password_command: .*", "pg_connect_timeout: 2", path.read_text()))
    before = database.fingerprint()
    for arguments in (["--env=staging"], ["--env=prod", "--yes"]):
        failed = invoke("migrate", *arguments, env={"DATABASE_URL": database.url}, status=10)
        assert f"on db.{arguments[0][6:]}.hyperpage.example" in failed.stderr
        assert database.name not in failed.stderr
    assert database.fingerprint() == before


PROD = """all:
  hosts:
    hyperpage_prod:
      pg_url: "{{ env('PROD_URL') }}"
      pg_dbname: x
      backup_policy: never
"""


def test_the_url_of_production_in_the_shell_does_not_make_dev_migrate_production(
    invoke: Invoke, checkout: Path, database: Database
) -> None:
    (checkout / "inventory" / "prod.yml").write_text(PROD)
    prod = {"PROD_URL": database.url}
    first = invoke("migrate", "--env=prod", env=prod)
    host = database.parameters["host"]
    assert first.stderr.startswith(f"prod: hyperpage_prod ({database.name} on {host}:")
    (checkout / "sql" / "002_more.sql").write_text("create table more ();")
    before = database.fingerprint(), sorted(checkout.glob("backups/**/*"))
    for task in (("migrate",), ("status",), ("backup",), ("doctor",), ("adopt", "--baseline=001")):
        failed = invoke(*task, env={"DATABASE_URL": database.url}, status=10)
        output = failed.stdout + failed.stderr
        assert f'the settings of dev lead to the database of prod, "{database.name}"' in output, task
    assert (database.fingerprint(), sorted(checkout.glob("backups/**/*"))) == before
    assert invoke("status", "--env=prod", env=prod).stdout.startswith(
        f"prod: hyperpage_prod ({database.name} on {host}:"
    )


def test_dev_refuses_another_machine_before_it_connects(invoke: Invoke) -> None:
    environ = {"DATABASE_URL": "postgresql://owner:secret@db.example.invalid/shop"}
    failed = invoke("migrate", env=environ, status=2)
    assert "dev leads to a server on another machine, db.example.invalid" in failed.stderr
    assert "secret" not in failed.stderr
    assert PARTS.search(failed.stderr)
