"""`invoke rehearse`: what a release will do to production, on a restored backup; and the policy that asks for it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pgratchet.formatting import format_duration
from tests.servers.databases import Database
from tests.support.invoke import COMMAND, PARTS, Invoke, ProcessResult, environment
from tests.support.waiting import until

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)

BASE = """
CREATE TYPE mood AS ENUM ('ok', 'bad');
CREATE TABLE people (id bigint PRIMARY KEY, email text, feeling mood NOT NULL DEFAULT 'ok');
CREATE TABLE events (id bigint PRIMARY KEY, user_id bigint NOT NULL, kind text NOT NULL, feeling mood DEFAULT 'ok');
CREATE TABLE days (id bigint, day int NOT NULL) PARTITION BY RANGE (day);
CREATE TABLE days_rest PARTITION OF days DEFAULT;
INSERT INTO people SELECT g, nullif('u' || g, 'u77') FROM generate_series(1, 1000) AS g;
INSERT INTO events SELECT g, g % 1000 + 1, 'k' FROM generate_series(1, 200000) AS g;
INSERT INTO days SELECT g, 5000 + g % 10 FROM generate_series(1, 300000) AS g;
"""
LIMITS = {"blocks_reads": "15ms", "blocks_writes": "20ms", "total": "1min"}


@dataclass
class Project:
    """A checkout with an environment `shop`, whose policy requires a rehearsal within LIMITS."""

    checkout: Path
    invoke: Invoke
    database: Database

    def describe(self, **more: object) -> None:
        variables: dict[str, object] = {f"pg_{key}": value for key, value in self.database.parameters.items()}
        variables |= {"pg_port": int(self.database.parameters["port"]), "migration_timeout": 60_000}
        variables |= {"rehearsal": "required", "rehearsal_budget": LIMITS, **more}
        path = self.checkout / "inventory" / "shop.yml"
        path.write_text(json.dumps({"all": {"hosts": {"app": variables}}}))

    def write(self, name: str, text: str) -> Path:
        path = self.checkout / "sql" / f"{name}.sql"
        path.write_text(text)
        return path

    def __call__(self, *arguments: str, status: int = 0) -> ProcessResult:
        return self.invoke(*arguments, "--env=shop", status=status)

    def rehearse(self, *arguments: str, status: int = 0) -> Any:
        return self("rehearse", "--json", *arguments, status=status).json


@pytest.fixture
def project(checkout: Path, invoke: Invoke, database: Database) -> Project:
    project = Project(checkout, invoke, database)
    project.describe(rehearsal="off")
    project.write("002_base", BASE)
    project("migrate")
    project("backup")
    project.describe()
    return project


CASES = {
    "an enum that becomes text is rewritten": (
        "ALTER TABLE events ALTER COLUMN feeling DROP DEFAULT, ALTER COLUMN feeling TYPE text;\n",
        "blocks_reads",
        "public.events",
        1,
        1,
    ),
    "an instant change waits for the long one behind it": (
        "ALTER TABLE people ADD n int;\n\nALTER TABLE events ADD a timestamp DEFAULT clock_timestamp();\n",
        "blocks_reads",
        "public.people",
        1,
        3,
    ),
    "a foreign key locks its referenced table": (
        "ALTER TABLE events ADD FOREIGN KEY (user_id) REFERENCES people;\nSELECT pg_sleep(0.1);\n",
        "blocks_writes",
        "public.people",
        1,
        2,
    ),
    "a new partition reads the default partition": (
        "CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM (1) TO (10);\n",
        "blocks_reads",
        "public.days_rest",
        1,
        1,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_stops_a_table_for_too_long_is_refused_with_both_lines(project: Project, case: str) -> None:
    text, limit, relation, locked, spent = CASES[case]
    project.write("003_change", text)
    report = project.rehearse(status=11)
    excess = next(
        each for each in report["verdict"]["over_budget"] if (each["limit"], each["relation"]) == (limit, relation)
    )
    assert (excess["locked_at"]["line"], excess["spent_at"]["line"]) == (locked, spent)
    assert f"003_change:{locked}" in excess["text"]
    assert f"003_change:{spent}" in excess["text"]
    before = project.database.fingerprint()
    backups = project("backups", "--json").json
    assert [each["verdict"]["ok"] for each in backups["rehearsals"]] == [False]
    refused = project("migrate", status=11)
    assert PARTS.search(refused.stderr)
    assert excess["text"] in refused.stderr
    assert project.database.fingerprint() == before
    assert len(project("backups", "--json").json["backups"]) == len(backups["backups"])


def test_rows_in_the_way_are_counted_and_named_by_their_keys(project: Project) -> None:
    project.write("003_change", "SELECT 1;\nALTER TABLE people ALTER COLUMN email SET NOT NULL;\n")
    report = project.rehearse(status=5)
    failure = report["failure"]
    assert (failure["migration"], failure["line"], failure["sqlstate"]) == ("003_change", 2, "23502")
    assert (failure["relation"], failure["rows"], failure["keys"]) == ("public.people", 1, ["77"])
    assert report["verdict"]["ok"] is False
    shown = project("rehearse", status=5)
    assert "In the way: 1 row of public.people. By id: 77." in shown.stderr
    assert "failed at 003_change:2" in project("migrate", status=11).stderr


def test_a_fitting_rehearsal_lets_a_run_begin_and_any_change_voids_it(project: Project) -> None:
    change = project.write("003_change", "ALTER TABLE people ADD COLUMN n int;\n")
    assert "no rehearsal yet" in project("migrate", status=11).stderr
    project.describe(rehearsal_budget={"blocks_reads": "1min"})
    report = project.rehearse()
    assert report["verdict"] == {"ok": True, "over_budget": []}
    project.describe(rehearsal_budget={"blocks_reads": "0ms", "total": "1ms"})
    assert "Reads and writes of public.people wait" in project("migrate", status=11).stderr
    assert "WARNING: the rehearsal exceeds the budget" in project("migrate", "--dry-run").stderr
    project.describe(rehearsal_budget={"block_reads": "1min"})
    assert 'has no limit "block_reads"' in project("migrate", status=2).stderr
    project.describe(rehearsal_budget={"blocks_reads": "1min"})
    assert [each["relation"] for each in report["tables"]] == ["public.people"]

    change.write_text("ALTER TABLE people ADD COLUMN n bigint;\n")
    assert "with other files" in project("migrate", status=11).stderr
    change.write_text("ALTER TABLE people ADD COLUMN n int;\n")

    name = project.database.name
    project.database.run(f"ALTER DATABASE \"{name}\" SET work_mem = '5MB'")
    assert "with other settings of the database" in project("migrate", status=11).stderr
    project.database.run(f'ALTER DATABASE "{name}" RESET work_mem')

    (record,) = (project.checkout / "backups" / "shop" / "app" / "drills").glob("*-rehearsal-*.json")
    text = record.read_text()
    record.write_text(text.replace('"ok": true', '"ok": true '))  # the same values
    project.describe(rehearsal_max_age=0, rehearsal_budget={"blocks_reads": "1min"})
    time.sleep(1.1)
    assert "too old" in project("migrate", status=11).stderr
    project.describe(rehearsal_budget={"blocks_reads": "1min"})
    record.write_text(text.replace('"duration_ms"', '"duration"', 1))
    assert "no rehearsal yet" in project("migrate", status=11).stderr
    record.write_text(text)

    manifest = project.checkout / "backups" / "shop" / "app" / report["backup"] / "manifest.json"
    kept = manifest.read_text()
    manifest.write_text(kept.replace('"dump_ms"', '"dump"'))
    assert "was changed or deleted" in project("migrate", status=11).stderr
    manifest.write_text(kept)
    applied, took = project("migrate").stdout, format_duration(round(report["duration_ms"]))
    assert re.match(
        rf"1 migration applied in (\d+ ms|\d+\.\d s) \(rehearsed: {re.escape(took)}\), 0 pending\n", applied
    )
    project.write("004_more", "ALTER TABLE people ADD COLUMN m int;\n")
    project("backup")
    assert project.rehearse()["calibration"]["migrations"] == 1


def test_the_backup_before_a_run_can_be_rehearsed_for_the_next_one(project: Project) -> None:
    project.describe(rehearsal_budget={"blocks_reads": "1min"})
    project.write("003_change", "ALTER TABLE people ADD COLUMN n int;\n")
    project.rehearse("--to=003")
    project("migrate")
    project.write("004_next", "ALTER TABLE people ADD COLUMN m int;\n")
    project.write("005_last", "ALTER TABLE people ADD COLUMN o int;\n")
    assert "with other files" in project("migrate", status=11).stderr
    assert [each["name"] for each in project.rehearse()["migrations"]] == ["003_change", "004_next", "005_last"]
    assert "1 migration applied" in project("migrate", "--to=004").stdout
    assert "1 migration applied" in project("migrate").stdout


def test_an_error_of_the_file_is_no_error_of_the_data(project: Project) -> None:
    project.write("003_change", "ALTER TABLE people ADD COLUMN n int;\nUPDATE people SET n = missing;\n")
    refused = project("rehearse", status=5)
    assert 'failed at line 2: column "missing" does not exist' in refused.stderr
    assert "Correct the file; then rehearse again" in refused.stderr
    report = project.rehearse(status=5)
    assert report["error"]["code"] == 5
    assert [each["line"] for each in report["statements"]] == [1]


def test_advice_is_given_without_a_rehearsal_where_the_policy_only_advises(project: Project) -> None:
    project.describe(rehearsal="advised")
    project.write("003_change", "ALTER TABLE people ADD COLUMN n int;\n")
    done = project("migrate")
    assert "WARNING: 1 migration not rehearsed" in done.stderr
    assert "1 migration applied" in done.stdout


def test_nothing_pending_has_no_verdict(project: Project) -> None:
    assert "nothing to rehearse" in project("rehearse").stdout
    assert project.rehearse()["verdict"] is None


def test_bad_input_is_refused_before_anything_is_restored(project: Project) -> None:
    project.write("003_change", "ALTER TABLE people ADD COLUMN n int;\n")
    for arguments, status, text in (
        (["--backup=20200101T000000-0000"], 9, "there is no backup"),
        (["--fresh", "--backup=1"], 2, "cannot be given together"),
        (["--on=nowhere"], 2, "nowhere"),
        (["--on=shop"], 2, "was taken on"),
        (["--to=009"], 2, "009"),
    ):
        refused = project("rehearse", *arguments, status=status)
        assert text in refused.stderr, arguments
        assert PARTS.search(refused.stderr), arguments
    project.describe(rehearsal_budget={"blocks_read": "1s"})
    assert "Did you mean blocks_reads?" in project("rehearse", status=2).stderr
    project.describe(rehearsal_budget={"rewrite": "1 minute"})
    assert "kB, MB, GB" in project("rehearse", status=2).stderr


def test_a_history_that_is_not_a_beginning_of_the_files_is_refused(project: Project) -> None:
    (project.checkout / "sql" / "002_base.sql").unlink()
    project.write("003_change", "SELECT 1;\n")
    assert "002_base" in project("rehearse", status=8).stderr


def databases(database: Database) -> set[str]:
    return {str(name) for (name,) in database.rows("SELECT datname FROM pg_database WHERE datname ~ 'rehearsal'")}


@pytest.mark.parametrize("seconds", [0.6, 1.5, 2.5])
def test_nothing_is_left_of_a_killed_rehearsal_after_the_next(project: Project, seconds: float) -> None:
    project.write("003_change", "SELECT pg_sleep(1);\nALTER TABLE people ADD COLUMN n int;\n")
    command = [*COMMAND, "rehearse", "--env=shop", "--on=shop", "--yes"]
    killed = subprocess.Popen(command, cwd=project.checkout, env=environment({}), stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    project.describe(rehearsal_budget={})
    project("rehearse", "--on=shop", "--yes")
    until(lambda: not databases(project.database))


def test_a_signal_ends_a_rehearsal_and_leaves_nothing(project: Project) -> None:
    project.write("003_change", "SELECT pg_sleep(30);\n")
    command = [*COMMAND, "rehearse", "--env=shop", "--on=shop", "--yes"]
    running = subprocess.Popen(
        command, cwd=project.checkout, env=environment({}), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(30)%' AND pid <> pg_backend_pid()"
    until(lambda: project.database.rows(sleeping) == [(1,)])
    assert databases(project.database)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert not databases(project.database)
    assert project.database.rows(sleeping) == [(0,)]


def test_the_pages_numbers_are_those_of_the_json(project: Project, tmp_path: Path) -> None:
    project.describe(rehearsal_budget={})
    project.write("003_change", CASES["an instant change waits for the long one behind it"][0])
    page, notes = tmp_path / "page.html", tmp_path / "notes.md"
    report = project.rehearse(f"--html={page}", f"--markdown={notes}")
    text = page.read_text()
    assert "<script" not in text
    assert "http" not in text.replace('lang="en"', "")
    for number in (report["backup"], "003_change:1", "003_change:3", "Split the file"):
        assert number in text
        assert number in notes.read_text() or number == report["backup"]


def test_roles_and_the_name_of_the_database_can_be_rehearsed_on_a_server_of_its_own(project: Project) -> None:
    project.describe(rehearsal_budget={})
    role = f"rehearsed_{uuid.uuid4().hex[:8]}"
    name = project.database.name
    text = f'CREATE ROLE {role};\nGRANT CONNECT ON DATABASE "{name}" TO {role};\nGRANT SELECT ON people TO {role};\n'
    project.write("003_change", text)
    assert project.rehearse()["verdict"]["ok"] is True
    refused = project("rehearse", "--on=shop", "--yes", status=2)
    assert "CREATE ROLE cannot be rehearsed on a server that is used for more" in refused.stderr
    assert project.database.rows(f"SELECT count(*) FROM pg_roles WHERE rolname = '{role}'") == [(0,)]


def test_many_short_statements_are_judged_as_a_run_sends_them(project: Project) -> None:
    project.describe(rehearsal_budget={"blocks_reads": "250ms"})
    rows = "".join(f"INSERT INTO people VALUES ({number}, 'x');\n" for number in range(5000, 6500))
    project.write("003_change", f"LOCK TABLE people;\n{rows}")
    report = project.rehearse()
    assert report["migrations"][0]["traced_ms"] > report["migrations"][0]["duration_ms"]
