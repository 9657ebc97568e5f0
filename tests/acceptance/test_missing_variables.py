"""A missing or empty variable of a template ends a task before any connection or file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.proxy import Proxy
from tests.servers.databases import Database
from tests.support.invoke import Invoke

PARTS = re.compile(r"^[^\n]+\nDETAIL: .+\nHINT: .+", re.DOTALL | re.MULTILINE)
INVENTORY = """all:
  hosts:
    db:
      pg_host: 127.0.0.1
      pg_port: {port}
      pg_dbname: {dbname}
      pg_user: {user}
      pg_password: "{{{{ env('SECRET', 'none') }}}}"
      pg_sslmode: disable
"""
VALUES = {
    'pg_user: "{{ nothing }}"': "'nothing' is undefined",
    "pg_user: \"{{ env('EMPTY') }}\"": "the environment variable EMPTY is empty",
    'pg_user: "x{{ none }}"': "gives none",
}
"""Lines of the inventory; tests/unit/test_settings.py has them all."""
TEMPLATES = {
    ("pg_service.conf", "{{ pg_user }}", "{{ pg_usr }}"): "'pg_usr' is undefined",
    ("pgpass", "{{ user }}", "{{ usr }}"): "'usr' is undefined",
}


@pytest.fixture
def proxy(database: Database, checkout: Path) -> Iterator[Proxy]:
    """A proxy to the database that counts connections; the inventory of dev names its address."""
    proxy = Proxy(database.parameters)
    (checkout / "inventory" / "dev.yml").write_text(INVENTORY.format(**proxy.database.parameters))
    yield proxy
    proxy.close()


def test_a_missing_variable_prevents_connections_and_files(
    invoke: Invoke, checkout: Path, tmp_path: Path, database: Database, proxy: Proxy
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    env = {"SECRET": database.parameters.get("password", "x"), "TMPDIR": str(temporary), "EMPTY": ""}
    invoke("status", env=env)
    assert proxy.connections == 1, "without a mistake it connects"
    inventory = checkout / "inventory" / "dev.yml"
    sound = inventory.read_text()
    (checkout / ".env").write_text("as it was")
    before = database.fingerprint(), files(checkout)
    for line, message in VALUES.items():
        inventory.write_text(f"{sound}      {line}\n")
        refused(invoke("migrate", env=env, status=2).stderr, message, line)
    inventory.write_text(f"{sound}      {next(iter(VALUES))}\n")
    refused(invoke("render", "--write=.env", env=env, status=2).stderr, "'nothing' is undefined", "render")
    inventory.write_text(sound)
    for (name, right, wrong), message in TEMPLATES.items():
        template = checkout / "templates" / f"{name}.j2"
        text = template.read_text()
        template.write_text(text.replace(right, wrong))
        refused(invoke("migrate", env=env, status=2).stderr, message, wrong)
        template.write_text(text)
    template = checkout / "templates" / "database.env.j2"
    text = template.read_text()
    template.write_text("X='{{ nothing }}'\n" + text)
    refused(invoke("render", "--write=.env", env=env, status=2).stderr, "'nothing' is undefined", "env")
    template.write_text(text)
    assert proxy.connections == 1
    assert (database.fingerprint(), files(checkout)) == before
    assert list(temporary.iterdir()) == []
    assert invoke("migrate", "--json", env=env).json["applied"] == ["001_initial_schema"]


def refused(stderr: str, message: str, what: str) -> None:
    assert message in stderr, f"{what}: {stderr}"
    assert PARTS.search(stderr), what


def files(clone: Path) -> dict[str, bytes]:
    paths = (path for path in clone.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path): path.read_bytes() for path in paths if path.name != "dev.yml"}
