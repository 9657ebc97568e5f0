"""`invoke rehearse` for a server that the bundled PostgreSQL is not like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.requirements import skip_without
from tests.servers.databases import Database
from tests.support.invoke import PARTS, Invoke, ProcessResult

pytestmark = pytest.mark.parametrize("server", ["outside"], indirect=True)
SECRET = "SHOP_PASSWORD"


class Shop(NamedTuple):
    """A checkout with an environment `shop` on a server outside, whose policy requires a rehearsal."""

    checkout: Path
    invoke: Invoke
    database: Database

    def describe(self) -> None:
        variables: dict[str, object] = {f"pg_{key}": value for key, value in self.database.parameters.items()}
        variables |= {"pg_port": int(self.database.parameters["port"]), "rehearsal": "required"}
        variables |= {"pg_password": f"{{{{ env('{SECRET}') }}}}"}
        (self.checkout / "inventory" / "shop.yml").write_text(json.dumps({"all": {"hosts": {"app": variables}}}))

    def write(self, name: str, text: str) -> None:
        (self.checkout / "sql" / f"{name}.sql").write_text(text)

    def __call__(self, *arguments: str, status: int = 0) -> ProcessResult:
        password = self.database.parameters.get("password", "")
        return self.invoke(*arguments, "--env=shop", env={SECRET: password}, status=status)


@pytest.fixture
def shop(checkout: Path, invoke: Invoke, database: Database) -> Shop:
    shop = Shop(checkout, invoke, database)
    shop.describe()
    return shop


def test_an_extension_that_the_bundled_server_lacks_is_named(shop: Shop) -> None:
    shop.write("002_crypto", "CREATE EXTENSION pgcrypto;\n")
    shop("migrate")
    shop("backup")
    shop.write("003_change", "CREATE TABLE made (id int);\n")
    refused = shop("rehearse", status=2)
    assert "lacks extensions: pgcrypto" in refused.stderr
    assert "--on=NAME" in refused.stderr
    assert PARTS.search(refused.stderr)
    assert shop("rehearse", "--on=shop", "--yes", "--json").json["verdict"]["ok"] is True
    assert "1 migration applied" in shop("migrate").stdout


def test_a_rehearsal_on_another_major_version_says_so_and_fits_no_run(shop: Shop) -> None:
    shop("migrate")
    shop("backup")
    shop.write("002_change", "CREATE TABLE made (id int);\n")
    report = shop("rehearse", "--json").json
    if report["scratch_version"] // 10_000 == report["server_version"] // 10_000:
        skip_without("a server of another major version than the bundled one", "start Docker")
    assert "locks may differ" in report["notes"][0]
    assert f"was made on PostgreSQL {report['scratch_version'] // 10_000}" in shop("migrate", status=11).stderr
