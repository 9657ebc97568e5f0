"""Repeatable migrations as a user sees them: status, plans, refusals, ci, doctor, test databases, and hosts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import ROOT
from tests.hosts.remote_target import SLEEPING, RemoteTarget, RunningInvoke
from tests.servers.databases import Database
from tests.support.git import commit, git
from tests.support.invoke import PARTS, Invoke, InvokeOnDatabase
from tests.support.waiting import until

VIEW = "create or replace view %s as select id from %s;\n"


def put(checkout: Path, **texts: str) -> None:
    folder = checkout / "sql" / "repeatable"
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.sql").write_text(text)


def columns(text: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]


def test_status_shows_new_changed_current_and_missing_ones(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    (checkout / "sql" / "002_t.sql").write_text("create table t (id int)")
    put(checkout, a=VIEW % ("a", "b"), b=VIEW % ("b", "t"), c="select 1;", d="select 2;")
    pending = invoke_on_database("status", "--check", status=3)
    assert ["repeatable/a", "new"] in columns(pending.stdout)
    assert pending.stdout.splitlines()[-1] == "total 6, applied 0, pending 6"
    planned = invoke_on_database("migrate", "--dry-run")
    assert columns(planned.stdout)[2:] == [
        [str(number), name]
        for number, name in enumerate(
            ("001_initial_schema", "002_t", "repeatable/a", "repeatable/b", "repeatable/c", "repeatable/d"), 1
        )
    ]
    done = invoke_on_database("migrate")
    assert "applied repeatable/a" in done.stderr
    assert "6 migrations applied in" in done.stdout
    assert "nothing to apply: total 6, pending 0" in invoke_on_database("migrate").stdout
    invoke_on_database("status", "--check")

    put(checkout, c="select 3;", e="select 4;")
    (checkout / "sql" / "repeatable" / "d.sql").unlink()
    shown = invoke_on_database("status", "--check", status=3).stdout
    states = {line[0]: line[1] for line in columns(shown) if line[0].startswith("repeatable/")}
    assert states == {
        "repeatable/a": "up to date",
        "repeatable/b": "up to date",
        "repeatable/c": "changed",
        "repeatable/d": "missing",
        "repeatable/e": "new",
    }
    shape = invoke_on_database("status", "--json").json
    assert (shape["total"], shape["applied"], shape["pending"]) == (6, 4, 2)
    assert [(each["name"], each["status"], each["runs"]) for each in shape["repeatables"]] == [
        (name, state, 0 if state == "new" else 1) for name, state in states.items()
    ]
    ran = invoke_on_database("migrate", "--json").json
    assert ran["applied"] == ["repeatable/c", "repeatable/e"]
    assert (ran["total"], ran["pending"]) == (6, 0)
    assert ran["backup"]
    assert database.rows("SELECT body FROM ratchet.migrations WHERE name = 'repeatable/c@2'") == [("select 3;",)]
    backups = columns(invoke_on_database("backups").stdout)
    assert [line[3] for line in backups if "complete" in line] == ["2", "0"], "a run of a repeatable is no migration"


def test_a_run_up_to_a_file_says_what_is_pending_after_it(invoke_on_database: InvokeOnDatabase, checkout: Path) -> None:
    put(checkout, a="select 1;")
    assert "1 pending" in invoke_on_database("migrate", "--to=001").stdout
    again = invoke_on_database("migrate", "--to=001").stdout
    assert "001_initial_schema is already applied; pending after it: repeatable/a" in again
    assert invoke_on_database("migrate", "--json").json["applied"] == ["repeatable/a"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("-- migrate: no-transaction\nselect 1;", '1:1: the directive "no-transaction" in a repeatable migration'),
        ("-- migrate: empty\n", '1:1: the directive "empty" in a repeatable migration'),
        ("-- migrate: after=repeatable/b.sql\nselect 1;", '1:1: the directive "after" in a repeatable migration'),
        ("-- nothing\n", "1:1: holds no statement. Write the SQL, or delete the file."),
        ("select 1;\n  COMMIT;", "2:3: COMMIT in a migration"),
        ("copy t from stdin;\n1\n\\.\n", "1:1: COPY ... FROM STDIN in a repeatable migration"),
        ("create index concurrently i on t (x);", "1:1: CREATE INDEX CONCURRENTLY cannot run inside a transaction, as"),
        ("vacuum;", "1:1: VACUUM cannot run inside a transaction, as repeatables do."),
    ],
)
def test_what_a_repeatable_cannot_hold_is_refused_at_its_position(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database, text: str, reason: str
) -> None:
    (checkout / "sql" / "002_bad.sql").write_text("rollback;")
    put(checkout, a=text)
    before = database.fingerprint()
    failed = invoke_on_database("migrate", status=2)
    assert f"sql/repeatable/a.sql:{reason}" in failed.stderr
    assert "sql/002_bad.sql:1:1: ROLLBACK in a migration" in failed.stderr
    assert PARTS.search(failed.stderr)
    assert database.fingerprint() == before


@pytest.mark.parametrize(
    ("directive", "reason"),
    [
        ("after=repeatable/keys.sql", "Do you mean repeatable/key.sql?"),
        ("after=repeatable/other", "Write repeatable/other.sql, or put it back if it was deleted."),
        ("after=key.sql", '"key.sql" names no repeatable migration. Write after=repeatable/x.sql.'),
        ("after=", '"" names no repeatable migration'),
    ],
)
def test_an_unknown_requirement_is_refused_at_the_directive(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database, directive: str, reason: str
) -> None:
    put(checkout, key="select 1;")
    (checkout / "sql" / "002_i.sql").write_text(f"-- about\n-- migrate: {directive}\nselect 1;")
    before = database.fingerprint()
    failed = invoke_on_database("migrate", status=2)
    assert "sql/002_i.sql:2:1: " in failed.stderr
    assert reason in failed.stderr
    assert database.fingerprint() == before


def test_mistakes_of_both_kinds_of_files_come_in_one_error(invoke: Invoke, checkout: Path) -> None:
    (checkout / "sql" / "R__view.sql").write_text("select 1;")
    put(checkout, V1__x="select 1;")
    failed = invoke("migrate", status=2)
    assert "the migrations cannot be used: 2 mistakes" in failed.stderr
    assert "Move it to repeatable/view.sql" in failed.stderr
    assert "sql/repeatable/V1__x.sql: named like a versioned migration" in failed.stderr


def test_a_failure_points_at_the_line_and_rolls_all_back(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    put(checkout, a="create view a as select 1 as x;", b="create view b as\n  select emial from app_state;\n")
    failed = invoke_on_database("migrate", status=5)
    assert 'migration repeatable/b failed at sql/repeatable/b.sql:2:10: column "emial" does not exist' in failed.stderr
    assert "\n    2 |   select emial from app_state;\n      |          ^\nDETAIL: " in failed.stderr
    assert "001_initial_schema was applied; repeatable/a and repeatable/b were rolled back." in failed.stderr
    assert database.rows("SELECT name FROM ratchet.migrations") == [("001_initial_schema",)]


def test_new_writes_a_repeatable_and_never_overwrites_one(invoke: Invoke, checkout: Path) -> None:
    assert invoke("new", "Active users", "--repeatable").stdout == "sql/repeatable/active_users.sql\n"
    path = checkout / "sql" / "repeatable" / "active_users.sql"
    assert path.read_text().startswith("-- Active users\n-- Write CREATE OR REPLACE")
    path.write_text("mine")
    failed = invoke("new", "active users", "--repeatable", status=2)
    assert "sql/repeatable/active_users.sql exists already" in failed.stderr
    assert path.read_text() == "mine"


def test_ci_checks_repeatables_and_lets_them_change(invoke: Invoke, checkout: Path) -> None:
    put(checkout, a=VIEW % ("a", "b"), b="create or replace view b as select 1::bigint as id;\n")
    git(checkout, "init", "-q", "-b", "main", ".")
    commit(checkout / "sql")
    git(checkout, "checkout", "-q", "-b", "branch")
    put(checkout, b="create or replace view b as select 2::bigint as id;\n", c="drop table a cascade;\n")
    failed = invoke("ci", "--against=main", status=2)
    assert "sql/repeatable/c.sql:1:1: ban-drop-table" in failed.stderr
    put(checkout, c="select 1;")
    done = invoke("ci", "--against=main", "--json").json
    assert (done["total"], done["new"], done["applied"]) == (4, ["repeatable/b", "repeatable/c"], 4)
    (checkout / "sql" / "002_i.sql").write_text("-- migrate: after=repeatable/nothing\nselect 1;")
    assert "there is no such file" in invoke("ci", "--against=main", status=2).stderr


def test_doctor_counts_what_is_to_run_and_names_mistakes(invoke_on_database: InvokeOnDatabase, checkout: Path) -> None:
    invoke_on_database("migrate")
    put(checkout, a="select 1;")
    (checkout / "sql" / "repeatable" / "note.py").touch()
    report = invoke_on_database("doctor").stdout
    assert "1 applied, 0 pending, 1 repeatable to run" in report
    assert "repeatable/note.py" in report
    put(checkout, a="vacuum;")
    assert "VACUUM cannot run inside a transaction" in invoke_on_database("doctor", status=2).stdout


PROJECT = """
def test_database(pg_connection):
    assert pg_connection.execute("SELECT count(*) FROM v").fetchone() == (0,)


