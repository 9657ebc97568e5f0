"""Repeatables of other tools: Flyway's R files and callbacks, and Liquibase's changesets with runOnChange."""

from __future__ import annotations

import pytest

from pgratchet.adopt import rebuild
from pgratchet.adopt.adoption import Adoption
from pgratchet.adopt.matching import Choice
from pgratchet.errors import ConfigurationError, HistoryDisagrees
from pgratchet.migrations import files as migrations
from pgratchet.migrations import repeatables
from tests.integration.adopt.helpers import LEDGER, ToolProject, live_schema
from tests.other_tools import handwritten
from tests.other_tools.handwritten import flyway_repeatables
from tests.servers.databases import Database

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)
OF_ONE = "create or replace view of_one as select a from one;\n"
OF_TWO = "drop view if exists of_two;\ncreate view of_two as select a from two;\n"
OLD = "create or replace view of_one as select a as b from one;\n"


def states(adopted: Adoption) -> dict[str, tuple[str, str]]:
    """The state and our name by the tool's name, of repeatables and of what has no file."""
    return {
        each.original: (each.state, each.file.name if each.file else "")
        for each in adopted.items
        if each.file is None or each.is_repeatable
    }


def repeatable_states(project: ToolProject) -> dict[str, str]:
    with project.database.connect() as session:
        plan = repeatables.plan(migrations.read(project.sql), LEDGER.read(session))
    return {entry.name: entry.state for entry in plan.entries}


def given_flyway(project: ToolProject) -> None:
    """Let Flyway have applied everything: a view that has changed once, one in a folder, and no callback."""
    project.given("flyway")
    (project.files / "V3__three.sql").unlink()
    project.write("R__of_one.sql", OF_ONE.replace("\n", "\r\n"))
    project.write("views/R__of_two.sql", OF_TWO)
    project.database.run(f"{OLD} DROP VIEW of_one; {OF_ONE} {OF_TWO}")
    project.database.run(flyway_repeatables(("of one", OLD), ("of two", OF_TWO), ("of one", OF_ONE)))


def rows(database: Database) -> list[tuple[object, ...]]:
    columns = "name, source, to_char(executed_at, 'MM-DD'), duration_ms, convert_to(body, 'UTF8')"
    return database.rows(f"SELECT {columns} FROM ratchet.migrations WHERE name LIKE 'repeatable/%' ORDER BY name")


def test_repeatables_are_verified_by_the_newest_run_and_run_again_when_they_change(project: ToolProject) -> None:
    given_flyway(project)
    adopted = project.adopt()
    assert states(adopted) == {
        "R__of_one": ("verified", "repeatable/of_one"),
        "R__of_two": ("verified", "repeatable/of_two"),
    }
    assert rows(project.database) == [
        ("repeatable/of_one@1", "adopted:flyway", "02-05", 5, OF_ONE.encode()),
        ("repeatable/of_two@1", "adopted:flyway", "02-04", 4, OF_TWO.encode()),
    ]
    assert sorted(path.name for path in (project.sql / "repeatable").iterdir()) == ["of_one.sql", "of_two.sql"]
    assert set(repeatable_states(project).values()) == {"up to date"}
    assert project.adopt().is_complete
    (project.sql / "repeatable" / "of_two.sql").write_text(OF_TWO.replace("select a", "select a, 1 as b"))
    assert repeatable_states(project) == {"repeatable/of_one": "up to date", "repeatable/of_two": "changed"}
    project.migrate()
    assert [name for name, *_ in rows(project.database)] == [
        *("repeatable/of_one@1", "repeatable/of_two@1", "repeatable/of_two@2")
    ]
    assert project.adopt().is_complete


