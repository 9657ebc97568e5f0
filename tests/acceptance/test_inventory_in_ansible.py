"""ansible-inventory reads the same hosts, groups and variables from the inventory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pgratchet.config import inventory
from tests import ROOT
from tests.requirements import require

AWKWARD = """
all:
  vars: {pg_dbname: a, pg_user: a, backup_dir: a, history_table: a}
  hosts:
    alone: {pg_user: host}
  children:
    zebra:
      vars: {pg_user: zebra, pg_host: zebra, history_schema: zebra}
      hosts: {db1: {}, db2: {pg_user: host}}
    apple:
      vars: {pg_user: apple, pg_host: apple, ansible_group_priority: 10, pg_sslrootcert: apple}
      hosts: {db1: {}}
      children:
        core:
          vars: {pg_host: core}
          hosts: {db3: {}}
"""


def ansible(folder: Path, name: str, home: Path) -> dict[str, object]:
    program = require("ansible-inventory")
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8", "ANSIBLE_LOCAL_TEMP": str(home)}
    done = subprocess.run(
        [program, "-i", str(folder / f"{name}.yml"), "--list"], env=env, capture_output=True, text=True, check=True
    )
    result: dict[str, object] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("name", ["dev", "test", "staging", "prod", "awkward"])
def test_hosts_and_variables_agree_with_ansible(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "inventory"
    shutil.copytree(ROOT / "inventory", folder)
    if name == "awkward":
        (folder / "awkward.yml").write_text(AWKWARD)
        (folder / "group_vars" / "all.yml").write_text("backup_dir: group_vars\n")
        (folder / "group_vars" / "apple.yml").write_text("pg_sslrootcert: group_vars\n")
        (folder / "host_vars").mkdir()
        (folder / "host_vars" / "db2.yml").write_text("pg_user: host_vars\n")
    listing = ansible(folder, name, tmp_path)
    hosts = listing["_meta"]["hostvars"]  # type: ignore[index]
    targets = inventory.load(folder, name)
    assert {t.name: dict(t.variables) for t in targets} == hosts
    for target in targets:
        for group in set(target.groups) - {"all"}:
            assert target.name in _members(listing, group)


def _members(listing: dict[str, object], group: str) -> set[str]:
    described = listing.get(group, {})
    assert isinstance(described, dict)
    inner = {host for child in described.get("children", ()) for host in _members(listing, child)}
    return inner | set(described.get("hosts", ()))
