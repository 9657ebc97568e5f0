"""A project of Flyway with versioned and repeatable files and a callback, as a user moves it to pgratchet."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.other_tools.handwritten import ONE, SAMPLES, TWO, flyway_repeatables
from tests.servers.databases import Database
from tests.support.invoke import InvokeOnDatabase

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)
FOLDER = "src/main/resources/db/migration"
VIEW = "create or replace view %s as select a from %s;\n"
VIEWS = {f"view {number:02}": VIEW % (f"view_{number:02}", "one" if number % 2 else "two") for number in range(1, 17)}
CALLBACK = "create or replace view after_all as select a from view_01 union select a from view_16;\n"


@pytest.fixture
def checkout_beside_flyway(checkout: Path, database: Database) -> Path:
    """A checkout without migrations, beside the files of Flyway: two versions, 16 views, and a callback."""
    (checkout / "sql" / "001_initial_schema.sql").unlink()
    folder = checkout / FOLDER
    folder.mkdir(parents=True)
    (folder / "V1__one.sql").write_text(ONE)
    (folder / "V2__two.sql").write_text(TWO)
    for description, text in VIEWS.items():
        (folder / f"R__{description.replace(' ', '_')}.sql").write_text(text)
    (folder / "afterMigrate.sql").write_text(CALLBACK)
    (folder / "beforeMigrate.sql").write_text("select 1;\n")
    database.run(
        f"{ONE} {TWO} {''.join(VIEWS.values())} {CALLBACK} {SAMPLES['flyway'].table}; {SAMPLES['flyway'].rows}"
    )
    for rank, run in enumerate(VIEWS.items(), 3):
        database.run(flyway_repeatables(run, first=rank).replace(f"02-0{rank} ", f"02-{rank:02} "))
    return checkout


def view_names(database: Database) -> list[str]:
    rows = database.rows("SELECT viewname::text FROM pg_views WHERE schemaname = 'public' ORDER BY 1")
    return [str(name) for (name,) in rows]


def test_a_project_of_flyway_moves_with_its_views_and_callbacks(
    checkout_beside_flyway: Path, invoke_on_database: InvokeOnDatabase, database: Database
) -> None:
    before = database.fingerprint()
    shown = invoke_on_database("adopt", "--dry-run")
    assert database.fingerprint() == before
    assert list((checkout_beside_flyway / "sql").iterdir()) == []
    assert "the adopted files alone build the schema of the database" in shown.stderr
    lines = {line.split("  ")[0]: line for line in shown.stdout.splitlines()}
    assert "verified" in lines["repeatable/view_16"]
    assert "Flyway runs this callback in every run" in lines["repeatable/zz_afterMigrate"]
    assert any("left out" in line and "beforeMigrate" in line for line in shown.stdout.splitlines())

    done = invoke_on_database("adopt", "--json").json
    assert done["adopted"] == ["1_one", "2_two", *(f"repeatable/{name.replace(' ', '_')}" for name in VIEWS)]
    assert done["files"] == [*done["adopted"], "repeatable/zz_afterMigrate"]
    assert done["pending"] == 1
    status = invoke_on_database("status", "--json").json
    assert [each["status"] for each in status["repeatables"]] == [*["up to date"] * 16, "new"]
    assert invoke_on_database("migrate", "--json").json["applied"] == ["repeatable/zz_afterMigrate"]
    invoke_on_database("status", "--check")
    assert "nothing to apply: total 19, pending 0" in invoke_on_database("migrate").stdout

    changed = checkout_beside_flyway / "sql" / "repeatable" / "view_07.sql"
    changed.write_text(VIEWS["view 07"].replace("select a", "select a, a + 1 as b"))
    assert invoke_on_database("migrate", "--json").json["applied"] == ["repeatable/view_07"]
    assert view_names(database) == ["after_all", *(name.replace(" ", "_") for name in VIEWS)]
    assert database.rows("SELECT count(b) FROM view_07") == [(0,)]
    database.run("DROP TABLE flyway_schema_history")
    assert invoke_on_database("drift").status == 0


def test_without_callbacks_nothing_is_pending(
    checkout_beside_flyway: Path, invoke_on_database: InvokeOnDatabase
) -> None:
    (checkout_beside_flyway / FOLDER / "afterMigrate.sql").unlink()
    assert invoke_on_database("adopt", "--json").json["pending"] == 0
    invoke_on_database("status", "--check")
    assert "nothing to apply: total 18, pending 0" in invoke_on_database("migrate").stdout