def test_the_files_with_their_repeatables_build_the_schema_of_the_database(project: ToolProject) -> None:
    given_flyway(project)
    project.write("afterMigrate.sql", "create or replace view of_both as select a from of_one natural join of_two;")
    project.database.run("create view of_both as select a from of_one natural join of_two")
    preview = project.look()
    assert [file.name for file in preview.adopted_files] == [
        *("1_one", "2_two", "repeatable/of_one", "repeatable/of_two", "repeatable/zz_afterMigrate")
    ]
    built = rebuild.try_rebuild(live_schema(project.database), preview.adopted_files, preview.tables)
    assert built == rebuild.Rebuild("same")
    project.database.run("create view by_hand as select 1 as a")
    built = rebuild.try_rebuild(live_schema(project.database), preview.adopted_files, preview.tables)
    assert built.outcome == "differs"


def test_a_repeatable_that_flyway_would_run_again_is_pending(project: ToolProject) -> None:
    given_flyway(project)
    project.write("R__of_one.sql", OF_ONE.replace("select a", "select a, 1 as b"))
    project.write("R__new.sql", "create or replace view new as select 1 as a;\n")
    adopted = project.adopt()
    assert states(adopted) == {
        "R__new": ("pending", "repeatable/new"),
        "R__of_one": ("pending", "repeatable/of_one"),
        "R__of_two": ("verified", "repeatable/of_two"),
    }
    remarks = {item.original: " ".join(item.remarks) for item in adopted.items}
    assert "Its text has changed since it ran" in remarks["R__of_one"]
    assert [file.name for file in adopted.adopted_files] == ["1_one", "2_two", "repeatable/of_one", "repeatable/of_two"]
    assert repeatable_states(project) == {
        "repeatable/new": "new",
        "repeatable/of_one": "new",
        "repeatable/of_two": "up to date",
    }
    project.migrate()
    again = project.adopt()
    assert again.is_complete
    assert [state for state, _ in states(again).values()] == ["applied", "applied", "verified"]


def test_callbacks_after_migrations_are_pending_and_others_are_named(project: ToolProject) -> None:
    given_flyway(project)
    project.write("afterMigrate.sql", "create or replace view z as select a from of_one;\n")
    project.write("afterMigrate__data.sql", "delete from one; insert into one values (1);\n")
    project.write(
        "sub/afterEachMigrate.sql", "create or replace function f() returns int language sql as 'select 1';\n"
    )
    project.write("afterVersioned.sql", "vacuum one;\n")
    project.write("beforeMigrate__x.sql", "select 1;\n")
    project.write("afterMigrateError.sql", "select 1;\n")
    project.write("R__nothing.sql", "-- only a comment\n")
    adopted = project.look()
    assert {name: state for name, (state, _) in states(adopted).items()} == {
        "R__of_one": "verified",
        "R__of_two": "verified",
        "R__nothing": "left out",
        "afterEachMigrate": "pending",
        "afterMigrate": "pending",
        "afterMigrate__data": "pending",
        "afterMigrateError": "left out",
        "beforeMigrate__x": "left out",
    }
    remarks = {item.original: " ".join(item.remarks) for item in adopted.items}
    assert (
        "Flyway runs this callback in every run, and pgratchet in the next migrate and then" in remarks["afterMigrate"]
    )
    assert "Review" not in remarks["afterMigrate"]
    assert "Review it: its DELETE, INSERT may depend on rows." in remarks["afterMigrate__data"]
    assert "pgratchet once: it cannot run in a transaction" in remarks["afterVersioned"]
    assert "at another moment than after a migration" in remarks["beforeMigrate__x"]
    assert "It has no SQL statement." in remarks["R__nothing"]
    assert not any("Not adopted" in note for note in adopted.notes)
    assert "afterVersioned" in [item.original for item in adopted.items if item.state == "claimed"]
    project.adopt()
    project.migrate()
    assert project.database.rows("SELECT a, f() FROM z") == [(1, 1)]


def test_a_repeatable_without_a_file_is_refused_until_it_is_left_out(project: ToolProject) -> None:
    given_flyway(project)
    (project.files / "R__of_one.sql").unlink()
    message = project.refuses()
    assert "R of one: no file." in message
    assert "--exclude=NAMES" in message
    with pytest.raises(HistoryDisagrees, match="R of one: no file"):
        project.adopt(choice=Choice(exclude=("*",)))
    adopted = project.adopt(choice=Choice(exclude=("R of one",)))
    assert states(adopted) == {"R__of_two": ("verified", "repeatable/of_two"), "R of one": ("left out", "")}


