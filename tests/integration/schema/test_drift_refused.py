"""What the scratch server does not have is named, and is neither a difference nor passed over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgratchet.adopt.conversion import converted_file
from pgratchet.operations.base import Machine
from pgratchet.operations.schema import ReadSchema
from pgratchet.schema.build import scratch_server
from pgratchet.schema.builder import SchemaBuilder
from pgratchet.schema.drift import SchemaComparison
from pgratchet.schema.dump_cache import DumpCache
from tests.servers.databases import Database
from tests.support.targets import target_of

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)
BASE = "CREATE TABLE users (id bigint PRIMARY KEY);\n"


@pytest.fixture
def role(database: Database) -> Iterator[str]:
    """A role that only the server of the test has."""
    name = f"{database.name}_reader"
    database.run(f"CREATE ROLE {name}")
    yield name
    database.run(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_what_the_scratch_server_refuses_is_not_compared(database: Database, role: str, tmp_path: Path) -> None:
    database.run(f"{BASE}; CREATE POLICY readers ON users TO {role} USING (true); GRANT SELECT ON users TO {role}")
    live = ReadSchema().run(target_of(database), Machine(tmp_path))
    files = [converted_file("1_base", BASE.encode())]
    with SchemaBuilder(
        lambda: scratch_server(live, (), None, privileges=True), DumpCache(tmp_path / "schemas", [])
    ) as builder:
        drift = SchemaComparison(builder, live, files).find_drift()
    assert drift.differences == ()
    reason = f'The scratch server refuses it: role "{role}" does not exist.'
    assert {each.reason for each in drift.not_compared} == {reason}
    assert [each.name for each in drift.not_compared] == [
        f"CREATE POLICY readers ON public.users TO {role} USING (true)",
        f"GRANT SELECT ON TABLE public.users TO {role}",
    ]
