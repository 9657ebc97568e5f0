"""`invoke doctor` names rights and connections that a run with a backup, or a restore after it, would lack."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from pgratchet.checks.findings import Finding
from pgratchet.checks.needs import Needs
from pgratchet.errors import ConfigurationError, RatchetError
from pgratchet.operations.base import Machine
from pgratchet.operations.examine import Examine
from pgratchet.operations.migrate import ReadHistory
from tests.integration.checks.helpers import examine, finding_about
from tests.servers.databases import Database
from tests.support.migrations import WriteMigrations, migrate
from tests.support.targets import target_of
from tests.support.waiting import until

HERE = Machine(Path())
NEEDS = Needs(sessions=3, maintenance="postgres")


@pytest.fixture
def owner(database: Database) -> Iterator[Database]:
    """The database as a role that owns it and is no superuser."""
    name = f"owner_{uuid.uuid4().hex[:8]}"
    database.run(f"CREATE ROLE {name} LOGIN CREATEDB PASSWORD 'x'; ALTER DATABASE {database.name} OWNER TO {name}")
    yield Database({**database.parameters, "user": name, "password": "x"})
    database.run(f"ALTER DATABASE {database.name} OWNER TO CURRENT_USER; DROP OWNED BY {name}; DROP ROLE {name}")


def needs_of(database: Database, subject: str, needs: Needs = NEEDS) -> list[Finding]:
    return [each for each in examine(database, needs=needs) if each.subject == subject]


def test_a_role_with_everything_has_no_findings(owner: Database) -> None:
    for subject in ("sessions", "maintenance", "function"):
        assert needs_of(owner, subject) == []


@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("kind", ["ROLE", "DATABASE"])
def test_a_limit_too_low_for_a_backup_is_a_problem_and_its_remedy_helps(
    database: Database, owner: Database, kind: str, limit: int
) -> None:
    name = owner.parameters["user"] if kind == "ROLE" else owner.name
    database.run(f"ALTER {kind} {name} CONNECTION LIMIT {limit}")
    _wait_for_sessions(database, 0)
    with closing(owner.connect()) as one:
        if limit == 1:
            with pytest.raises(RatchetError, match="no connection is free for database") as caught:
                owner.connect()
            assert "3 sessions" in caught.value.hint
        assert one.execute("SELECT 1").fetchone() == (1,)
    (finding,) = _examined(database, owner)
    assert finding.severity == "problem"
    assert (
        finding.what
        == f"the {kind.lower()} {name} may have {limit} sessions at once, and a run with its backup needs 3"
    )
    database.run(finding.remedy)
    assert _examined(database, owner) == []


def _wait_for_sessions(database: Database, count: int) -> None:
    """Wait until the server has ended the sessions that were closed here: until then they count towards a limit."""
    maintenance = Database({**database.parameters, "dbname": "postgres"})
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
    until(lambda: maintenance.rows(sessions, database.name) == [(count,)])


def _examined(database: Database, owner: Database, in_use: int = 0) -> list[Finding]:
    """Findings about sessions. Looking takes one session only."""
    before = database.fingerprint()
    _wait_for_sessions(database, in_use)
    findings = [each for each in Examine().run(target_of(owner), HERE) if each.subject == "sessions"]
    assert database.fingerprint() == before
    return findings


def test_sessions_in_use_are_a_warning(database: Database, owner: Database) -> None:
    database.run(f"ALTER ROLE {owner.parameters['user']} CONNECTION LIMIT 4")
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(closing(owner.connect()))
        (finding,) = _examined(database, owner, in_use=2)
    assert finding.severity == "warning"
    assert "3 of 4 possible sessions in use" in finding.what


def test_workers_of_a_large_dump_need_sessions_too(database: Database, owner: Database) -> None:
    database.run(f"ALTER ROLE {owner.parameters['user']} CONNECTION LIMIT 6")
    assert needs_of(owner, "sessions", Needs(3, workers=4, parallel_from=10**12)) == []
    (finding,) = [
        each for each in Examine().run(target_of(owner, backup_parallel_from=1), HERE) if each.subject == "sessions"
    ]
    assert "needs 7" in finding.what
    assert Examine().run(target_of(owner, backup_parallel_from=1, backup_policy="never"), HERE)


@pytest.fixture
def closed_database(database: Database) -> Iterator[str]:
    """A database of the server that roles in general may not connect to."""
    name = f"test_closed_{uuid.uuid4().hex[:8]}"
    database.run(f"CREATE DATABASE {name}")
    database.run(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")
    yield name
    database.run(f"DROP DATABASE {name}")


def test_a_maintenance_database_without_connect_is_a_problem(
    database: Database, owner: Database, closed_database: str
) -> None:
    target = target_of(owner, pg_maintenance_dbname=closed_database)
    with pytest.raises(RatchetError, match="cannot connect"):
        target.connect_to(closed_database)
    finding = finding_about(Examine().run(target, HERE), "maintenance")
    assert finding.severity == "problem"
    assert "cannot be connected to by this role" in finding.what
    assert "pg_maintenance_dbname" in finding.remedy
    assert "such as " in finding.remedy
    database.run(finding.remedy.partition("Or run ")[2])
    assert [each for each in Examine().run(target, HERE) if each.subject == "maintenance"] == []


def test_a_maintenance_database_that_cannot_be_used_is_named(database: Database, owner: Database) -> None:
    (missing,) = needs_of(owner, "maintenance", Needs(3, maintenance="no_such"))
    assert (missing.severity, "does not exist" in missing.what) == ("problem", True)
    (closed,) = needs_of(owner, "maintenance", Needs(3, maintenance="template0"))
    assert (closed.severity, "accepts no connections" in closed.what) == ("problem", True)
    (itself,) = needs_of(owner, "maintenance", Needs(3, maintenance=owner.name))
    assert (itself.severity, "--into" in itself.what) == ("warning", True)
    assert needs_of(owner, "maintenance", Needs()) == [], "no backup, no restore"


@pytest.mark.parametrize(
    "function",
    ["pg_export_snapshot()", "pg_try_advisory_lock(bigint)", "pg_current_xact_id()", "pg_database_size(name)"],
)
def test_a_revoked_function_is_named_and_its_remedy_helps(database: Database, owner: Database, function: str) -> None:
    database.run(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
    try:
        (finding,) = needs_of(owner, "function")
        assert f"may not execute pg_catalog.{function}" in finding.what
        database.run(finding.remedy.removeprefix("Have a superuser run "))
        assert needs_of(owner, "function") == []
    finally:
        database.run(f"GRANT EXECUTE ON FUNCTION {function} TO PUBLIC")


def test_a_revoked_identity_is_named_by_the_doctor_and_by_each_run(
    database: Database, owner: Database, write: WriteMigrations
) -> None:
    database.run("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    try:
        finding = finding_about(examine(owner), "server")
        assert "may not read the server's identity" in finding.what
        assert "GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_system()" in finding.remedy
        for attempt in (
            lambda: migrate(owner, write(m1_a="create table a ()")),
            lambda: ReadHistory(check_server=True).run(target_of(owner), HERE),
        ):
            with pytest.raises(ConfigurationError, match="may not read the server's identity") as caught:
                attempt()
            assert "pg_control_system()" in caught.value.hint
        assert database.rows("SELECT to_regclass('a')") == [(None,)]
    finally:
        database.run("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC")
    assert migrate(owner, write()).applied == ["1_a"]


def test_what_the_role_could_not_restore_is_a_warning_with_its_grant(database: Database, owner: Database) -> None:
    assert needs_of(owner, "restore") == []
    role, other = owner.parameters["user"], f"{owner.parameters['user']}_other"
    database.run(f"CREATE ROLE {other}; CREATE SCHEMA theirs AUTHORIZATION {other}; ALTER ROLE {role} NOCREATEDB")
    database.run("CREATE PUBLICATION everything FOR ALL TABLES")
    try:
        findings = needs_of(owner, "restore")
        assert {each.severity for each in findings} == {"warning"}
        remedies = " ".join(each.remedy for each in findings)
        assert f"ALTER ROLE {role} CREATEDB;" in remedies
        assert f"GRANT {other} TO {role};" in remedies
        assert any("publication everything" in each.what for each in findings)
        assert needs_of(owner, "restore", replace(NEEDS, restores_elsewhere=True)) == []
    finally:
        database.run(f"DROP SCHEMA theirs; DROP ROLE {other}; DROP PUBLICATION everything")


@pytest.mark.parametrize("is_connected", [True, False], ids=["connected", "in the inventory"])
def test_roles_whose_sessions_a_restore_waits_for_are_a_warning_and_its_grant_helps(
    database: Database, owner: Database, is_connected: bool
) -> None:
    application = f"{owner.parameters['user']}_app"
    database.run(f"CREATE ROLE {application} LOGIN PASSWORD 'x'")
    try:
        with ExitStack() as sessions:
            if is_connected:
                login = {**owner.parameters, "user": application}
                sessions.enter_context(closing(Database(login).connect()))
            needs = NEEDS if is_connected else replace(NEEDS, app_user=application)
            (finding,) = needs_of(owner, "restore", needs)
            assert (finding.severity, application in finding.what) == ("warning", True)
            grant = finding.remedy.removeprefix("Have a superuser run ")
            database.run(grant)
            assert needs_of(owner, "restore", needs) == []
            database.run(grant.replace("GRANT", "REVOKE").replace(" TO ", " FROM "))
    finally:
        database.run(f"DROP ROLE {application}")


def test_roles_of_the_inventory_that_the_server_lacks_are_problems(database: Database, owner: Database) -> None:
    role = owner.parameters["user"]
    needs = replace(NEEDS, roles=(role, "no such"), app_user="nor_this")
    findings = needs_of(owner, "roles", needs)
    assert [each.severity for each in findings] == ["problem", "problem"]
    assert [each.remedy for each in findings] == [
        'Have a superuser run CREATE ROLE "no such";',
        "Have a superuser run CREATE ROLE \"nor_this\" LOGIN PASSWORD '...';",
    ]
    assert needs_of(owner, "roles") == []
