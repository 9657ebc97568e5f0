"""Environments and targets: Ansible's format and precedence, and every mistake at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgratchet.config import inventory, validation
from pgratchet.errors import ConfigurationError
from pgratchet.variables import Variables
from tests import ROOT

SHIPPED = ROOT / "inventory"


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".yml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_the_shipped_environments_load() -> None:
    assert inventory.environments(SHIPPED) == ("dev", "prod", "staging", "test")
    for name in inventory.environments(SHIPPED):
        (target,) = inventory.load(SHIPPED, name)
        assert target.environment == name
        assert target.name == f"hyperpage_{name}"


def test_production_asks_for_confirmation_and_verifies_tls() -> None:
    (prod,) = inventory.load(SHIPPED, "prod")
    assert prod.variables["confirm"] is True
    assert prod.variables["pg_sslmode"] == "verify-full"
    assert prod.variables["password_command"][0] == "vault"
    assert prod.groups == ("all", "europe")


def test_precedence_of_variables_follows_ansible(tmp_path: Path) -> None:
    write(
        tmp_path,
        x="""
all:
  vars: {pg_dbname: all_vars, pg_user: all_vars, pg_host: all_vars, pg_sslrootcert: all_vars}
  children:
    outer:
      vars: {pg_user: outer}
      children:
        inner:
          vars: {pg_user: inner}
          hosts:
            db1: {backup_dir: host}
            db2:
""",
        group_vars__all="{pg_host: group_vars_all, backup_dir: group_vars_all, history_table: a, pg_sslrootcert: b}",
        group_vars__inner="{history_table: group_vars_inner, history_schema: group_vars_inner}",
        host_vars__db2="{history_schema: host_vars}",
    )
    one, two = inventory.load(tmp_path, "x")
    assert one.groups == ("all", "outer", "inner")
    assert one.variables == {
        "pg_dbname": "all_vars",
        "pg_user": "inner",
        "pg_host": "group_vars_all",
        "pg_sslrootcert": "b",
        "backup_dir": "host",
        "history_table": "group_vars_inner",
        "history_schema": "group_vars_inner",
    }
    assert two.variables["history_schema"] == "host_vars"


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        x="""
all:
  vras: {}
  hosts:
    "bad name!": {pg_dbname: x}
    db1:
      pg_dbname: ""
      pg_prot: 5432
      pg_port: many
      confirm: perhaps
      pg_sslmode: verify
      pg_password: hunter2
      pg_url: postgresql://u:hunter2@h/d
    db2: {}
    db3: 7
""",
        group_vars__all="a: [",
        group_vars__notes="- x",
    )
    (tmp_path / "group_vars" / "folder").mkdir()
    with pytest.raises(ConfigurationError) as caught:
        inventory.load(tmp_path, "x")
    detail = caught.value.detail
    for expected in (
        'x.yml: all: unknown key "vras"',
        '"bad name!" is no name',
        "target db1: pg_dbname: expected `str` of length >= 1",
        'target db1: unknown variable "pg_prot". Did you mean pg_port?',
        "target db1: pg_port: expected `int`, got `str`",
        "target db1: confirm: expected `bool`, got `str`",
        "target db1: pg_sslmode: invalid enum value 'verify'",
        "target db1: pg_password: a secret in the inventory",
        "target db1: pg_url: a secret in the inventory",
        "target db2: pg_dbname is missing",
        "hosts: db3: a mapping of names is expected",
        ": not YAML: ",
        "notes.yml: a mapping of names is expected",
        "folder: not read",
    ):
        assert expected in detail, expected
    assert "hunter2" not in str(caught.value)
    assert caught.value.message == f"the inventory cannot be used: {len(detail.splitlines())} mistakes"


@pytest.mark.parametrize("name", ["pg_dbname", "history_schema", "history_table"])
def test_a_name_that_the_server_would_truncate_is_a_mistake(name: str) -> None:
    for kind in (None, Variables):
        for value in ("é" * 32, "x" * 64, "a\0b"):
            mistakes = list(validation.mistakes({"pg_dbname": "x", name: value}, kind))
            assert mistakes == [f"{name}: no name that PostgreSQL can hold, which is at most 63 bytes without a NUL."]
        for value in ("é" * 31, "x" * 63, "'; DROP TABLE x; --"):
            assert list(validation.mistakes({"pg_dbname": "x", name: value}, kind)) == []


@pytest.mark.parametrize("name", ["nope", "../x", "", "group_vars/all"])
def test_an_unknown_environment_is_refused_with_the_known_environments(name: str) -> None:
    with pytest.raises(ConfigurationError, match="unknown environment") as caught:
        inventory.load(SHIPPED, name)
    assert "dev, prod, staging, test" in caught.value.detail


def test_an_environment_without_targets_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        inventory.load(write(tmp_path, x="all:"), "x")
    assert "no target" in caught.value.detail


def test_a_group_inside_itself_is_refused(tmp_path: Path) -> None:
    write(tmp_path, x="all: {children: {a: {children: {b: {children: {a: {hosts: {h: {pg_dbname: x}}}}}}}}}")
    with pytest.raises(ConfigurationError, match="inside itself"):
        inventory.load(tmp_path, "x")


@pytest.mark.parametrize(
    ("limit", "names"),
    [
        ("db1", ["db1"]),
        ("db*", ["db1", "db2"]),
        ("eu", ["db1"]),
        ("eu,db2", ["db1", "db2"]),
        (None, ["db1", "db2", "other"]),
    ],
)
def test_limit_selects_by_name_and_group(tmp_path: Path, limit: str | None, names: list[str]) -> None:
    write(
        tmp_path,
        x="all: {vars: {pg_dbname: x}, hosts: {db1: {}, db2: {}, other: {}}, children: {eu: {hosts: {db1: {}}}}}",
    )
    assert [t.name for t in inventory.load(tmp_path, "x", limit)] == names


def test_a_limit_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="names no target") as caught:
        inventory.load(SHIPPED, "dev", "nope")
    assert "hyperpage_dev" in caught.value.detail


@pytest.mark.parametrize(
    "variables",
    [
        "backup_store: 's3://someone:canary@bucket/x'",
        "backup_store_options: {secret_access_key: canary}",
        "backup_store_options: {azure_storage_master_key: canary}",
        "backup_store_options: {aws_sse_customer_key_base64: canary}",
    ],
)
def test_a_secret_of_an_object_store_in_the_inventory_is_refused(tmp_path: Path, variables: str) -> None:
    folder = write(tmp_path, x=f"all: {{hosts: {{db: {{pg_dbname: x, {variables}}}}}}}")
    with pytest.raises(ConfigurationError, match="1 mistake") as caught:
        inventory.load(folder, "x")
    assert "a secret in the inventory" in caught.value.detail
    assert "canary" not in str(caught.value)


def test_other_options_of_an_object_store_are_accepted(tmp_path: Path) -> None:
    variables = (
        "backup_store: 'abfss://container@account.dfs.core.windows.net/x', backup_store_options: {access_key_id: x}"
    )
    assert inventory.load(write(tmp_path, x=f"all: {{hosts: {{db: {{pg_dbname: x, {variables}}}}}}}"), "x")
