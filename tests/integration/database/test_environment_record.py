"""The environment that a history remembers, and other environments whose settings lead to its database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pgratchet import events
from pgratchet.config.settings import RenderedTarget
from pgratchet.database.identity import OtherNames
from pgratchet.errors import Unreachable
from pgratchet.operations.backups import TakeBackup
from pgratchet.operations.base import Machine
from pgratchet.operations.migrate import Migrate, ReadHistory, TransferredMigration
from pgratchet.operations.restore import ListKeptDatabases, PreviewRestore
from tests.servers.databases import Database, Server
from tests.support.migrations import WriteMigrations, history, migrate
from tests.support.targets import target_of

ALL = ("prod", "staging", "dev")
COMMENT = "SELECT obj_description('ratchet.migrations'::regclass)"


def target_as(database: Database, environment: str, target: str = "shop", **variables: object) -> RenderedTarget:
    others = OtherNames(tuple(name for name in ALL if name != environment), ("shop", "other"))
    rendered = target_of(database, backup_policy="never", **variables)
    return replace(rendered, environment=environment, target=target, others=others)


def file(number: int, text: str = "create table t{}()") -> TransferredMigration:
    body = text.format(number).encode()
    return TransferredMigration(f"{number}_a", number, f"c{number}", f"{number}_a.sql", body)


def run(target: RenderedTarget, *numbers: int) -> list[events.Event]:
    return list(Migrate("run", tuple(file(number) for number in numbers)).run(target, Machine(Path())))


def record(database: Database) -> dict[str, object]:
    ((comment,),) = database.rows(COMMENT)
    line = str(comment).splitlines()[-1]
    return json.loads(line.removeprefix("pgratchet: "))  # type: ignore[no-any-return]


def change_record(database: Database, values: dict[str, object]) -> None:
    text = "pgratchet: " + json.dumps(record(database) | values)
    database.run(f"COMMENT ON TABLE ratchet.migrations IS '{text}'")


@pytest.fixture
def prod(database: Database) -> Database:
    """A database that was migrated as prod."""
    run(target_as(database, "prod"), 1)
    return database


def test_the_history_remembers_the_environment_and_the_database(prod: Database) -> None:
    ((name, oid, identifier),) = prod.rows(
        "SELECT datname, oid::bigint, system_identifier::text FROM pg_database, pg_control_system()"
        " WHERE datname = current_database()"
    )
    expected = {"environment": "prod", "target": "shop", "system_identifier": identifier, "database": name, "oid": oid}
    assert record(prod) == expected


def attempts(target: RenderedTarget, folder: Path) -> Iterator[object]:
    machine = Machine(folder)
    yield lambda: ReadHistory().run(target, machine)
    yield lambda: ReadHistory(check_server=True).run(target, machine)
    yield lambda: run(target, 1, 2)
    yield lambda: list(TakeBackup().run(target, machine))
    yield lambda: PreviewRestore("{}").run(target, machine)
    yield lambda: ListKeptDatabases().run(target, machine)


def test_another_environment_is_refused_by_every_operation(prod: Database, tmp_path: Path) -> None:
    before = prod.fingerprint(), prod.rows(COMMENT)
    for number, attempt in enumerate(attempts(target_as(prod, "dev"), tmp_path)):
        with pytest.raises(Unreachable, match=f'the settings of dev lead to the database of prod, "{prod.name}"') as e:
            attempt()  # type: ignore[operator]
        assert "history_from: [prod]" in e.value.hint, number
    assert (prod.fingerprint(), prod.rows(COMMENT)) == before
    assert list(tmp_path.iterdir()) == []


def test_another_target_of_the_environment_is_refused(prod: Database) -> None:
    with pytest.raises(Unreachable, match=f'prod: other leads to the database of shop, "{prod.name}"'):
        run(target_as(prod, "prod", "other"), 1, 2)


def test_a_renamed_and_a_restored_database_are_still_those_of_the_environment(prod: Database) -> None:
    """A restored database has the name and another oid; a renamed one the oid and another name."""
    own = record(prod)
    for change in ({"oid": 1}, {"database": "earlier_name"}):
        change_record(prod, own | change)
        with pytest.raises(Unreachable, match="lead to the database of prod"):
            ReadHistory().run(target_as(prod, "dev"), Machine(Path()))
    run(target_as(prod, "prod"), 1, 2)
    assert record(prod)["database"] == prod.name


@pytest.mark.parametrize(
    "change",
    [
        {"system_identifier": "1"},  # restored on another cluster
        {"oid": 1, "database": "source"},  # restored under another name on this cluster
        {"environment": "renamed"},  # not in the inventory any more
    ],
)
def test_a_copy_belongs_to_the_environment_that_uses_it(prod: Database, change: dict[str, object]) -> None:
    change_record(prod, change)
    staging, before = target_as(prod, "staging"), prod.rows(COMMENT)
    assert [row.name for row in ReadHistory().run(staging, Machine(Path())).rows] == ["1_a"]
    run(staging, 1)
    assert prod.rows(COMMENT) == before, "with nothing to apply, nothing is written"
    notices = [e for e in run(staging, 1, 2) if isinstance(e, events.ServerNotice)]
    assert [e.message.split(",")[1] for e in notices] == [" and now belongs to staging"]
    assert record(prod)["environment"] == "staging"
    with pytest.raises(Unreachable, match="lead to the database of staging"):
        run(target_as(prod, "prod"), 1, 2)


def test_an_environment_may_accept_the_database_of_another(prod: Database) -> None:
    run(target_as(prod, "staging", history_from=["prod"]), 1, 2)
    assert record(prod)["environment"] == "staging"


def test_a_history_of_an_earlier_version_gets_its_record_with_the_next_change(
    database: Database, write: WriteMigrations
) -> None:
    migrate(database, write(m1_a="create table t1()"))
    assert database.rows(COMMENT) == [(None,)], "as an earlier version made it"
    database.run("UPDATE ratchet.migrations SET checksum = 'c1'")
    for text in (None, "kept by the data team", "pgratchet: not a record"):
        literal = "NULL" if text is None else f"'{text}'"
        database.run(f"COMMENT ON TABLE ratchet.migrations IS {literal}")
        assert ReadHistory().run(target_as(database, "dev"), Machine(Path())).rows
    database.run("COMMENT ON TABLE ratchet.migrations IS 'kept by the data team'")
    run(target_as(database, "prod"), 1, 2)
    assert record(database)["environment"] == "prod"
    assert str(database.rows(COMMENT)[0][0]).splitlines()[0] == "kept by the data team"


def test_a_role_that_does_not_own_the_history_migrates_all_the_same(server: Server, database: Database) -> None:
    run(target_as(database, "prod"), 1)
    database.run("COMMENT ON TABLE ratchet.migrations IS NULL; CREATE ROLE guest_of_history LOGIN PASSWORD 'x'")
    try:
        database.run(
            "GRANT USAGE ON SCHEMA ratchet TO guest_of_history; GRANT CREATE ON SCHEMA public TO guest_of_history;"
            "GRANT SELECT, INSERT, UPDATE ON ratchet.migrations TO guest_of_history"
        )
        guest = Database({**database.parameters, "user": "guest_of_history", "password": "x"})
        assert isinstance(run(target_as(guest, "prod"), 1, 2)[-1], events.Finished)
        assert history(database) == [("1_a", True), ("2_a", True)]
    finally:
        database.run("DROP OWNED BY guest_of_history; DROP ROLE guest_of_history")