def test_required_ones_only(pg_migrated_to):
    database = pg_migrated_to("002")
    query = "SELECT to_regproc('key') IS NOT NULL, to_regclass('v') IS NOT NULL"
    with database.connect() as session:
        assert session.execute(query).fetchone() == (True, False)
        database.migrate()
        assert session.execute(query).fetchone() == (True, True)
"""


def test_databases_of_tests_have_the_repeatables(tmp_path: Path) -> None:
    put_folder = tmp_path / "sql" / "repeatable"
    put_folder.mkdir(parents=True)
    (tmp_path / "sql" / "001_t.sql").write_text("create table t (x int)")
    (tmp_path / "sql" / "002_i.sql").write_text("-- migrate: after=repeatable/key.sql\ncreate index i on t (key(x))")
    function = "create or replace function key(x int) returns int immutable language sql as 'select x'"
    (put_folder / "key.sql").write_text(function)
    (put_folder / "v.sql").write_text("create or replace view v as select * from t")
    (tmp_path / "inventory").mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\npgratchet_server = embedded\n")
    (tmp_path / "test_project.py").write_text(PROJECT)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("TEST_", "PYTEST_"))}
    env["PYTHONPATH"] = str(ROOT / "ops")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "pgratchet.testing.pytest_plugin", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_a_host_runs_repeatables_as_this_machine_does(remote: RemoteTarget) -> None:
    remote.sql(
        m002_t="create table t (id int)", m003_i="-- migrate: after=repeatable/key\ncreate index i on t (key(id))"
    )
    put(remote.clone, a=VIEW % ("a", "b"), b=VIEW % ("b", "t"))
    put(remote.clone, key="create function key(x int) returns int immutable language sql as 'select x';")
    planned = ["001_initial_schema", "002_t", "repeatable/key", "003_i", "repeatable/a", "repeatable/b"]
    assert remote("migrate", "--dry-run", "--json").json["plan"] == planned
    done = remote("migrate", "--json").json
    assert sorted(done["applied"]) == sorted(planned)
    assert (done["total"], done["pending"]) == (6, 0)
    assert "nothing to apply" in remote("migrate").stdout
    put(remote.clone, b=VIEW % ("b", "t") + "-- again\n")
    remote("status", "--check", status=3)
    assert remote("migrate", "--json").json["applied"] == ["repeatable/b"]
    assert remote.rows("SELECT name FROM ratchet.migrations WHERE name LIKE 'repeatable/b%' ORDER BY id") == [
        "repeatable/b@1",
        "repeatable/b@2",
    ]
    put(remote.clone, b="create or replace view b as select 1::text as id;\n")
    failed = remote("migrate", status=5)
    assert "sql/repeatable/b.sql:1:" in failed.stderr
    assert "DROP VIEW IF EXISTS public.a;" in failed.stderr
    shutil.rmtree(remote.clone / "sql" / "repeatable")
    assert "missing" in remote("status").stdout


def test_a_run_that_was_killed_on_the_host_is_resolved_from_the_rows_of_both_kinds(
    remote: RemoteTarget, start_invoke: Callable[..., RunningInvoke]
) -> None:
    remote.sql(m002_done="-- migrate: after=repeatable/a\ncreate table a2 ()", m003_slow="select pg_sleep(60)")
    put(remote.clone, a="create view a as select 1 as x;", b="select 1;")
    remote.describe(migration_batch_size=1)
    running = start_invoke("migrate")
    until(lambda: remote.rows(SLEEPING) == ["1"], 30)
    run_id = remote("runs", "--json").json["runs"][0]["run_id"]
    remote.host.run(f"kill -9 $(cat /home/deploy/.pgratchet/runs/{run_id}/pid)")
    done = running.ended()
    assert done.status == 5
    assert "The history shows: 001_initial_schema and repeatable/a and 002_done were applied." in done.stderr


def test_drift_and_the_snapshot_include_what_repeatables_made(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    key = "create or replace function key(x int) returns int immutable language sql as 'select x';"
    put(checkout, a=VIEW % ("a", "b"), b="create or replace view b as select 1 as id;", key=key)
    table = "-- migrate: after=repeatable/key\ncreate table t (id int);\ncreate index i on t (key(id));"
    (checkout / "sql" / "002_t.sql").write_text(table)
    invoke_on_database("migrate")
    invoke_on_database("drift")
    invoke_on_database("snapshot")
    assert "CREATE VIEW public.a" in (checkout / "sql" / "schema.sql").read_text()
    put(checkout, a="create or replace view a as select id, 2 as two from b;")
    invoke_on_database("drift")
    (checkout / "sql" / "repeatable" / "a.sql").unlink()
    invoke_on_database("drift")
    (checkout / "sql" / "003_drop.sql").write_text("drop view if exists a;")
    invoke_on_database("migrate")
    invoke_on_database("drift")
    database.run("CREATE OR REPLACE VIEW b AS SELECT 3 AS id")
    assert "view" in invoke_on_database("drift", status=12).stdout
