"""Environments and targets: Ansible's format and precedence, and every mistake at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgratchet.config import inventory, validation
from pgratchet.errors import ConfigurationError
from pgratchet.variables import Variables
from tests.unit.config.helpers import SHIPPED, write_files


def test_the_roles_of_all_environments_that_can_be_read(tmp_path: Path) -> None:
    host = "all: {{hosts: {{shop: {{pg_dbname: shop{}}}}}}}"
    write_files(tmp_path, dev=host.format(", roles: [app, reports]"), prod=host.format(", roles: [app, audit]"))
    write_files(tmp_path, other=host.format(""), broken="all: [", wrong=host.format(", roles: app"))
    assert inventory.all_roles(tmp_path) == ("app", "reports", "audit")
    assert inventory.all_roles(tmp_path / "missing") == ()


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
    write_files(
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
    write_files(
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
        group_vars__ungrouped="- x",
        group_vars__notes="- this group is not in the file, so Ansible does not read it",
    )
    (tmp_path / "group_vars" / "all.json").write_text("{}")
    with pytest.raises(ConfigurationError) as caught:
        inventory.load(tmp_path, "x")
    detail = caught.value.detail
    for expected in (
        'x.yml:3: all: unknown key "vras". Did you mean vars?',
        '"bad name!" is not a valid name for a target',
        "x.yml:7: target db1: pg_dbname: expected a text that is not empty.",
        'target db1: unknown variable "pg_prot". Did you mean pg_port?',
        "x.yml:9: target db1: pg_port: expected a port from 1 to 65535, or one port for each host, ",
        'target db1: confirm: expected true or false, not "perhaps".',
        'pg_sslmode: expected one of disable, allow, prefer, require, verify-ca, verify-full, not "verify".',
        "target db1: pg_password: a secret in the inventory",
        "target db1: pg_url: a secret in the inventory",
        "target db2: pg_dbname is missing",
        "hosts: db3: expected a mapping of names to values",
        "all.yml:2:1: not YAML: ",
        "ungrouped.yml: expected a mapping of names to values",
        "all.json: not read",
    ):
        assert expected in detail, expected
    assert "hunter2" not in str(caught.value)
    assert caught.value.message == f"the inventory cannot be used: {len(detail.splitlines())} mistakes"


@pytest.mark.parametrize("name", ["pg_dbname", "history_schema", "history_table"])
def test_a_name_that_the_server_would_truncate_is_a_mistake(name: str) -> None:
    for kind in (None, Variables):
        for value in ("é" * 32, "x" * 64, "a\0b"):
            mistakes = list(validation.mistakes({"pg_dbname": "x", name: value}, kind))
            assert mistakes == [
                f"{name}: expected a name of at most 63 bytes without a NUL, which is what PostgreSQL accepts."
            ]
        for value in ("é" * 31, "x" * 63, "'; DROP TABLE x; --"):
            assert list(validation.mistakes({"pg_dbname": "x", name: value}, kind)) == []


@pytest.mark.parametrize("name", ["nope", "../x", "", "group_vars/all"])
def test_an_unknown_environment_is_refused_with_the_known_environments(name: str) -> None:
    with pytest.raises(ConfigurationError, match="unknown environment") as caught:
        inventory.load(SHIPPED, name)
    assert "dev, prod, staging, test" in caught.value.detail


def test_an_environment_without_targets_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        inventory.load(write_files(tmp_path, x="all:"), "x")
    assert "no target" in caught.value.detail


def test_a_group_inside_itself_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, x="all: {children: {a: {children: {b: {children: {a: {hosts: {h: {pg_dbname: x}}}}}}}}}")
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
    write_files(
        tmp_path,
        x="all: {vars: {pg_dbname: x}, hosts: {db1: {}, db2: {}, other: {}}, children: {eu: {hosts: {db1: {}}}}}",
    )
    assert [t.name for t in inventory.load(tmp_path, "x", limit)] == names


def test_a_limit_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="matches no target") as caught:
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
    folder = write_files(tmp_path, x=f"all: {{hosts: {{db: {{pg_dbname: x, {variables}}}}}}}")
    with pytest.raises(ConfigurationError, match="1 mistake") as caught:
        inventory.load(folder, "x")
    assert "a secret in the inventory" in caught.value.detail
    assert "canary" not in str(caught.value)


def test_other_options_of_an_object_store_are_accepted(tmp_path: Path) -> None:
    variables = (
        "backup_store: 'abfss://container@account.dfs.core.windows.net/x', backup_store_options: {access_key_id: x}"
    )
    assert inventory.load(write_files(tmp_path, x=f"all: {{hosts: {{db: {{pg_dbname: x, {variables}}}}}}}"), "x")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("all: {hosts: {'db[01:20]': }}", "Ranges are not supported"),
        ("all: {hosts: {'db[a:c].example.com': }}", "Ranges are not supported"),
        ("all: {hosts: {'db1:5433': }}", "A port in a name is not supported. Set ssh_port or pg_port"),
        ("all: {hosts: {db1: {pg_user: !vault abc}}}", "target db1: pg_user: the tag !vault is not supported"),
        ("all: {hosts: {db1: {pg_user: !unsafe abc}}}", "target db1: pg_user: the tag !unsafe is not supported"),
        ("all: {hosts: {db1: {password_command: [a, !vault b]}}}", "password_command: the tag !vault is not supported"),
        ('{"all": {"hosts": {"db1": {"pg_user": {"__ansible_vault": "x"}}}}}', "the tag !vault is not supported"),
        ("$ANSIBLE_VAULT;1.1;AES256\n3131\n", "encrypted by Ansible Vault"),
        ("[all]\ndb1 pg_host=x\n", "x.yml:1:1: an INI file. Write it in YAML"),
        ("plugin: amazon.aws.aws_ec2\nregions: [eu]\n", "plugin: inventory plugins are not supported"),
        ("plugin: {hosts: {db1: {pg_dbname: x}}}", "plugin: inventory plugins are not supported"),
        ("all: {vars: {ansible_group_priority: high}}", "ansible_group_priority: expected a whole number"),
        ("eu: {children: {all: }}", "the group all contains every group"),
        ("eu: {children: {ungrouped: }}", "the group ungrouped cannot be inside another group"),
        ("ungrouped: {children: {eu: }}", "the group ungrouped cannot contain a group"),
        ("eu: {hosts: {eu: }}", '"eu" is a group and a host'),
        ("no: {hosts: {db1: }}", "the key false is not a text. Put it in quotes"),
        ("all: {hosts: {10: }}", "the key 10 is not a text. Put it in quotes"),
        ("all: {hosts: [db1]}", "hosts: expected a mapping of names to values"),
        ("all: {children: {a/b: {hosts: {db1: }}}}", '"a/b" is not a valid name for a group'),
        ("all: &all {children: {eu: *all}}", "a group is inside itself, by an anchor"),
    ],
)
def test_forms_of_ansible_that_are_not_supported_are_named(tmp_path: Path, file: str, message: str) -> None:
    (tmp_path / "x.yml").write_text(file)
    with pytest.raises(ConfigurationError) as caught:
        inventory.load(tmp_path, "x")
    assert message in caught.value.detail
    assert "x.yml" in caught.value.detail


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("group_vars/all.yaml", "all.yaml: not read. Ansible reads"),
        ("group_vars/all/pg.yml", "all.yml: not read. Ansible reads"),
        ("host_vars/db1.ini", "db1.ini: not read. Give it the ending .yml"),
        ("group_vars/ungrouped.yml.j2", "ungrouped.yml.j2: not read. Give it the ending .yml"),
    ],
)
def test_a_file_of_variables_that_is_not_read_is_named(tmp_path: Path, path: str, message: str) -> None:
    write_files(tmp_path, x="all: {hosts: {db1: {pg_dbname: x}}}", group_vars__all="{pg_host: a}")
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text("pg_host: b")
    with pytest.raises(ConfigurationError) as caught:
        inventory.load(tmp_path, "x")
    assert message in caught.value.detail


def test_a_file_in_the_place_of_a_folder_of_variables_is_named(tmp_path: Path) -> None:
    write_files(tmp_path, x="all: {hosts: {db1: {pg_dbname: x}}}")
    for name in ("group_vars", "host_vars"):
        (tmp_path / name).write_text("pg_host: a")
    with pytest.raises(ConfigurationError) as caught:
        inventory.load(tmp_path, "x")
    assert caught.value.detail.count("not read, because it is not a folder") == 2


@pytest.mark.parametrize("other", ["x.ini", "x/hosts.yml", "x"])
def test_an_inventory_in_another_form_is_named(tmp_path: Path, other: str) -> None:
    (tmp_path / other).parent.mkdir(exist_ok=True)
    (tmp_path / other).write_text("[all]\ndb1\n")
    with pytest.raises(ConfigurationError, match="unknown environment") as caught:
        inventory.load(tmp_path, "x")
    assert f"{tmp_path / other.partition('/')[0]} is not read: only a YAML file" in caught.value.detail


def test_an_environment_with_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("x.yml", "x.yaml"):
        (tmp_path / name).write_text("all: {hosts: {db1: {pg_dbname: x}}}")
    with pytest.raises(ConfigurationError, match="two files"):
        inventory.load(tmp_path, "x")


def test_variables_of_other_applications_are_accepted(tmp_path: Path) -> None:
    variables = """
      pg_dbname: x
      app_port: 80
      sshd_port: 22
      nginx_workers: [1, 2]
      domain: example.com
      released: 2024-01-01
      api_token: !vault "abc"
      greeting: !unsafe "{{ hello }}"
      url: "{{ other | default('x') }}"
      ansible_become: true
