"""The files of `invoke render`: their programs read each value unchanged, and other values are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dotenv
import pytest
from psycopg import conninfo, sql

from pgratchet import embedded
from pgratchet.config import settings, written_files
from pgratchet.config.inventory import InventoryTarget
from pgratchet.database import connection
from pgratchet.errors import ConfigurationError
from tests import ROOT
from tests.requirements import require, requires
from tests.servers.databases import Server
from tests.support.git import git
from tests.support.invoke import PARTS, Invoke

VALUES = (
    "plain",
    "two  words",
    " in spaces ",
    "a#b #c",
    'double "quotes"',
    "back`tick",
    "$HOME $$ $(id)",
    "per%cent%20",
    "back\\slash \\n \\t",
    "ünï😀\u00a0x",
    "a=b;c&d|e>f",
    "{{ 7 * 7 }}",
    "it's",
    "${HOME}",
    "two\\\\in a row",
    "at the end\\",
    "a\nb",
)
REFUSED = {"it's", "${HOME}", "two\\\\in a row", "at the end\\", "a\nb"}
"""What no single-quoted value of an env file carries to all who read one."""


def by_dotenv(path: Path) -> Mapping[str, str | None]:
    return dotenv.dotenv_values(path)


def by_node(path: Path) -> Mapping[str, str | None]:
    return _printed([require("node"), f"--env-file={path}", "-e", "process.stdout.write(JSON.stringify(process.env))"])


def by_shell(path: Path) -> Mapping[str, str | None]:
    dump = f"'{sys.executable}' -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    return _printed(["sh", "-c", f"set -a; . '{path}'; {dump}"])


def _printed(command: list[str]) -> Mapping[str, str | None]:
    environ = {name: os.environ[name] for name in ("PATH", "HOME")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ | {"LC_ALL": "C.UTF-8"})
    read: Mapping[str, str | None] = json.loads(done.stdout)
    return read


@pytest.mark.parametrize(
    "read",
    [
        by_dotenv,
        pytest.param(by_node, marks=requires("Node.js 20.6")),
        by_shell,
    ],
)
def test_an_env_file_is_read_back_unchanged(tmp_path: Path, read: Callable[[Path], Mapping[str, str | None]]) -> None:
    path = tmp_path / ".env"
    refused = set()
    for value in VALUES:
        variables = {"pg_host": "db.example", "pg_dbname": "a b", "pg_user": "owner", "pg_password": "{{ env('X') }}"}
        target = settings.render_target(
            InventoryTarget("env", "app", (), variables), ROOT / "templates", {"X": value}, dict
        )
        try:
            path.write_text(written_files.render_file(path, [target]), encoding="utf-8")
        except ConfigurationError:
            refused.add(value)
            continue
        variables_read = read(path)
        assert (variables_read["POSTGRES_PASSWORD"], variables_read["POSTGRES_DB"]) == (value, "a b")
        whole: dict[str, Any] = conninfo.conninfo_to_dict(str(variables_read["DATABASE_URL"]))
        assert (whole["password"], whole["dbname"], whole["host"]) == (value, "a b", "db.example")
    assert refused == REFUSED


def test_a_file_with_secrets_that_git_does_not_ignore_is_warned_about(invoke: Invoke, checkout: Path) -> None:
    env = {f"POSTGRES_{key}": "x" for key in ("HOST", "DB", "USER", "PASSWORD")}
    git(checkout, "init", "-q")
    (checkout / ".gitignore").write_text("ignored.env\n")
    for name, is_warned in (("own.env", True), ("pgpass", True), ("ignored.env", False), ("pg_service.conf", False)):
        warnings = invoke("render", f"--write={name}", env=env).stderr
        assert (f"WARNING: git does not ignore {name}" in warnings) is is_warned
    group_vars = checkout / "inventory" / "group_vars" / "all.yml"
    group_vars.write_text(f"{group_vars.read_text()}env_file: own.env\n")
    (checkout / "own.env").write_text("DATABASE_URL=postgresql://from_file@localhost:1/shop\n")
    assert "user=from_file" in invoke("render").stdout
    assert "git does not ignore own.env" in invoke("doctor", status=10).stdout


def test_a_refused_value_leaves_the_file_unchanged(invoke: Invoke, checkout: Path) -> None:
    env = {f"POSTGRES_{key}": "x" for key in ("HOST", "DB", "USER", "PASSWORD")}
    invoke("render", "--write=.env", env=env)
    before = (checkout / ".env").read_text()
    assert PARTS.search(invoke("render", "--write=.env", env=env | {"POSTGRES_PASSWORD": "${X}"}, status=2).stderr)
    assert (checkout / ".env").read_text() == before


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_psql_connects_with_the_service_file(invoke: Invoke, checkout: Path, server: Server) -> None:
    names = [f"psql {value}" for value in VALUES if value.strip() == value]
    path = checkout / "pg_service.conf"
    refused = set()
    with connection.connect(server.parameters) as session:
        for name in names:
            session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            try:
                path.unlink(missing_ok=True)
                environ = {"HOST": server.parameters["host"], "PORT": "5432", "DB": name, "USER": embedded.USER}
                env = {f"POSTGRES_{key}": value for key, value in environ.items()}
                if invoke("render", "--write=pg_service.conf", env=env, status=None).status:
                    refused.add(name)
                    continue
                assert psql(path) == f"{name}\n"
            finally:
                session.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
    assert refused == {"psql a\nb"}


def psql(path: Path) -> str:
    """The connection that psql makes with the service file."""
    environ = {"PGSERVICEFILE": str(path), "PGSERVICE": "hyperpage_dev", "PATH": os.environ["PATH"]}
    command = [str(embedded.programs() / "psql"), "-XAtc", "SELECT current_database()"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["new/folder/.env", "new/folder/pgpass"])
def test_the_folder_of_a_written_file_is_made(invoke: Invoke, checkout: Path, name: str) -> None:
    env = {f"POSTGRES_{key}": "x" for key in ("HOST", "DB", "USER", "PASSWORD")}
    invoke("render", f"--write={name}", env=env)
    assert (checkout / name).stat().st_mode & 0o777 == 0o600
