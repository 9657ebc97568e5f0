"""`invoke` against real hosts behind a real bastion: the same results as here, and no secret anywhere."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.conftest import Done, Invoke
from tests.hosts import Host, Hosts


@dataclass
class Target:
    """A database of one test on a host, and the inventory that leads there."""

    hosts: Hosts
    host: Host
    clone: Path
    invoke: Invoke
    name: str

    def describe(self, **more: object) -> None:
        variables = self.hosts.variables(self.host, pg_dbname=self.name, **more)
        shape = {"all": {"hosts": {"app": {key: value for key, value in variables.items() if value is not None}}}}
        (self.clone / "inventory" / "far.yml").write_text(json.dumps(shape))

    def __call__(self, *arguments: str, status: int | None = 0) -> Done:
        return self.invoke(*arguments, "--env=far", env={"SECRET": self.hosts.password}, status=status)

    def rows(self, query: str) -> list[str]:
        return self.host.psql(query, self.name).splitlines()

    def sql(self, **files: str) -> None:
        for name, text in files.items():
            (self.clone / "sql" / f"{name.removeprefix('m')}.sql").write_text(text)


@pytest.fixture
def far(hosts: Hosts, clone: Path, invoke: Invoke) -> Iterator[Target]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    hosts.db1.psql(f"CREATE DATABASE {name} OWNER owner", "postgres")
    target = Target(hosts, hosts.db1, clone, invoke, name)
    target.describe()
    yield target
    hosts.know()
    hosts.db1.psql(f"DROP DATABASE {name} WITH (FORCE)", "postgres")


def test_a_run_through_a_bastion_is_as_one_here(far: Target) -> None:
    done = far("migrate")
    assert "applied 001_initial_schema" in done.stderr
    assert "1 migration applied" in done.stdout
    assert far.rows("SELECT name, source FROM ratchet.migrations") == ["001_initial_schema|run"]
    before = far.host.run("find /home/deploy/.pgratchet/bundles -maxdepth 1 -mindepth 1 | wc -l; "
                          "stat -c %Y /home/deploy/.pgratchet/bundles")  # fmt: skip
    assert "nothing to apply: total 1, pending 0" in far("migrate").stdout
    assert far("status", "--json").json["applied"] == 1
    assert far.host.run("find /home/deploy/.pgratchet/bundles -maxdepth 1 -mindepth 1 | wc -l; "
                        "stat -c %Y /home/deploy/.pgratchet/bundles") == before, "nothing was sent again"  # fmt: skip
