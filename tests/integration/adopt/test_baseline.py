"""A database without a history is adopted if its schema equals the files'."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgratchet.adopt import baseline
from pgratchet.errors import HistoryDisagrees, MigrationFailed
from pgratchet.migrations import files as migrations
from pgratchet.operations.restore import restore_server
from pgratchet.operations.schema import schema_dumper
from pgratchet.tasks import adopting
from tests.integration.adopt.helpers import ToolProject
from tests.other_tools.handwritten import TWO
from tests.servers.databases import Database
from tests.support.targets import target_of

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


def take_baseline(database: Database, folder: Path, name: str, *, yes: bool = False) -> list[str]:
    target, files = target_of(database), migrations.read(folder)
    with adopting._session(target) as session:
        marked = baseline.select(session.open(), files, name)
        dump = schema_dumper(target, session)
        differences = baseline.differences(restore_server(target), database.name, dump, files, name)
        baseline.require_equal(differences, yes=yes)
        baseline.mark(session, files, name, "run")
    return [each.name for each in marked]


BASE = "create table one (a int primary key, b text default 'x;y');\ncreate view v as select a from one;\n"


@pytest.fixture
def baseline_project(project: ToolProject) -> Iterator[ToolProject]:
    project.sql.mkdir()
    (project.sql / "1_base.sql").write_text(BASE)
    (project.sql / "2_more.sql").write_text(TWO)
    databases = project.database.rows("SELECT datname FROM pg_database ORDER BY 1")
    yield project
    assert project.database.rows("SELECT datname FROM pg_database ORDER BY 1") == databases


def test_a_database_with_the_schema_of_the_files_is_adopted(baseline_project: ToolProject) -> None:
    baseline_project.database.run(BASE)
    assert take_baseline(baseline_project.database, baseline_project.sql, "1_base") == ["1_base"]
    rows = "SELECT name, source, executed_at = '-infinity' FROM ratchet.migrations"
    assert baseline_project.database.rows(rows) == [("1_base", "adopted:baseline", True)]
    assert baseline_project.migrate() == ["applied", "applied"]
    assert take_baseline(baseline_project.database, baseline_project.sql, "2_more") == []


def test_a_database_with_another_schema_is_refused_with_the_differences(baseline_project: ToolProject) -> None:
    baseline_project.database.run(BASE.replace("b text", "b varchar(9)"))
    before = baseline_project.database.fingerprint()
    with pytest.raises(HistoryDisagrees, match="not what these files make") as caught:
        take_baseline(baseline_project.database, baseline_project.sql, "1_base")
    assert "-    b text DEFAULT 'x;y'::text" in caught.value.detail
    assert "+    b character varying(9) DEFAULT 'x;y'::character varying" in caught.value.detail
    assert baseline_project.database.fingerprint() == before
    assert take_baseline(baseline_project.database, baseline_project.sql, "1_base", yes=True) == ["1_base"]


def test_files_that_fail_are_reported_as_by_migrate(baseline_project: ToolProject) -> None:
    (baseline_project.sql / "1_base.sql").write_text("create table one (a int);\nselect nothing;\n")
    with pytest.raises(MigrationFailed, match=r"1_base failed at line 2, column 8"):
        take_baseline(baseline_project.database, baseline_project.sql, "1_base")
    assert not baseline_project.database.rows("SELECT 1 FROM pg_namespace WHERE nspname = 'ratchet'")