"""
    (target,) = inventory.load(write_files(tmp_path, x=f"all:\n  hosts:\n    db1:{variables}"), "x")
    assert target.variables["app_port"] == 80


@pytest.mark.parametrize(
    "name",
    [
        *("pg_prot", "pg_", "backup_dri", "ssh_hots", "history_tabel", "migration_timeouts", "lock_tmeout"),
        *("password_comand", "drill_env", "confrim", "rech", "embeded", "pg-host", "PG_HOST", "Backup-Dir"),
    ],
)
def test_an_unknown_variable_that_looks_like_ours_is_a_mistake(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        inventory.load(write_files(tmp_path, x=f"all: {{hosts: {{db1: {{pg_dbname: x, {name}: 1}}}}}}"), "x")
    assert f'unknown variable "{name}"' in caught.value.detail


@pytest.mark.parametrize("reach", ["ssh", "tunnel"])
def test_ansible_variables_say_how_the_host_is_reached(tmp_path: Path, reach: str) -> None:
    own = "ansible_host: db.example.com, ansible_user: deploy, ansible_port: '2222'"
    file = f"all: {{hosts: {{db1: {{pg_dbname: x, reach: {reach}, {own}, SSH}}}}}}"
    (target,) = inventory.load(write_files(tmp_path, x=file.replace(", SSH", "")), "x")
    assert [target.variables[f"ssh_{part}"] for part in ("host", "user", "port")] == [
        "db.example.com",
        "deploy",
        "2222",
    ]
    (target,) = inventory.load(write_files(tmp_path, x=file.replace("SSH", "ssh_user: me, ssh_port: 22")), "x")
    assert [target.variables[f"ssh_{part}"] for part in ("host", "user", "port")] == ["db.example.com", "me", 22]


def test_ansible_variables_have_no_meaning_for_a_local_target(tmp_path: Path) -> None:
    file = "all: {hosts: {db1: {pg_dbname: x, ansible_host: '{{ x }}', ansible_port: many}}}"
    (target,) = inventory.load(write_files(tmp_path, x=file), "x")
    assert "ssh_host" not in target.variables


SHADOWED = """
all:
  vars: {pg_dbname: x, pg_port: 1, backup_dir: file, lock_timeout: 1, app_dir: file}
  children:
    eu:
      vars: {pg_sslmode: require, pg_user: file}
      hosts:
        db1: {history_table: file, backup_jobs: 8, backup_dir: host}
        db2:
