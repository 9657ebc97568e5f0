"""`invoke ci` in the repository of a team: which branches pass, and which mistakes are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.requirements import requires
from tests.support.git import commit, git
from tests.support.invoke import PARTS, Invoke

pytestmark = requires("squawk")
GOOD = "create table things (id bigint generated always as identity primary key);\n"
CommitMigrations = Callable[..., None]


@pytest.fixture
def commit_migrations(checkout: Path) -> CommitMigrations:
    """Commit migrations in the checkout, on a branch off main."""
    sql = checkout / "sql"
    git(checkout, "init", "-q", "-b", "main", ".")
    commit(sql)
    git(checkout, "checkout", "-q", "-b", "branch")

    def written(**files: str) -> None:
        for name, text in files.items():
            (sql / f"{name.removeprefix('m')}.sql").write_text(text)

    return written


def test_valid_migrations_pass_and_nothing_is_left(
    invoke: Invoke, checkout: Path, commit_migrations: CommitMigrations
) -> None:
    commit_migrations(m002_things=GOOD + "grant select on things to reader;\n")
    commit_migrations(m003_fast="-- migrate: no-transaction\ncreate index concurrently i on things (id);\n")
    failed = invoke("ci", status=5)
    assert 'role "reader" does not exist' in failed.stderr
    done = invoke("ci", "--roles=reader,writer")
    assert "3 migrations, 2 of them new to main" in done.stdout
    assert "3 migrations applied on a scratch server; a second run had nothing to do" in done.stdout
    assert done.stderr == ""
    assert not (checkout / "backups").exists()
    assert not (checkout / ".pgratchet").exists()


def test_every_mistake_of_a_branch_is_named_at_once(
    invoke: Invoke, checkout: Path, commit_migrations: CommitMigrations
) -> None:
    main = checkout / "sql" / "001_initial_schema.sql"
    main.write_text(main.read_text() + "select 1;\n")
    commit_migrations(m000_late="select 1;\n", m002_bad="alter table users add column y bigint not null;\n")
    refused = invoke("ci", "--against=main", status=2).stderr
    assert PARTS.search(refused)
    assert "the migrations are not fit to be merged: 3 mistakes" in refused
    assert "000_late: new, but not newer than main's 001_initial_schema" in refused
    assert "001_initial_schema: changed, and main has it" in refused
    assert "002_bad.sql, line 1, column" in refused
    assert "adding-required-field" in refused
    commit_migrations(m002_twice=GOOD)
    assert "the same version 2" in invoke("ci", status=2).stderr


def test_a_missing_main_is_reported_and_the_checks_continue(invoke: Invoke, checkout: Path) -> None:
    done = invoke("ci")
    assert "not compared with main" in done.stderr
    assert "counted only" in done.stderr, "the seed's first file was written before squawk was asked"
    assert "1 migration applied on a scratch server" in done.stdout
