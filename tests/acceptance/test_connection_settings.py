"""Connection settings as users write them: several servers, quoted ports, URLs of other tools, shadowed variables."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.hosts.local_target import LocalTarget
from tests.servers.databases import Database
from tests.support.invoke import PARTS, Invoke

INVENTORY = """
all:
  vars: {{pg_dbname: {dbname}, pg_user: {user}, pg_sslmode: prefer, lock_timeout: 1234, app_port: 80}}
  hosts:
    db:
      pg_host: "{host}"
      pg_port: "{port}"
      pg_password: "{{{{ env('SECRET', '') }}}}"
"""


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def write(checkout: Path, database: Database, **changed: str) -> dict[str, str]:
    """The environment `shop` in the checkout. Returns the environment variables that it reads."""
    parameters = {"port": "5432", **database.parameters, **changed}
    (checkout / "inventory" / "shop.yml").write_text(INVENTORY.format(**parameters))
    return {"SECRET": database.parameters.get("password", "")}


def test_the_first_server_of_a_list_that_answers_is_migrated_and_backed_up(
    invoke: Invoke, checkout: Path, database: Database
) -> None:
    """The list reaches psycopg, pg_dump and the password file."""
    host, port = database.parameters["host"], database.parameters.get("port", "5432")
    env = write(checkout, database, host=f"127.0.0.1,{host}", port=f"{closed_port()},{port}")
    done = invoke("migrate", "--env=shop", "--json", env=env)
    assert done.json["applied"] == ["001_initial_schema"]
    assert done.json["backup"]


def test_a_shadowed_variable_is_noted_once(invoke: Invoke, checkout: Path, database: Database) -> None:
    env = write(checkout, database)
    done = invoke("status", "--env=shop", "--json", env=env)
    assert done.json["pending"] == 1
    (note,) = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert "shop.yml: vars of all: lock_timeout has no effect" in note
    assert "group_vars/all.yml" in note


@pytest.mark.parametrize(
    ("query", "name"),
    [("schema=public", "schema"), ("search_path=x", "search_path"), ("sslmode=prefer&pgbouncer=true", "pgbouncer")],
)
@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_a_url_of_another_tool_is_refused_by_the_name_of_its_parameter(
    invoke: Invoke, database: Database, query: str, name: str
) -> None:
    before = database.fingerprint()
    url = database.url + ("&" if "?" in database.url else "?") + query
    failed = invoke("migrate", env={"DATABASE_URL": url}, status=2).stderr
    assert f"parameters that cannot be used: {name}\n" in failed
    assert PARTS.search(failed)
    assert database.fingerprint() == before


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_a_missing_user_is_named(invoke: Invoke, checkout: Path, database: Database) -> None:
    before = database.fingerprint()
    env = write(checkout, database)
    path = checkout / "inventory" / "shop.yml"
    path.write_text(path.read_text().replace(f"pg_user: {database.parameters['user']}, ", ""))
    failed = invoke("migrate", "--env=shop", env=env, status=2).stderr
    assert "shop: db: pg_user is missing" in failed
    assert PARTS.search(failed)
    assert database.fingerprint() == before


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_ansibles_variables_and_a_list_of_servers_reach_the_host(near: LocalTarget) -> None:
    path = near.clone / "inventory" / "near.yml"
    shape = json.loads(path.read_text())
    variables = shape["all"]["hosts"]["app"]
    variables |= {
        "reach": "ssh",
        "ansible_host": variables.pop("ssh_host"),
        "ansible_port": str(variables.pop("ssh_port")),
        "pg_host": f"127.0.0.1,{variables['pg_host']}",
        "pg_port": f"{closed_port()},{variables['pg_port']}",
        "confirm": "no",
    }
    if "ssh_user" in variables:
        variables["ansible_user"] = variables.pop("ssh_user")
    path.write_text(json.dumps(shape))
    done = near("migrate", "--json")
    assert done.json["applied"] == ["001_initial_schema"]
    assert done.json["backup"] in near.backups()
