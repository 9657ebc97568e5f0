"""`invoke restore` for an owner who is no superuser: told before, waited, continued, or done by another environment."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.databases import Database
from tests.support.invoke import PARTS, Invoke

INVENTORY = "all: {hosts: {hyperpage_dev: {pg_url: \"{{ env('DATABASE_URL') }}\", pg_dbname: x, %s}}}"
pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


def describe(checkout: Path, variables: str) -> None:
    (checkout / "inventory" / "dev.yml").write_text(INVENTORY % variables)


@pytest.fixture
def owner(database: Database) -> Iterator[Database]:
    role = f"owner_{uuid.uuid4().hex[:8]}"
    database.run(f"CREATE ROLE {role} LOGIN CREATEDB PASSWORD 'x'; ALTER DATABASE {database.name} OWNER TO {role}")
    yield Database({**database.parameters, "user": role, "password": "x"})
    maintenance = Database({**database.parameters, "dbname": "postgres"})
    beside = "SELECT quote_ident(datname) FROM pg_database WHERE starts_with(datname, %s) AND datname <> %s"
    for (name,) in maintenance.rows(beside, database.name, database.name):
        maintenance.run(f"DROP DATABASE {name} WITH (FORCE)")
    database.run(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_swap_that_waits_in_vain_is_continued_later(
    invoke: Invoke, checkout: Path, database: Database, owner: Database
) -> None:
    describe(checkout, "migration_timeout: 1000")
    env = {"DATABASE_URL": owner.url}
    invoke("migrate", env=env)
    backup = invoke("backup", "--json", env=env).json["backup"]
    with database.connect() as monitoring:
        failed = invoke("restore", f"--backup={backup}", "--yes", env=env, status=9)
        assert (
            f"the swap will wait for sessions that this role may not end: pid {monitoring.info.backend_pid}"
            in failed.stderr
        )
        assert "did not end" in failed.stderr
        assert "invoke restore --continue" in failed.stderr
        assert PARTS.search(failed.stderr)
        assert monitoring.execute("SELECT 1").fetchone() == (1,)
    both = invoke("restore", "--continue", "--into=x", env=env, status=2)
    assert "cannot be given together" in both.stderr
    done = invoke("restore", "--continue", "--yes", "--json", env=env).json
    assert (done["backup"], done["database"]) == (backup, database.name)
    none = invoke("restore", "--continue", "--yes", env=env, status=2)
    assert f"there is no restored database that could become {database.name}" in none.stderr
    assert done["kept"] in invoke("restore", "--drop-old", "--yes", env=env).stderr


def test_what_the_owner_may_not_restore_another_environment_restores(
    invoke: Invoke, checkout: Path, database: Database, owner: Database
) -> None:
    describe(checkout, "restore_environment: ''")
    env = {"DATABASE_URL": owner.url, "ADMIN_URL": database.url}
    invoke("migrate", env=env)
    database.run("CREATE PUBLICATION everything FOR ALL TABLES")
    taken = invoke("backup", env=env)
    assert "warning: this role cannot restore the backup alone. Only a superuser" in taken.stderr
    backup = taken.stdout.split()[0]
    assert "this role cannot restore its backups alone" in invoke("doctor", env=env).stdout
    refused = invoke("restore", f"--backup={backup}", "--yes", env=env, status=2)
    assert "publication everything, which is FOR ALL TABLES" in refused.stderr
    assert "restore_environment" in refused.stderr
    describe(checkout, "restore_environment: admin")
    (checkout / "inventory" / "admin.yml").write_text(
        "all: {hosts: {admin: {pg_url: \"{{ env('ADMIN_URL') }}\", pg_dbname: x}}}"
    )
    assert "cannot restore" not in invoke("backup", env=env).stderr
    done = invoke("restore", f"--backup={backup}", "--yes", "--json", env=env).json
    assert (done["env"], done["database"]) == ("dev", database.name)
    assert database.rows("SELECT pubname FROM pg_publication") == [("everything",)]