"""


def test_a_value_of_the_file_that_a_shared_file_overrides_is_named(tmp_path: Path) -> None:
    write_files(
        tmp_path,
        x=SHADOWED,
        group_vars__all="{pg_port: 2, backup_dir: shared, lock_timeout: 1, pg_sslmode: prefer, app_dir: shared}",
        group_vars__eu="{pg_user: shared, pg_dbname: y}",
        host_vars__db1="{history_table: shared}",
    )
    notes = {note for target in inventory.load(tmp_path, "x") for note in target.notes}
    shadowed = {note.partition(" has no effect, because ")[0].removeprefix(f"{tmp_path}/x.yml: ") for note in notes}
    assert shadowed == {
        "vars of all: pg_port",
        "vars of all: backup_dir",
        "vars of eu: pg_sslmode",
        "vars of eu: pg_user",
        "db1: history_table",
    }
    assert any(f"{tmp_path}/group_vars/all.yml sets it too" in note for note in notes)


def test_values_that_are_overridden_on_purpose_are_not_named(tmp_path: Path) -> None:
    write_files(
        tmp_path,
        x="all: {vars: {pg_dbname: a, pg_port: 1}, children: {eu: {vars: {pg_port: 2}, hosts: {db1: {pg_port: 3}}}}}",
        group_vars__eu="{pg_dbname: b}",
    )
    (target,) = inventory.load(tmp_path, "x")
    assert target.notes == ()
    assert (target.variables["pg_dbname"], target.variables["pg_port"]) == ("b", 3)


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("all:\n  hosts:\n    db1: {pg_dbname: x, pg_port: 1, pg_port: 2}", ':3: "pg_port"'),
        ("all:\n  vars: {pg_port: 1}\n  vars: {pg_port: 2}\n  hosts: {db1: {pg_dbname: x}}", ':3: "vars"'),
        ("all:\nall: {hosts: {db1: {pg_dbname: x, pg_port: 2}}}", ':2: "all"'),
        ('{"all": {"hosts": {"db1": {"pg_dbname": "x", "pg_port": 1, "pg_port": 2}}}}', ': "pg_port"'),
    ],
)
def test_a_key_that_occurs_twice_is_noted_and_its_last_value_used(tmp_path: Path, file: str, key: str) -> None:
    (target,) = inventory.load(write_files(tmp_path, x=file), "x")
    assert target.variables["pg_port"] == 2
    assert target.notes == (f"{tmp_path}/x.yml{key} occurs twice in one mapping. The last value is used.",)


@pytest.mark.parametrize("value", ["|\n        hunter2", ">\n        hunter2\n", '"hunter2\\n"', "hunter2"])
def test_a_password_in_any_form_of_text_is_a_secret(tmp_path: Path, value: str) -> None:
    folder = write_files(tmp_path, x=f"all:\n  hosts:\n    db:\n      pg_dbname: x\n      pg_password: {value}\n")
    with pytest.raises(ConfigurationError) as caught:
        inventory.load(folder, "x")
    assert "pg_password: a secret in the inventory" in caught.value.detail
    assert "hunter2" not in str(caught.value)
