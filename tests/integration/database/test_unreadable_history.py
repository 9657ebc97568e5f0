"""A history that a role may not read, or that is another program's table: said as such, with the GRANT."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pgratchet.database.history import History
from pgratchet.errors import ConfigurationError, HistoryDisagrees
from pgratchet.operations.base import Machine
from pgratchet.operations.examine import Examine
from pgratchet.operations.migrate import Migrate, ReadHistory, ReadTexts
from tests.integration.checks.helpers import finding_about
from tests.servers.databases import Database
from tests.support.migrations import WriteMigrations, migrate
from tests.support.targets import target_of

HERE = Machine(Path())
READS: list[Callable[[Database], object]] = [
    lambda database: ReadHistory().run(target_of(database), HERE),
    lambda database: ReadHistory(check_server=True).run(target_of(database), HERE),
    lambda database: ReadTexts(("1_a",)).run(target_of(database), HERE),
    lambda database: list(Migrate("run", (), without_backup="test").run(target_of(database), HERE)),
]

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


@pytest.fixture
def role(database: Database, write: WriteMigrations) -> Iterator[Database]:
    """The database with an applied migration, as a role that may only log in."""
    name = f'odd "{uuid.uuid4().hex[:8]}'
    migrate(database, write(m1_a="create table a ()"))
    quoted = '"{}"'.format(name.replace('"', '""'))
    database.run(f"CREATE ROLE {quoted} LOGIN PASSWORD 'x'")
    yield Database({**database.parameters, "user": name, "password": "x"})
    database.run(f"DROP OWNED BY {quoted}; DROP ROLE {quoted}")


@pytest.mark.parametrize("read", READS)
def test_a_role_that_may_not_read_the_history_gets_the_grant(
    database: Database, role: Database, read: Callable[[Database], object]
) -> None:
    before = database.fingerprint()
    with pytest.raises(ConfigurationError, match="the history cannot be read: permission denied for schema") as caught:
        read(role)
    assert database.fingerprint() == before
    usage, select = caught.value.hint.splitlines()[1].removesuffix(";").split(";")
    database.run(usage)
    with pytest.raises(ConfigurationError, match="the history cannot be read: permission denied for table"):
        read(role)
    database.run(select)
    with suppress(HistoryDisagrees):  # the run has no files
        read(role)


@pytest.mark.parametrize("read", READS)
def test_a_table_of_another_program_is_no_history(database: Database, read: Callable[[Database], object]) -> None:
    database.run("CREATE SCHEMA ratchet; CREATE TABLE ratchet.migrations (version text)")
    before = database.fingerprint()
    with pytest.raises(ConfigurationError, match="the history cannot be read: column") as caught:
        read(database)
    assert "is no history of pgratchet" in caught.value.detail
    assert "history_schema" in caught.value.hint
    assert database.fingerprint() == before


def test_doctor_names_what_the_role_lacks_and_does_not_name_itself(role: Database) -> None:
    findings = Examine((), has_pending=True, has_files=True).run(target_of(role), HERE)
    assert "lacks SELECT, INSERT and UPDATE" in finding_about(findings, "privileges").what
    assert not [each for each in findings if "doctor" in each.remedy]
    assert not [each for each in findings if "could not be checked" in each.what]


def test_reading_without_a_table_needs_no_right(database: Database) -> None:
    with database.connect() as session:
        assert History().read(session) == []
