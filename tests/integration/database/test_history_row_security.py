"""Row-level security on the history: rows that may be hidden from a role are an error, and are never left out."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pgratchet.database.history import History
from pgratchet.database.session import Session
from pgratchet.errors import ConfigurationError
from pgratchet.operations.base import Machine
from pgratchet.operations.examine import Examine
from pgratchet.operations.migrate import Migrate, ReadHistory, ReadTexts
from tests.integration.checks.helpers import finding_about
from tests.servers.databases import Database
from tests.support.migrations import WriteMigrations, migrate
from tests.support.targets import target_of

HERE = Machine(Path())
ENABLE = "ALTER TABLE ratchet.migrations ENABLE ROW LEVEL SECURITY;"
FORCE = ENABLE + "ALTER TABLE ratchet.migrations FORCE ROW LEVEL SECURITY;"
POLICIES = {
    "no policy": ENABLE,
    "a policy for some rows": ENABLE + "CREATE POLICY p ON ratchet.migrations USING (name <> '2_b')",
    "a policy for all rows": ENABLE + "CREATE POLICY p ON ratchet.migrations USING (true)",
    "a policy for another role": ENABLE + "CREATE POLICY p ON ratchet.migrations TO pg_monitor USING (true)",
    "the owner, forced": FORCE + "ALTER TABLE ratchet.migrations OWNER TO {role}",
}


@pytest.fixture
def role(database: Database, write: WriteMigrations) -> Iterator[Database]:
    """The database with two applied migrations, as a role that may read and write the history and owns nothing."""
    name = f"reader_{uuid.uuid4().hex[:8]}"
    migrate(database, write(m1_a="create table a ()", m2_b="create table b ()"))
    database.run(f"CREATE ROLE {name} LOGIN PASSWORD 'x'; GRANT USAGE, CREATE ON SCHEMA ratchet TO {name}")
    database.run(f"GRANT SELECT, INSERT, UPDATE ON ratchet.migrations TO {name}")
    yield Database({**database.parameters, "user": name, "password": "x"})
    database.run(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.fixture(params=POLICIES)
def hidden(request: pytest.FixtureRequest, database: Database, role: Database) -> Database:
    database.run(POLICIES[request.param].format(role=role.parameters["user"]))
    return role


def history_rows(database: Database) -> list[tuple[object, ...]]:
    return database.rows("SELECT * FROM ratchet.migrations ORDER BY id")


@pytest.mark.parametrize(
    "read",
    [
        lambda session: History().read(session),
        lambda session: History().read_run(session, "run", ["1_a"]),
        lambda session: History().read_bodies(session, ["1_a"]),
        lambda session: History().read_progress(session, "1_a"),
        lambda session: History().has_row(session, "1_a"),
    ],
)
def test_no_query_leaves_out_hidden_rows(hidden: Database, read: Callable[[object], object]) -> None:
    with hidden.connect() as session, pytest.raises(ConfigurationError, match="row-level security may hide rows"):
        read(session)


def test_tasks_refuse_a_history_whose_rows_may_be_hidden(
    database: Database, hidden: Database, write: WriteMigrations
) -> None:
    before, rows = database.fingerprint(), history_rows(database)
    target = target_of(hidden, backup_policy="never")
    write(m3_c="create table c ()")
    for attempt in (
        lambda: ReadHistory().run(target, HERE),
        lambda: ReadHistory(check_server=True).run(target, HERE),
        lambda: ReadTexts(("1_a",)).run(target, HERE),
        lambda: list(Migrate("run", ()).run(target, HERE)),
        lambda: migrate(hidden, write()),
    ):
        with pytest.raises(ConfigurationError, match="row-level security may hide rows") as caught:
            attempt()
        assert 'ALTER TABLE "ratchet"."migrations" DISABLE ROW LEVEL SECURITY' in caught.value.hint
    assert (database.fingerprint(), history_rows(database)) == (before, rows)


def test_the_lock_is_not_kept_when_rows_become_hidden_before_it(database: Database, role: Database) -> None:
    session = Session(role.connect, History(), 0)
    with closing(session):
        assert [row.name for row in session.open()] == ["1_a", "2_b"]
        database.run(ENABLE)
        with pytest.raises(ConfigurationError, match="row-level security"):
            for _ in session.lock():
                pass
    assert database.locks() == []


def test_the_doctor_names_a_history_whose_rows_may_be_hidden(database: Database, hidden: Database) -> None:
    before = database.fingerprint()
    finding = finding_about(Examine().run(target_of(hidden, backup_policy="never"), HERE), "privileges")
    assert finding.severity == "problem"
    assert "row-level security may hide rows of the history" in finding.what
    assert "DISABLE ROW LEVEL SECURITY" in finding.remedy
    assert database.fingerprint() == before


@pytest.mark.parametrize("change", ["ALTER ROLE {role} BYPASSRLS", "ALTER TABLE ratchet.migrations OWNER TO {role}"])
def test_a_role_that_sees_every_row_goes_on(
    database: Database, role: Database, write: WriteMigrations, change: str
) -> None:
    database.run(POLICIES["no policy"] + change.format(role=role.parameters["user"]))
    database.run(f'GRANT CREATE ON DATABASE "{database.name}" TO {role.parameters["user"]}')
    assert [row.name for row in ReadHistory().run(target_of(role), HERE).rows] == ["1_a", "2_b"]
    assert migrate(role, write(m3_c="create schema c")).applied == ["3_c"]
    database.run("DROP SCHEMA c; ALTER TABLE ratchet.migrations OWNER TO CURRENT_USER")