def test_a_repeatable_with_a_placeholder_runs_after_a_person_has_written_it(project: ToolProject) -> None:
    given_flyway(project)
    text = "create or replace view ${x} as select a from one;\n"
    project.write("R__of_one.sql", text)
    project.write("afterMigrate.sql", text)
    message = project.refuses()
    assert "R__of_one: cannot run." in message
    assert "afterMigrate: cannot run." in message
    assert "--exclude=NAMES" in message
    (project.sql / "repeatable").mkdir(parents=True)
    (project.sql / "repeatable" / "of_one.sql").write_text(OF_ONE)
    adopted = project.adopt(choice=Choice(exclude=("afterMigrate",)))
    assert states(adopted)["R__of_one"] == ("pending", "repeatable/of_one")
    assert states(adopted)["afterMigrate"] == ("left out", "")
    project.migrate()
    assert set(repeatable_states(project).values()) == {"up to date"}


def test_a_repeatable_that_was_changed_since_another_database_was_adopted_stays(project: ToolProject) -> None:
    given_flyway(project)
    changed = OF_TWO.replace("select a", "select a, 1 as b")
    (project.sql / "repeatable").mkdir(parents=True)
    (project.sql / "repeatable" / "of_two.sql").write_text(changed)
    adopted = project.adopt()
    remarks = {item.original: " ".join(item.remarks) for item in adopted.items}
    assert "repeatable/of_two.sql exists with another text, which the next migrate runs." in remarks["R__of_two"]
    assert (project.sql / "repeatable" / "of_two.sql").read_text() == changed
    assert rows(project.database)[1][-1] == OF_TWO.encode()
    assert repeatable_states(project) == {"repeatable/of_one": "up to date", "repeatable/of_two": "changed"}
    project.migrate()
    assert project.database.rows("SELECT count(b) FROM of_two") == [(0,)]


def test_a_baseline_keeps_repeatables(project: ToolProject) -> None:
    given_flyway(project)
    adopted = project.adopt(write_baseline=True)
    assert sorted(path.relative_to(project.sql).as_posix() for path in project.sql.rglob("*.sql")) == [
        *("2_baseline.sql", "repeatable/of_one.sql", "repeatable/of_two.sql")
    ]
    assert {state for state, _ in states(adopted).values()} == {"replaced", "verified"}
    assert set(repeatable_states(project).values()) == {"up to date"}
    assert project.adopt(write_baseline=True).is_complete
    built = rebuild.try_rebuild(live_schema(project.database), migrations.read(project.sql), adopted.tables)
    assert built == rebuild.Rebuild("same")


def test_repeatables_in_java_have_a_stand_in_that_sql_replaces(project: ToolProject) -> None:
    given_flyway(project)
    project.database.run(flyway_repeatables(("compiled", ""), first=6, kind="JDBC"))
    adopted = project.look()
    assert states(adopted)["R__x.sql"] == ("claimed", "repeatable/compiled")
    project.adopt()
    file = project.sql / "repeatable" / "compiled.sql"
    assert "-- migrate: stand-in" in file.read_text()
    file.write_text("create or replace view compiled as select 1 as a;\n")
    assert project.adopt().is_complete
    assert repeatable_states(project)["repeatable/compiled"] == "changed"


def test_a_file_of_ours_with_a_callback_that_is_left_out_is_refused(project: ToolProject) -> None:
    given_flyway(project)
    project.write("afterMigrate.sql", "select 1;\n")
    project.adopt()
    with pytest.raises(ConfigurationError, match="would run here that are left out"):
        project.adopt(choice=Choice(exclude=("afterMigrate",)))


