"""`invoke restore --salvage` restores what can be restored, and writes the rest to a file of the current folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hosts.local_target import LocalTarget
from tests.servers.databases import Database
from tests.support.invoke import PARTS, InvokeOnDatabase

VIOLATED = (
    "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (p int REFERENCES p);"
    " SET session_replication_role = replica; INSERT INTO c VALUES (7)"
)


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_the_rest_is_written_to_a_new_file(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    invoke_on_database("migrate")
    whole = invoke_on_database("backup", "--json").json["backup"]
    database.run(VIOLATED)
    backup, name = invoke_on_database("backup", "--json").json["backup"], f"{database.name}_look"
    before = database.fingerprint()
    for arguments in (["--salvage", f"--backup={backup}"], ["--salvage", f"--into={name}"]):
        assert "--salvage needs --into and --backup" in invoke_on_database("restore", *arguments, status=2).stderr
    assert database.fingerprint() == before
    files = [checkout / f"{name}-not-restored.sql", checkout / f"{name}-not-restored-2.sql"]
    (checkout / "elsewhere").write_text("mine")
    files[0].symlink_to(checkout / "elsewhere")
    failed = invoke_on_database("restore", "--salvage", f"--into={name}", f"--backup={backup}", "--json", status=9)
    assert PARTS.search(failed.stderr)
    assert f"1 item of backup {backup} could not be restored" in failed.stderr
    assert "is not present" in failed.stderr
    assert (failed.json["database"], failed.json["kept"]) == (name, None)
    assert [each["item"] for each in failed.json["not_restored"]] == ["FK CONSTRAINT public.c c_p_fkey"]
    assert (checkout / "elsewhere").read_text() == "mine"
    assert "ADD CONSTRAINT c_p_fkey FOREIGN KEY" in files[1].read_text()
    assert files[1].stat().st_mode & 0o777 == 0o600
    copy = Database({**database.parameters, "dbname": name})
    assert copy.rows("SELECT p FROM c") == [(7,)]
    copy.run("INSERT INTO p VALUES (7)")
    copy.run(files[1].read_text())
    database.run(f'DROP DATABASE "{name}"')
    invoke_on_database("restore", "--salvage", f"--into={name}", f"--backup={whole}")
    assert len(list(checkout.glob("*not-restored*"))) == len(files), "a whole restore leaves no file"
    database.run(f'DROP DATABASE "{name}"')


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_a_host_salvages_and_the_file_is_written_here(near: LocalTarget) -> None:
    near("migrate", "--without-backup=the test is about salvage")
    near.database.run(VIOLATED)
    near.describe(backup_at="here")
    backup, name = near("backup", "--json").json["backup"], f"{near.database.name}_look"
    failed = near("restore", "--salvage", f"--into={name}", f"--backup={backup}", status=9)
    assert "not restored: FK CONSTRAINT public.c c_p_fkey" in failed.stderr
    assert "FOREIGN KEY" in (near.clone / f"{name}-not-restored.sql").read_text()
    near.database.run(f'DROP DATABASE "{name}"')
