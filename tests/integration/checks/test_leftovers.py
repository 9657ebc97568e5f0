"""Databases that killed runs left behind, and those that restores kept, are named with what drops them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from pgratchet.backups.kept_databases import derive_name
from pgratchet.database.connection import connect
from pgratchet.operations.base import Machine
from pgratchet.operations.examine import Examine, FindLeftovers
from tests.servers.databases import Database
from tests.support.targets import target_of
from tests.support.waiting import until

HERE = Machine(Path())
LEFT_BEHIND = ["restore", "pgratchet_drill_20261126182342", "pgratchet_ci_0123456789ab"]


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
@pytest.mark.parametrize("kind", LEFT_BEHIND)
def test_a_copy_that_was_left_behind_is_named_with_the_statement_that_drops_it(migrated: Database, kind: str) -> None:
    name = derive_name(migrated.name, kind) if kind == "restore" else kind
    postgres = Database({**migrated.parameters, "dbname": "postgres"})
    postgres.run(f'CREATE DATABASE "{name}"')
    try:
        before = migrated.fingerprint()
        finding = next(each for each in FindLeftovers().run(target_of(migrated), HERE) if name in each.what)
        assert finding.severity == "warning"
        assert f'the database "{name}" of ' in finding.what
        assert finding in Examine().run(target_of(migrated), HERE)
        assert migrated.fingerprint() == before
        copy = {**migrated.parameters, "dbname": name}
        with closing(connect(copy, application_name="pg_restore")) as orphan:
            finding = next(each for each in FindLeftovers().run(target_of(migrated), HERE) if name in each.what)
            assert f"and pid {orphan.info.backend_pid} is still connected" in finding.what
            assert "WITH (FORCE)" in finding.remedy
        with closing(connect({**migrated.parameters, "dbname": "postgres"})) as run:
            finding = next(each for each in FindLeftovers().run(target_of(migrated), HERE) if name in each.what)
            assert (finding.severity, finding.remedy) == ("ok", "")
            run.execute("SELECT 1")
        until(lambda: postgres.rows("SELECT 1 FROM pg_stat_activity WHERE application_name = 'pg_restore'") == [])
        finding = next(each for each in FindLeftovers().run(target_of(migrated), HERE) if name in each.what)
        postgres.run(finding.remedy.removeprefix("If you do not need it, run ").partition(";")[0])
        assert not any(name in each.what for each in FindLeftovers().run(target_of(migrated), HERE))
    finally:
        postgres.run(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_the_old_database_of_a_restore_is_no_warning(migrated: Database) -> None:
    old = derive_name(migrated.name, "old")
    postgres = Database({**migrated.parameters, "dbname": "postgres"})
    names = [old, f"{old}x", f"other{old}", "pgratchet_drill_1", "pgratchet_drills_20261126182342"]
    for name in names:
        postgres.run(f'CREATE DATABASE "{name}"')
    try:
        (finding,) = FindLeftovers().run(target_of(migrated), HERE)
        assert (finding.severity, finding.subject) == ("ok", "databases")
        assert "run `invoke restore --env=env --drop-old`" in finding.remedy
    finally:
        for name in names:
            postgres.run(f'DROP DATABASE "{name}"')
