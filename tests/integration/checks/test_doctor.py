"""The checks of `invoke doctor` on a server: each problem is made, found, and repaired by the remedy."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import psycopg
import pytest

from pgratchet.apply import applier, run
from pgratchet.checks import doctor
from pgratchet.checks import files as files_check
from pgratchet.checks.doctor import DoctorOptions
from pgratchet.database.history import History
from pgratchet.operations.base import Machine
from pgratchet.operations.examine import Examine
from tests.faults.proxy import Proxy
from tests.integration.checks.helpers import examine, finding_about, problems_in
from tests.servers.databases import Database
from tests.servers.pgbouncer import StartPooler
from tests.support.migrations import WriteMigrations
from tests.support.targets import target_of
from tests.support.waiting import until

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


@pytest.fixture
def role(database: Database) -> Iterator[Database]:
    """The database as a role that may only log in."""
    database.run("CREATE ROLE looker LOGIN PASSWORD 'x'")
    yield Database({**database.parameters, "user": "looker", "password": "x"})
    database.run("DROP OWNED BY looker; DROP ROLE looker")


def test_an_invalid_index_is_named_and_its_remedy_repairs_it(database: Database) -> None:
    database.run('CREATE TABLE "t T" (x int); INSERT INTO "t T" VALUES (1), (1)')
    with suppress(psycopg.errors.UniqueViolation):
        database.run('CREATE UNIQUE INDEX CONCURRENTLY "i I" ON "t T" (x)')
    finding = finding_about(examine(database), "index")
    assert 'public."i I" on public."t T" is INVALID' in finding.what
    database.run('DELETE FROM "t T"')
    database.run(finding.remedy)
    assert problems_in(examine(database)) == []


def test_leftovers_of_an_interrupted_reindex_are_named(database: Database) -> None:
    database.run("CREATE TABLE t (x int); INSERT INTO t VALUES (1), (1)")
    with suppress(psycopg.errors.UniqueViolation):
        database.run("CREATE UNIQUE INDEX CONCURRENTLY i_ccnew ON t (x)")
    remedy = finding_about(examine(database), "index").remedy
    assert remedy == "DROP INDEX CONCURRENTLY public.i_ccnew;"
    database.run(remedy)
    assert problems_in(examine(database)) == []


def test_an_idle_transaction_is_named(database: Database) -> None:
    with closing(database.connect()) as other:
        other.execute("BEGIN")
        other.execute("SELECT 1")
        assert problems_in(examine(database)) == [], "a young one is no finding"
        finding = finding_about(examine(database, max_transaction_age=0), "transaction")
        assert f"pid {other.info.backend_pid}" in finding.what
        assert "idle in transaction" in finding.what
        assert str(other.info.backend_pid) in finding.remedy


def test_an_unused_slot_is_named_and_its_remedy_drops_it(database: Database) -> None:
    database.rows("SELECT pg_create_physical_replication_slot('left_over', true)")
    finding = finding_about(examine(database), "slot")
    assert "left_over" in finding.what
    assert "of WAL" in finding.what
    database.run(finding.remedy.partition(": ")[2])
    assert problems_in(examine(database)) == []


def test_locks_and_waiting_sessions_are_named(database: Database) -> None:
    database.run("CREATE TABLE t (x int)")
    with closing(database.connect()) as holder, closing(database.connect()) as waiter:
        pid = holder.info.backend_pid
        holder.execute("BEGIN")
        holder.execute("LOCK TABLE t")
        holder.execute("SELECT pg_sleep(1)")
        waiting = threading.Thread(target=lambda: waiter.execute("SELECT x FROM t"))
        waiting.start()
        until(lambda: bool(database.rows("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'")))
        findings = [each for each in examine(database) if each.subject == "lock"]
        holder.execute("ROLLBACK")
        waiting.join(10)
    assert f"public.t is locked against every reader by pid {pid}, " in findings[0].what
    assert "waits for a lock, with: SELECT x FROM t" in findings[1].what


def test_a_migration_lock_held_by_another_run_is_named(database: Database) -> None:
    with closing(database.connect()) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (History().lock_key,))
        finding = finding_about(examine(database), "lock")
    assert "the migration lock is held by pid" in finding.what


def test_a_role_that_may_not_create_the_history_is_named(database: Database, role: Database) -> None:
    finding = finding_about(examine(role), "privileges")
    assert finding.severity == "problem"
    assert "CREATE on the database" in finding.what
    database.run(f'GRANT CREATE ON DATABASE "{database.name}" TO looker')
    assert finding_about(examine(role), "privileges").severity == "ok"


def test_a_role_that_may_not_write_the_history_is_named(
    database: Database, role: Database, write: WriteMigrations
) -> None:
    list(applier.migrate(database.connect, History(), write(m1_a="select 1"), None, run.MigrateOptions("run")))
    assert "SELECT, INSERT and UPDATE on ratchet.migrations" in finding_about(examine(role), "privileges").what
    database.run("GRANT USAGE ON SCHEMA ratchet TO looker")
    database.run("GRANT SELECT, INSERT, UPDATE ON ratchet.migrations TO looker")
    assert finding_about(examine(role), "privileges").severity == "ok"


def test_tables_that_pg_dump_cannot_read_are_named(database: Database, role: Database) -> None:
    database.run(f'GRANT CREATE ON DATABASE "{database.name}" TO looker')
    database.run("CREATE TABLE closed (x int); CREATE TABLE rows (x int); GRANT SELECT ON rows TO looker")
    database.run("ALTER TABLE rows ENABLE ROW LEVEL SECURITY")
    finding = finding_about(examine(role), "dump")
    assert finding.severity == "problem"
    assert "public.closed, public.rows" in finding.what
    assert "Row security hides rows of public.rows" in finding.remedy
    assert problems_in(examine(role, uses_pg_dump=False)) == []
    database.run("GRANT pg_read_all_data TO looker; ALTER ROLE looker BYPASSRLS")
    assert problems_in(examine(role)) == []


def test_read_only_sessions_are_named(database: Database) -> None:
    database.run(f'ALTER DATABASE "{database.name}" SET default_transaction_read_only = on')
    finding = finding_about(examine(database), "writable")
    assert finding.severity == "problem"
    assert "read-only" in finding.what


def test_a_cluster_other_than_the_pinned_one_is_named(database: Database) -> None:
    (((identifier,),)) = database.rows("SELECT system_identifier::text FROM pg_control_system()")
    assert finding_about(examine(database, pinned_identifier=identifier), "identity").severity == "ok"
    finding = finding_about(examine(database, pinned_identifier="123"), "identity")
    assert finding.severity == "problem"
    assert str(identifier) in finding.what


def test_a_pooler_is_named(database: Database, pool: StartPooler) -> None:
    pooled, _ = pool(1)
    with closing(pooled.connect()) as connection:
        finding = finding_about(list(doctor.check_server(connection, DoctorOptions(History()))), "pooler")
    assert finding.severity == "problem"
    assert "pg_direct_host" in finding.remedy


def test_a_missing_extension_is_named(database: Database, role: Database, write: WriteMigrations) -> None:
    files = write(m1_a="create extension if not exists no_such; -- create extension x\ncreate extension hstore;")
    assert files_check.created_extensions(files) == ("no_such", "hstore")
    findings = [
        each for each in examine(role, extensions=("no_such", "hstore", "file_fdw")) if each.subject == "extension"
    ]
    descriptions = {each.what for each in findings}
    assert "a pending migration creates no_such, which is not installed on this server" in descriptions
    assert "this role may not create file_fdw" in descriptions
    assert finding_about(examine(database, extensions=("no_such", "hstore")), "extension").severity == "problem"


def test_a_lost_connection_ends_the_checks_with_a_finding(database: Database) -> None:
    proxy = Proxy(database.parameters)
    with closing(proxy), closing(proxy.database.connect()) as connection:
        proxy.cut()
        (finding,) = doctor.check_server(connection, DoctorOptions(History()))
    assert finding.severity == "problem"
    assert "could not be checked" in finding.what


def test_a_failing_check_does_not_end_the_others(database: Database) -> None:
    database.run("REVOKE EXECUTE ON FUNCTION pg_blocking_pids(int) FROM public")
    database.run("CREATE ROLE blind LOGIN PASSWORD 'x'")
    try:
        findings = examine(Database({**database.parameters, "user": "blind", "password": "x"}), extensions=("no_such",))
    finally:
        database.run("GRANT EXECUTE ON FUNCTION pg_blocking_pids(int) TO public; DROP ROLE blind")
    assert "permission denied for function pg_blocking_pids" in finding_about(findings, "lock").what
    assert finding_about(findings, "extension").severity == "problem"


def test_disagreements_of_files_and_history_are_named(database: Database, write: WriteMigrations) -> None:
    files = write(m2_b="select 1", m3_c="-- migrate: no-transaction\nselect 1; select 1/0;")
    with suppress(Exception):
        list(applier.migrate(database.connect, History(), files, None, run.MigrateOptions("run")))
    files = write(m1_a="select 1", m4_d="begin;")
    with closing(database.connect()) as connection:
        findings = list(files_check.check_files(files, History().read(connection)))
    assert [each.severity for each in findings] == ["problem", "problem", "warning", "ok"]
    assert "1_a: not applied, but the newer" in findings[0].what
    assert "BEGIN" in findings[1].what
    assert "3_c" in findings[2].what
    assert findings[3].what == "1 applied, 1 pending"


def test_programs_and_disks_of_this_machine_are_checked(migrated: Database, tmp_path: Path) -> None:
    findings = Examine().run(target_of(migrated), Machine(tmp_path))
    assert problems_in(findings) == []
    assert (
        "no TLS" in finding_about(findings, "pg_dump").what
        or "server's major version" in finding_about(findings, "pg_dump").what
    )
    assert " free in " in finding_about(findings, "room").what
    assert list(tmp_path.iterdir()) == [], "it only looks"
