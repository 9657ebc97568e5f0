"""`invoke backup`, `backups`, `restore`, `verify` and `drill`, and invalid input of every kind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pgratchet.backups import manifest as manifests
from pgratchet.backups.pg_programs import find_programs
from pgratchet.errors import BackupFailed
from tests.servers.databases import Database
from tests.support.invoke import COMMAND, PARTS, Invoke, InvokeOnDatabase, environment
from tests.support.waiting import until

embedded = pytest.mark.parametrize("server", ["embedded"], indirect=True)
INVENTORY = "all: {hosts: {hyperpage_dev: {pg_url: \"{{ env('DATABASE_URL') }}\", pg_dbname: x, %s}}}"


def say(clone: Path, variables: str, environment: str = "dev") -> None:
    (clone / "inventory" / f"{environment}.yml").write_text(INVENTORY % variables)


def folder_of(clone: Path, backup_id: str, environment: str = "dev") -> Path:
    return clone / "backups" / environment / "hyperpage_dev" / backup_id


def test_a_restore_undoes_a_harmful_migration(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    invoke_on_database("migrate")
    database.run("CREATE TABLE guests (email text); INSERT INTO guests VALUES ('before@example.org')")
    (checkout / "sql" / "002_oops.sql").write_text("DELETE FROM guests; DROP TABLE jobs CASCADE;")
    backup = invoke_on_database("migrate", "--json").json["backup"]
    assert database.rows("SELECT count(*) FROM guests") == [(0,)]
    invoke_on_database("backup")  # it has the damage
    explained = invoke_on_database("rollback", status=2).stderr
    assert f"from before 002_oops is {backup}" in " ".join(explained.split())
    assert f"invoke restore --env=dev --backup={backup}" in explained
    with database.connect() as application:
        refused = invoke_on_database("restore", f"--backup={backup}", status=2)
        assert "migrations applied since the backup: 002_oops" in refused.stderr
        assert "dev was not confirmed: there is no terminal to ask at" in refused.stderr
        assert "will be dropped" not in refused.stderr
        refused = invoke_on_database("restore", f"--backup={backup}", "--drop-old", status=2)
        assert "the old database will be dropped: what was written since the backup is lost for good" in refused.stderr
        assert application.execute("SELECT count(*) FROM guests").fetchone() == (0,)
        done = invoke_on_database("restore", f"--backup={backup}", "--yes", "--json").json
        assert application.closed or not _answers(application)
    assert done["database"] == database.name
    assert database.rows("SELECT email FROM guests") == [("before@example.org",)]
    assert database.rows("SELECT count(*) FROM jobs") == [(0,)]
    old_database = Database({**database.parameters, "dbname": done["kept"]})
    assert old_database.rows("SELECT count(*) FROM guests") == [(0,)]
    assert invoke_on_database("status", "--json").json["pending"] == 1
    dropped = invoke_on_database("restore", "--drop-old", "--yes")
    assert f'to be dropped: "{done["kept"]}"' in dropped.stderr
    assert database.rows("SELECT 1 FROM pg_database WHERE datname = %s", done["kept"]) == []


@embedded
def test_rollback_names_a_later_backup_where_no_earlier_one_is_left(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    first = invoke_on_database("migrate", "--json").json["backup"]
    shutil.rmtree(folder_of(checkout, first))
    later = invoke_on_database("backup", "--json").json["backup"]
    explained = " ".join(invoke_on_database("rollback", status=2).stderr.split())
    assert f"The newest backup of hyperpage_dev is {later}" in explained
    assert "It already has 001_initial_schema, the last migration." in explained


def _answers(session: object) -> bool:
    import psycopg

    assert isinstance(session, psycopg.Connection)
    try:
        session.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def test_drills_are_recorded_and_compared(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    invoke_on_database("migrate")
    backup = invoke_on_database("backup", "--label=before the drill", "--keep", "--json").json["backup"]
    record = invoke_on_database("drill", "--json").json
    assert (record["backup_id"], record["good"], record["rows"]) == (backup, True, 3)
    assert record["restore_ms"] > 0
    listing = invoke_on_database("backups", "--json").json
    assert [each["backup_id"] for each in listing["drills"]] == [backup]
    assert (listing["backups"][0]["label"], listing["backups"][0]["keep"]) == ("before the drill", True)
    shown = invoke_on_database("backups").stdout
    assert "complete, kept" in shown
    assert "before the drill" in shown
    assert "good" in shown
    assert database.rows("SELECT count(*) FROM pg_database WHERE datname LIKE 'pgratchet_drill%%'") == [(0,)]


@embedded
def test_a_failing_drill_exits_9_and_is_recorded(invoke_on_database: InvokeOnDatabase, checkout: Path) -> None:
    invoke_on_database("migrate")
    backup = invoke_on_database("backup", "--json").json["backup"]
    dump = folder_of(checkout, backup) / "database.dump"
    content, times = bytearray(dump.read_bytes()), dump.stat()
    content[len(content) // 2] ^= 1
    dump.write_bytes(content)
    os.utime(dump, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert invoke_on_database("backups", "--json").json["backups"][0]["complete"], "a listing does not know of rot"
    failed = invoke_on_database("drill", status=9)
    assert PARTS.search(failed.stderr)
    (record,) = invoke_on_database("backups", "--json").json["drills"]
    assert (record["backup_id"], record["good"]) == (backup, False)
    assert "its SHA-256 is another" in record["problem"]
    assert (record["verdict"], record["reason"]) == ("bad", record["problem"])
    assert "bad" in invoke_on_database("backups").stdout


@embedded
def test_a_drill_without_its_server_exits_10_and_says_nothing_about_the_backup(
    invoke_on_database: InvokeOnDatabase, checkout: Path
) -> None:
    invoke_on_database("migrate")
    say(checkout, "drill_environment: drills")
    (checkout / "inventory" / "drills.yml").write_text(
        "all: {hosts: {scratch: {pg_url: 'postgresql://nobody@127.0.0.1:1/postgres', pg_dbname: postgres}}}"
    )
    failed = invoke_on_database("drill", status=10)
    assert "could not be tested here" in failed.stderr
    assert PARTS.search(failed.stderr)
    (record,) = invoke_on_database("backups", "--json").json["drills"]
    assert (record["verdict"], record["good"], record["problem"]) == ("untestable", False, "")
    assert "cannot connect to" in record["reason"]
    assert "not testable here: cannot connect to" in invoke_on_database("backups").stdout


@embedded
def test_the_destructive_only_policy_backs_up_before_destructive_files_only(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    say(checkout, "backup_policy: when-destructive")
    assert invoke_on_database("migrate", "--json").json["backup"] is None
    (checkout / "sql" / "002_add.sql").write_text("ALTER TABLE users ADD COLUMN nick text DEFAULT 'drop table';")
    added = invoke_on_database("migrate")
    assert "no backup was taken" in added.stdout
    (checkout / "sql" / "003_drop.sql").write_text("ALTER TABLE users DROP COLUMN nick;")
    backup = invoke_on_database("migrate", "--json").json["backup"]
    assert folder_of(checkout, backup).is_dir()
    assert database.rows("SELECT name, backup_id, backup_waived FROM ratchet.migrations ORDER BY id") == [
        ("001_initial_schema", None, "nothing destructive"),
        ("002_add", None, "nothing destructive"),
        ("003_drop", backup, None),
    ]


@embedded
def test_every_backup_applies_retention(invoke_on_database: InvokeOnDatabase, checkout: Path) -> None:
    invoke_on_database("migrate")
    say(checkout, "backup_keep_count: 2")
    backups = [invoke_on_database("backup", "--json").json["backup"] for _ in range(3)]
    assert [each["id"] for each in invoke_on_database("backups", "--json").json["backups"]] == [backups[2], backups[1]]


@embedded
def test_a_killed_backup_is_not_listed_as_one(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    invoke_on_database("migrate")
    database.run("CREATE TABLE slow (x int); CREATE TABLE z AS SELECT generate_series(1, 10)")
    with database.connect() as holder:
        holder.execute("BEGIN; LOCK TABLE slow IN ACCESS EXCLUSIVE MODE")
        process = subprocess.Popen(
            [*COMMAND, "backup"],
            cwd=checkout,
            env=environment({"DATABASE_URL": database.url}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        folder = checkout / "backups" / "dev" / "hyperpage_dev"
        until(lambda: bool(list(folder.glob("*.partial"))), 30)
        process.kill()
        process.wait()
        holder.rollback()
    (draft,) = folder.glob("*.partial")
    problems = {each["id"]: each["problem"] for each in invoke_on_database("backups", "--json").json["backups"]}
    assert problems.pop(draft.name) == "It was not finished."
    assert list(problems.values()) == [None]
    draft.rename(folder / "20200101T000000-0000.partial")
    result = invoke_on_database("backup")
    assert "deleted by retention: 20200101T000000-0000.partial" in result.stderr
    assert not list(folder.glob("*.partial"))


Prepare = Callable[[Path, str], object]


def no_programs(clone: Path, _: str) -> None:
    """Leave only a pg_dump that is too old."""
    folder = clone / "bin"
    folder.mkdir()
    for name in ("pg_dump", "pg_restore", "pg_dumpall"):
        (folder / name).write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.1'\n")
        (folder / name).chmod(0o755)
    text = (clone / "ops" / "pgratchet" / "backups" / "pg_programs.py").read_text()
    text = text.replace('Path("/usr/lib/postgresql")', f'Path("{clone}/none")')
    text = text.replace("(bundled := embedded.installed_programs())", "(bundled := None)")
    (clone / "ops" / "pgratchet" / "backups" / "pg_programs.py").write_text(text)


def edited(clone: Path, backup: str) -> None:
    path = folder_of(clone, backup) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"server_version": 1}))


def of_another(clone: Path, backup: str) -> None:
    say(clone, "embedded: false", "test")
    folder_of(clone, backup, "test").parent.mkdir(parents=True)
    shutil.copytree(folder_of(clone, backup), folder_of(clone, backup, "test"))


def other_database(clone: Path, _: str) -> None:
    say(clone, "pg_maintenance_dbname: template1")


UNREACHABLE = (
    "backup_store: 's3://bucket/x', backup_store_options: {endpoint: 'http://127.0.0.1:1', region: r,"
    " access_key_id: k, secret_access_key: \"{{ env('KEY', 'x') }}\"}"
)


@embedded
@pytest.mark.parametrize(
    ("prepare", "arguments", "status", "message"),
    [
        (None, ["restore", "--backup=20990101T000000-0000", "--yes"], 9, 'there is no backup "20990101T000000-0000"'),
        (None, ["restore", "--backup=../../etc", "--yes"], 9, 'there is no backup "../../etc"'),
        (None, ["restore"], 2, "no backup was named"),
        (of_another, ["restore", "--env=test", "--backup=ID", "--yes"], 9, "is of dev: hyperpage_dev"),
        (of_another, ["drill", "--env=test"], 9, "is of dev: hyperpage_dev"),
        (edited, ["restore", "--backup=ID", "--yes"], 9, "backup ID is damaged"),
        (edited, ["verify", "--backup=ID"], 9, "Its manifest was changed after it was written."),
        (edited, ["drill", "--backup=ID"], 9, "backup ID is damaged"),
        (lambda c, _: say(c, UNREACHABLE), ["backup"], 9, "could not be written to s3://bucket/x/dev/hyperpage_dev"),
        (lambda c, _: say(c, UNREACHABLE), ["backups"], 9, "could not be listed in s3://bucket/x/dev/hyperpage_dev"),
        (lambda c, _: say(c, "backup_store: 'ftp://x/y'"), ["backups"], 2, "the store ftp://x/y"),
        (lambda c, _: say(c, "backup_recipients: [age1nonsense]"), ["backup"], 2, "not an age recipient"),
        (lambda c, _: say(c, "backup_command: [/nowhere/tool]"), ["backup"], 9, "did not give a fresh backup"),
        (lambda c, _: say(c, "backup_dir: /proc/nothing"), ["backup"], 9, "could not be written to /proc/nothing"),
        (no_programs, ["backup"], 9, "no pg_dump and pg_restore for PostgreSQL"),
        (no_programs, ["verify"], 9, "no pg_dump and pg_restore for PostgreSQL"),
        (no_programs, ["restore", "--backup=ID"], 9, "no pg_dump and pg_restore for PostgreSQL"),
        (None, ["restore", "--backup=ID", "--into=template1"], 2, 'the database "template1" exists, and cannot be'),
        (None, ["restore", "--backup=ID", "--into=template0"], 2, "It is a template"),
        (None, ["restore", "--backup=ID", "--into=postgres"], 2, "It is the maintenance database"),
        (None, ["restore", "--backup=ID", "--into=postgres", "--salvage"], 2, "It is the maintenance database"),
        (other_database, ["restore", "--backup=ID", "--into=postgres"], 2, "connect to by default"),
    ],
)
def test_invalid_input_is_named_and_loses_nothing(
    invoke_on_database: InvokeOnDatabase,
    checkout: Path,
    database: Database,
    prepare: Prepare | None,
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    backup = invoke_on_database("migrate", "--json").json["backup"]
    backup_folder = folder_of(checkout, backup)
    if prepare:
        prepare(checkout, backup)
    before, files = database.fingerprint(), {path.name: path.read_bytes() for path in backup_folder.iterdir()}
    path = {"PATH": f"{checkout}/bin"} if prepare is no_programs else {}
    failed = invoke_on_database(*(each.replace("ID", backup) for each in arguments), status=status, env=path)
    assert message.replace("ID", backup) in failed.stderr
    assert PARTS.search(failed.stderr), failed.stderr
    assert database.fingerprint() == before
    assert {path.name: path.read_bytes() for path in backup_folder.iterdir()} == files


@embedded
def test_a_full_disk_is_reported_before_anything_is_written(invoke: Invoke, migrated: Database, checkout: Path) -> None:
    """A module of the checkout is told that little space is free."""
    module = checkout / "ops" / "pgratchet" / "backups" / "disk_store.py"
    module.write_text(module.read_text().replace("shutil.disk_usage(existing).free", "10"))
    migrated.run("CREATE TABLE big AS SELECT generate_series(1, 50000) AS n")
    failed = invoke("backup", env={"DATABASE_URL": migrated.url}, status=9)
    assert "not enough space for a backup" in failed.stderr
    assert not (checkout / "backups").exists() or not list((checkout / "backups").rglob("*.dump"))


def test_suitable_programs_are_available_here(database: Database) -> None:
    with database.connect() as session:
        try:
            find_programs(session.info.server_version)
        except BackupFailed as error:  # pragma: no cover
            pytest.fail(str(error))


@embedded
def test_backups_and_doctor_name_what_is_unfinished_left_behind_or_dated_in_the_future(
    invoke_on_database: InvokeOnDatabase, invoke: Invoke, checkout: Path, database: Database
) -> None:
    first = invoke_on_database("migrate", "--json").json["backup"]
    good = invoke_on_database("backup", "--json").json["backup"]
    folder = folder_of(checkout, good).parent
    folder_of(checkout, good).rename(folder / "20990101T000000-0000")
    manifest = folder / "20990101T000000-0000" / "manifest.json"
    described = manifests.loads(manifest.read_bytes())
    manifest.write_bytes(manifests.dumps(replace(described, backup_id="20990101T000000-0000")))
    (folder / "20990101T000000-0001.partial").mkdir()
    (folder / "20261101T000000-0001.partial").mkdir()
    second = invoke_on_database("backup", "--json").json["backup"]
    listing = invoke_on_database("backups", "--json").json["backups"]
    assert [each["id"] for each in listing if each["in_future"]] == [
        "20990101T000000-0001.partial",
        "20990101T000000-0000",
    ]
    copy = f"{database.name}_restore_20261126182342"
    database.run(f'CREATE DATABASE "{copy}"')
    shown = invoke_on_database("backups")
    named = invoke_on_database("backups", "--json").json["databases"]
    unreachable = invoke("backups", env={"DATABASE_URL": "postgresql://u@127.0.0.1:1/x"})
    findings = json.dumps(invoke_on_database("doctor", "--json").json)
    database.run(f'DROP DATABASE "{copy}"')
    assert any(copy in each for each in named)
    assert f'run DROP DATABASE "{copy}";' in shown.stderr
    assert copy in findings
    assert (second in unreachable.stdout, copy in unreachable.stderr) == (True, False)
    assert "databases kept on the server are not listed: " in unreachable.stderr
    assert "complete, dated in the future" in shown.stdout
    for text in (shown.stderr, findings):
        assert "20990101T000000-0000 is dated in the future" in text
        assert "rm -r backups/dev/hyperpage_dev/20990101T000000-0001.partial" in text
    assert first in invoke_on_database("rollback", status=2).stderr
    assert not (folder / "20261101T000000-0001.partial").exists(), "an old draft was deleted by the backup"


@embedded
def test_a_damaged_newest_backup_fails_verify_and_is_named_by_drill_and_rollback(
    invoke_on_database: InvokeOnDatabase, checkout: Path
) -> None:
    older = invoke_on_database("migrate", "--json").json["backup"]
    newest = invoke_on_database("backup", "--json").json["backup"]
    dump = folder_of(checkout, newest) / "database.dump"
    content = dump.read_bytes()
    dump.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    (folder_of(checkout, newest).parent / "20261101T000000-0001.partial").mkdir()
    for task in (["verify"], ["verify", "--backup=latest"]):
        failed = invoke_on_database(*task, status=9)
        assert failed.stdout == f"{older}: read back whole, matches its manifest\n"
        assert failed.stderr.startswith(f"backup {newest} is damaged\nDETAIL: database.dump was changed")
    error = invoke_on_database("verify", "--json", status=9).json["error"]
    assert (error["message"], older in error["detail"]) == (f"backup {newest} is damaged", True)
    drilled = invoke_on_database("drill")
    assert older in drilled.stdout
    warning = f"WARNING: Backup {newest} is damaged: database.dump was changed"
    assert warning in drilled.stderr
    assert warning in invoke_on_database("rollback", status=2).stderr
    invoke_on_database("backup")
    assert "WARNING" not in invoke_on_database("drill").stderr, "a newer good backup is enough"
    invoke_on_database("verify")


@embedded
def test_a_backup_is_named_in_many_ways_and_a_restore_uses_its_id(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    say(checkout, "embedded: false", "test")
    backup = invoke_on_database("migrate", "--json").json["backup"]
    for number, name in enumerate((backup[:-1], backup.lower(), str(folder_of(checkout, backup)))):
        into = f"{database.name}_{number}"
        options = ["--salvage"] if number == 1 else []
        restored = invoke_on_database("restore", f"--backup={name}", f"--into={into}", "--json", *options)
        database.run(f'DROP DATABASE "{into}"')
        assert restored.json["backup"] == backup
    failed = invoke_on_database("verify", "--env=test", f"--backup={backup}", status=9)
    assert failed.stderr.endswith("HINT: That backup is one of dev: give --env=dev.\n")
    before = database.fingerprint()
    failed = invoke_on_database("restore", "--backup=latest", "--yes", status=2)
    assert f"The newest good backup is {backup}: add --backup={backup}." in failed.stderr
    assert database.fingerprint() == before


@embedded
def test_a_database_of_another_environment_is_not_restored_into(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    other = f"{database.name}_qa"
    backup = invoke_on_database("migrate", "--json").json["backup"]
    host = {f"pg_{key}": value for key, value in database.parameters.items()} | {"pg_dbname": other}
    elsewhere = host | {"pg_port": "1", "pg_dbname": f"{other}_2"}
    for name, variables in (("qa", host), ("elsewhere", elsewhere)):
        (checkout / "inventory" / f"{name}.yml").write_text(json.dumps({"all": {"hosts": {"shop": variables}}}))
    database.run(f'CREATE DATABASE "{other}"')
    for options in ([], ["--salvage"]):
        failed = invoke_on_database("restore", f"--backup={backup}", f"--into={other}", *options, status=2)
        assert f'"{other}" is the database of qa: shop' in failed.stderr
        assert PARTS.search(failed.stderr)
    invoke_on_database("restore", f"--backup={backup}", f"--into={other}_2")
    database.run(f'DROP DATABASE "{other}"')
    database.run(f'DROP DATABASE "{other}_2"')
