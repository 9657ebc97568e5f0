"""`invoke adopt`: a history of Drizzle, a history that disagrees with the files, and a database without a history."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.other_tools import handwritten
from tests.other_tools.handwritten import ONE, SAMPLES, TWO
from tests.servers.databases import Database
from tests.support.invoke import PARTS, InvokeOnDatabase

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


@pytest.fixture
def checkout_beside_drizzle(checkout: Path, database: Database) -> Path:
    """A checkout without migrations, beside the files of Drizzle."""
    (checkout / "sql" / "001_initial_schema.sql").unlink()
    for name, text in SAMPLES["drizzle"].files.items():
        path = checkout / "drizzle" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    database.run(f"{ONE} {TWO} {SAMPLES['drizzle'].table}")
    return checkout


def test_a_history_is_previewed_adopted_and_continued(
    checkout_beside_drizzle: Path, invoke_on_database: InvokeOnDatabase, database: Database
) -> None:
    database.run(SAMPLES["drizzle"].rows)
    shown = invoke_on_database("adopt", "--dry-run")
    assert "0001_two    verified  0001_two" in shown.stdout
    assert list((checkout_beside_drizzle / "sql").iterdir()) == []
    done = invoke_on_database("adopt", "--from=drizzle", "--json").json
    assert (done["from"], done["adopted"], done["pending"]) == ("drizzle", ["0000_one", "0001_two"], 1)
    assert [each["status"] for each in done["migrations"]] == ["verified", "verified", "pending"]
    assert "total 3, applied 2, pending 1" in invoke_on_database("status").stdout
    invoke_on_database("migrate", "--without-backup=a test")
    assert invoke_on_database("status", "--check").stdout.endswith("total 3, applied 3, pending 0\n")
    assert [each["applied_at"] is None for each in invoke_on_database("status", "--json").json["migrations"]] == [
        True,
        True,
        False,
    ]
    assert invoke_on_database("adopt").stdout.endswith("nothing to adopt\n")


def test_a_history_that_disagrees_is_refused_in_three_parts(
    checkout_beside_drizzle: Path, invoke_on_database: InvokeOnDatabase, database: Database
) -> None:
    database.run(handwritten.drizzle((ONE, 1000), ("edited", 2000)))
    before = database.fingerprint()
    refused = invoke_on_database("adopt", status=8)
    assert PARTS.search(refused.stderr)
    assert "0001_two: changed." in refused.stderr
    error = invoke_on_database("adopt", "--json", status=8).json
    assert (error["error"]["code"], error["adopted"], error["migrations"][1]["status"]) == (8, [], "changed")
    assert database.fingerprint() == before
    assert list((checkout_beside_drizzle / "sql").iterdir()) == []


def test_a_database_without_a_history_is_compared_before_adoption(
    checkout: Path, invoke_on_database: InvokeOnDatabase, database: Database
) -> None:
    (checkout / "sql" / "001_initial_schema.sql").write_text(ONE)
    (checkout / "sql" / "002_two.sql").write_text(TWO)
    assert "-CREATE TABLE public.one" in invoke_on_database("adopt", "--baseline=1", status=8).stderr
    database.run(ONE)
    assert "to be adopted" in invoke_on_database("adopt", "--baseline=1", "--dry-run").stdout
    assert invoke_on_database("adopt", "--baseline=1", "--json").json["adopted"] == ["001_initial_schema"]
    assert "total 2, applied 1, pending 1" in invoke_on_database("status").stdout
