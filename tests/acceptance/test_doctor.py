"""`invoke doctor` on a fresh checkout and on a server with problems."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers.databases import Database
from tests.support.invoke import Invoke, InvokeOnDatabase

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


def test_doctor_reports_a_fresh_clone_and_a_server_with_problems(
    invoke: Invoke, invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    stopped = invoke("doctor", "--json", status=10).json
    assert [(each["subject"], each["severity"]) for each in stopped["findings"]] == [("login", "problem")]
    assert "invoke up" in stopped["findings"][0]["remedy"]

    before = database.fingerprint()
    sound = invoke_on_database("doctor", "--json").json
    assert set(sound) == {"env", "target", "findings"}
    assert set(sound["findings"][0]) == {"severity", "subject", "what", "remedy"}
    assert {each["subject"] for each in sound["findings"]} >= {"login", "server", "pg_dump", "room", "history"}
    assert {each["severity"] for each in sound["findings"]} <= {"ok", "warning"}

    database.run(f'ALTER DATABASE "{database.name}" SET default_transaction_read_only = on')
    (checkout / "sql" / "001_twice.sql").write_text("select 1;")
    done = invoke_on_database("doctor", status=2)
    assert "sessions of this role are read-only" in done.stdout
    assert "001_twice" in done.stdout, "a mistake in the files does not end it"
    assert done.stdout.splitlines()[-1].startswith("2 problems, ")
    assert done.stderr == ""
    assert database.fingerprint() == before
    assert not (checkout / "backups").exists()

    assert "are lost with it" not in done.stdout
    on_runner = invoke_on_database("doctor", env={"CI": "true"}, status=2)
    assert "the backups go to the folder backups of this machine, a runner of a CI system" in on_runner.stdout

    wrong = invoke("doctor", env={"DATABASE_URL": "postgresql://x:y@127.0.0.1:1/z"}, status=10)
    assert "cannot connect to" in wrong.stdout