def test_changesets_with_run_on_change_are_repeatables(project: ToolProject) -> None:
    project.given("liquibase")
    project.write(
        "views.sql",
        f"--liquibase formatted sql\n--changeset nene:of_one runOnChange:true\n{OF_ONE}"
        f"--changeset nene:of_two runOnChange:true runAlways:true\n{OF_TWO}"
        "--changeset nene:count runAlways:true\nselect 1;\n",
    )
    project.database.run(f"{OF_ONE} {OF_TWO}")
    project.database.run(
        "INSERT INTO databasechangelog (id, author, filename, dateexecuted, orderexecuted, exectype, md5sum) VALUES "
        "('of_one', 'nene', 'db/views.sql', '2024-02-03', 3, 'RERAN', '9:c'), "
        "('of_two', 'nene', 'db/views.sql', '2024-02-03', 4, 'EXECUTED', '9:d'), "
        "('count', 'nene', 'db/views.sql', '2024-02-03', 5, 'EXECUTED', '9:e')"
    )
    (project.files / "two.sql").write_text(f"--liquibase formatted sql\n--changeset nene:b\n{handwritten.TWO}")
    adopted = project.adopt()
    assert states(adopted) == {
        "views.sql: nene:of_one": ("claimed", "repeatable/views_of_one"),
        "views.sql: nene:of_two": ("claimed", "repeatable/views_of_two"),
    }
    remarks = {item.original: " ".join(item.remarks) for item in adopted.items}
    assert "It has runAlways=true, which pgratchet does not have: it runs once." in remarks["views.sql: nene:count"]
    assert "it runs when its text has changed." in remarks["views.sql: nene:of_two"]
    assert set(repeatable_states(project).values()) == {"up to date"}
    built = rebuild.try_rebuild(live_schema(project.database), adopted.adopted_files, adopted.tables)
    assert built == rebuild.Rebuild("same")
    assert project.adopt().is_complete


def test_a_changeset_requires_the_repeatables_before_it_that_it_uses(project: ToolProject) -> None:
    project.given("liquibase")
    function = "create or replace function key(int) returns int immutable language sql as 'select $1';\n"
    uses = "create index on one (key(a));\n"
    project.write(
        "three.sql",
        f"--liquibase formatted sql\n--changeset nene:key runOnChange:true splitStatements:false\n{function}"
        f"--changeset nene:uses\n{uses}--changeset nene:other\ncreate table other (a int);\n",
    )
    (project.files / "two.sql").write_text(f"--liquibase formatted sql\n--changeset nene:b\n{handwritten.TWO}")
    project.database.run(f"{function} {uses}")
    project.database.run(
        "INSERT INTO databasechangelog (id, author, filename, dateexecuted, orderexecuted, exectype, md5sum) VALUES "
        "('key', 'nene', 'db/three.sql', '2024-02-03', 3, 'EXECUTED', '9:c'), "
        "('uses', 'nene', 'db/three.sql', '2024-02-03', 4, 'EXECUTED', '9:d')"
    )
    (project.files / "master.yaml").write_text(
        "databaseChangeLog:\n" + "".join(f"  - include:\n      file: {name}.sql\n" for name in ("one", "two", "three"))
    )
    adopted = project.adopt()
    texts = {path.name.partition("_")[2]: path.read_text() for path in project.sql.glob("*.sql")}
    assert texts["three_uses.sql"] == f"-- migrate: after=repeatable/three_key.sql\n{uses}"
    assert sum("after=" in text for text in texts.values()) == 1
    built = rebuild.try_rebuild(live_schema(project.database), adopted.adopted_files, adopted.tables)
    assert built == rebuild.Rebuild("same")
    assert project.adopt().is_complete
    project.migrate()
    assert project.adopt().is_complete


def test_files_in_a_folder_beside_that_of_the_migrations_are_named(project: ToolProject) -> None:
    given_flyway(project)
    project.write("../callbacks/afterMigrate.sql", "select 1;\n")
    project.write("../other/beforeMigrate.sql", "select 1;\n")
    (note,) = [note for note in project.look().notes if "not in" in note]
    assert "callbacks/afterMigrate.sql. If flyway reads it too, give --files=" in note
    assert "other/" not in note
