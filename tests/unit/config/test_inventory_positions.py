"""Mistakes in an inventory: the file and line that set the value, and the name that was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgratchet.config import inventory
from pgratchet.errors import ConfigurationError
from tests.unit.config.helpers import SHIPPED, write_files


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("host_vars/db1.yml", "lock_timeot: 3000"),
        ("group_vars/all.yml", "lock_timeot: 3000"),
        ("group_vars/eu/b.yml", "lock_timeot: 3000"),
    ],
)
def test_a_mistake_is_named_in_the_file_and_line_that_sets_the_value(tmp_path: Path, file: str, line: str) -> None:
    write_files(tmp_path, x="all:\n  children:\n    eu:\n      hosts:\n        db1:\n          pg_dbname: x\n")
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(f"# comment\n{line}\npg_port: 70000\nconfirm: {{a: 1}}\n")
    with pytest.raises(ConfigurationError, match="3 mistakes") as caught:
        inventory.load(tmp_path, "x")
    unknown, port, confirm = caught.value.detail.splitlines()
    assert unknown == (f'{tmp_path}/{file}:2: target db1: unknown variable "lock_timeot". Did you mean lock_timeout?')
    assert port.startswith(f"{tmp_path}/{file}:3: target db1: pg_port: expected a port")
    assert port.endswith("not 70000.")
    assert confirm == f"{tmp_path}/{file}:4: target db1: confirm: expected true or false."


def test_a_mistake_in_a_shared_file_is_named_once_with_its_targets(tmp_path: Path) -> None:
    write_files(
        tmp_path, x="all:\n  hosts:\n    a: {pg_dbname: x}\n    b: {pg_dbname: x}\n    c:\n      pg_dbname: x\n"
    )
    write_files(tmp_path, group_vars__all="pg_prt: 1\n")
    with pytest.raises(ConfigurationError, match="1 mistake") as caught:
        inventory.load(tmp_path, "x")
    assert caught.value.detail.startswith(
        f'{tmp_path}/group_vars/all.yml:1: targets a, b, c: unknown variable "pg_prt"'
    )


def test_the_value_that_wins_has_the_position(tmp_path: Path) -> None:
    write_files(tmp_path, x="all:\n  vars:\n    pg_port: x\n  hosts:\n    a:\n      pg_dbname: d\n      pg_port: y\n")
    with pytest.raises(ConfigurationError, match=r"x\.yml:7: target a: pg_port: .* not \"y\""):
        inventory.load(tmp_path, "x")
    write_files(tmp_path, x="all:\n  hosts:\n    a:\n      pg_port: 1\n")
    with pytest.raises(ConfigurationError, match=r"x\.yml:3: target a: pg_dbname is missing"):
        inventory.load(tmp_path, "x")


@pytest.mark.parametrize(
    ("variables", "note"),
    [
        ("pghost: h", '"pghost" has no effect. Did you mean pg_host?'),
        ("PGHOST: h", '"PGHOST" has no effect. Did you mean pg_host?'),
        ("sslmode: require", '"sslmode" has no effect. Did you mean pg_sslmode?'),
        ("host: h", '"host" has no effect. Did you mean pg_host?'),
        ("ansible_hots: h", '"ansible_hots" has no effect. Did you mean ansible_host?'),
        ("locktimeout: 1", '"locktimeout" has no effect. Did you mean lock_timeout?'),
        ("sslmode: require, pg_sslmode: prefer", None),
        ("host: h, pg_url: 'postgresql://h/d'", None),
        ("password: x, password_command: [pass]", None),
        ("dbname: other", None),
        ("ansible_connection: local, ansible_host: h, ansible_password: x, ansible_ssh_host: x", None),
        ("nginx_port: 1, app_host: h, domain: x", None),
    ],
)
def test_a_name_that_is_almost_ours_is_noted(tmp_path: Path, variables: str, note: str | None) -> None:
    (target,) = inventory.load(write_files(tmp_path, x=f"all:\n  hosts:\n    a: {{pg_dbname: d, {variables}}}\n"), "x")
    assert target.notes == ((f"{tmp_path}/x.yml:3: {note}",) if note else ())


def test_a_missing_database_names_the_variable_that_was_meant(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"pg_dbname is missing. The variable dbname is not read: write pg_dbname"
    ):
        inventory.load(write_files(tmp_path, x="all: {hosts: {a: {dbname: d}}}"), "x")


def test_a_file_that_nothing_reads_is_noted_when_its_name_is_almost_right(tmp_path: Path) -> None:
    write_files(tmp_path, x="all: {children: {europe: {hosts: {shop_dev: {pg_dbname: d}}}}}")
    write_files(tmp_path, y="all: {hosts: {shop_dex: {pg_dbname: d}}}")
    for path in (
        *("host_vars/shop_dv.yml", "host_vars/shop_dex.yml", "host_vars/other.yml", "group_vars/eurpe.yml"),
        *("group_vars/.all.yml.swp", "group_var/all.yml", "hostvars/shop_dev.yml", "docs/notes.yml"),
    ):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("pg_host: a\n")
    (other,) = inventory.load(tmp_path, "y")
    assert len(other.notes) == 2, "the folders, and no file that is meant for another environment"
    (target,) = inventory.load(tmp_path, "x")
    assert target.notes == (
        f"{tmp_path}/group_var/ is not read. Did you mean group_vars?",
        f"{tmp_path}/hostvars/ is not read. Did you mean host_vars?",
        f'{tmp_path}/group_vars/eurpe.yml is not read, because there is no group "eurpe". Did you mean europe?',
        f'{tmp_path}/host_vars/shop_dv.yml is not read, because there is no target "shop_dv". Did you mean shop_dev?',
    )


@pytest.mark.parametrize(
    ("name", "named_by", "part"),
    [
        ("dev.yml", "--env=NAME", "HINT: Give the name without folder and ending: --env=dev."),
        ("inventory/dev.yml", "--env=NAME", "HINT: Give the name without folder and ending: --env=dev."),
        ("inventory/dev", "--env=NAME", "HINT: Give the name without folder and ending: --env=dev."),
        ("dev.yml", "OPS_ENV=NAME", "HINT: Give the name without folder and ending: OPS_ENV=dev."),
        ("production", "--env=NAME", "Did you mean prod?"),
        ("stage", "--env=NAME", "Did you mean staging?"),
        ("prd", "OPS_ENV=NAME", "DETAIL: The name comes from the environment variable OPS_ENV."),
        ("prd", "OPS_ENV=NAME", "HINT: Change OPS_ENV, or choose one with --env=NAME"),
        ("qa", "--env=NAME", "/qa.yml."),
    ],
)
def test_an_unknown_environment_names_the_one_that_was_meant(name: str, named_by: str, part: str) -> None:
    with pytest.raises(ConfigurationError, match="unknown environment") as caught:
        inventory.load(SHIPPED, name, named_by=named_by)
    assert part in str(caught.value)
    assert ".yml.yml" not in str(caught.value)


def test_a_folder_without_an_inventory_is_no_project(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no folder .*/inventory/") as caught:
        inventory.load(tmp_path / "inventory", "dev")
    assert "pgratchet init" in caught.value.hint


@pytest.mark.parametrize(
    ("limit", "message", "suggestion"),
    [
        ("hyper*,nope", '--limit="hyper*,nope": "nope" matches no target of dev', ""),
        ("hyper*,hyperpage_dv,x", '"hyperpage_dv", "x" match no target of dev', "Did you mean hyperpage_dev?"),
        ("hyperpage_dv", '--limit="hyperpage_dv" matches no target of dev', "Did you mean hyperpage_dev?"),
        (",", '--limit="," matches no target of dev', ""),
    ],
)
def test_the_part_of_a_limit_that_matches_nothing_is_named(limit: str, message: str, suggestion: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        inventory.load(SHIPPED, "dev", limit)
    assert caught.value.message.endswith(message)
    assert suggestion in caught.value.detail
