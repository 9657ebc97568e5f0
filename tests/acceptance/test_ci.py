"""`invoke ci` in the repository of a team: which branches pass, and which mistakes are named."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.requirements import requires
from tests.servers.databases import Database
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
    advice = "Add `roles: [reader]` to inventory/group_vars/all.yml, or `reader` to its list"
    assert failed.stderr.endswith(f"HINT: {advice}; then run `invoke ci` again.\n")
    everyone = checkout / "inventory" / "group_vars" / "all.yml"
    everyone.write_text(f"{everyone.read_text()}roles: [reader]\n")
    done = invoke("ci", "--roles=writer")
    assert "3 migrations, 2 of them new to main" in done.stdout
    assert "3 migrations applied on a scratch server; a second run had nothing to do" in done.stdout
    assert done.stderr == ""
    assert not (checkout / "backups").exists()
    assert not (checkout / ".pgratchet").exists()


EXTENSIONS = 'create extension no_such;\ncreate extension if not exists "none-such";\ncreate extension hstore;\n'


def test_a_missing_extension_is_named_with_other_servers(
    invoke: Invoke, checkout: Path, commit_migrations: CommitMigrations
) -> None:
    commit_migrations(m002_extensions=EXTENSIONS)
    refused = invoke("ci", status=2).stderr
    assert PARTS.search(refused)
    assert "the scratch server lacks 2 extensions of the migrations" in refused
    assert "The server is the bundled PostgreSQL. It lacks no_such, none-such." in refused
    assert "--server=NAME" in refused
    assert "--server=docker:IMAGE" in refused
    assert "CI_DATABASE_URL" in refused
    commit_migrations(m002_extensions="create collation c (provider = icu, locale = 'no-such-locale', rules = '&x<<');")
    assert "--server=NAME" in invoke("ci", "--roles=reader", status=5).stderr


def test_another_server_can_be_named_and_is_left_as_it_was(
    invoke: Invoke, checkout: Path, commit_migrations: CommitMigrations, database: Database
) -> None:
    role = f"reader_{uuid.uuid4().hex[:8]}"
    commit_migrations(m002_things=GOOD + f"grant select on things to {role};\n")
    commit_migrations(m003_uuid="create extension citext;\n")
    before = database.fingerprint()
    done = invoke("ci", f"--roles={role}", env={"CI_DATABASE_URL": database.url})
    assert "3 migrations applied on a scratch server" in done.stdout
    invoke("ci", f"--roles={role}", "--server=test", env={"TEST_DATABASE_URL": database.url})
    failed = invoke("ci", "--server=test", env={"TEST_DATABASE_URL": database.url}, status=5)
    assert f"HINT: Add `roles: [{role}]` to inventory/group_vars/all.yml" in failed.stderr
    assert database.fingerprint() == before
    assert database.rows("SELECT 1 FROM pg_roles WHERE rolname = %s", role) == []
    assert database.rows("SELECT 1 FROM pg_database WHERE datname LIKE 'pgratchet_ci_%%' AND %s", True) == []
    # A flag wins over the environment variable.
    wrong = {"CI_DATABASE_URL": "postgresql://x:y@127.0.0.1:1/z"}
    assert "cannot connect to" in invoke("ci", f"--roles={role}", env=wrong, status=10).stderr
    invoke("ci", f"--roles={role}", "--server=bundled", env=wrong)


def test_an_environment_that_asks_for_consent_is_no_scratch_server(
    invoke: Invoke, checkout: Path, commit_migrations: CommitMigrations, database: Database
) -> None:
    inventory = checkout / "inventory" / "test.yml"
    inventory.write_text(f"{inventory.read_text()}      confirm: true\n")
    before = database.fingerprint()
    refused = invoke("ci", "--server=test", env={"TEST_DATABASE_URL": database.url}, status=2).stderr
    assert "test cannot be the scratch server" in refused
    assert database.fingerprint() == before


@requires("a Docker engine")
def test_a_docker_image_serves_or_its_absence_is_named(
    invoke: Invoke, checkout: Path, commit_migrations: CommitMigrations
) -> None:
    commit_migrations(m002_things=GOOD, m003_uuid='create extension "uuid-ossp"; create extension pgcrypto;\n')
    assert "3 migrations applied on a scratch server" in invoke("ci", "--server=docker:postgres:15").stdout
    refused = invoke("ci", "--server=docker:no-such-image-here:1", status=2).stderr
    assert PARTS.search(refused)
    assert "the Docker image no-such-image-here:1 cannot be run" in refused


def test_every_mistake_of_a_branch_is_named_at_once(
    invoke: Invoke, checkout: Path, commit_migrations: CommitMigrations
) -> None:
    main = checkout / "sql" / "001_initial_schema.sql"
    main.write_text(main.read_text() + "select 1;\n")
    commit_migrations(m000_late="select 1;\n", m002_bad="alter table users add column y bigint not null;\n")
    refused = invoke("ci", "--against=main", status=2).stderr
    assert PARTS.search(refused)
    assert "the migrations cannot be merged: 3 mistakes" in refused
    assert "000_late: new, but not newer than main's 001_initial_schema" in refused
    assert "001_initial_schema: changed, and main has it" in refused
    assert "002_bad.sql:1:" in refused
    assert "adding-required-field" in refused
    commit_migrations(m002_twice=GOOD)
    assert "the same version 2" in invoke("ci", status=2).stderr


def test_a_missing_main_is_reported_and_the_checks_continue(invoke: Invoke, checkout: Path) -> None:
    done = invoke("ci")
    assert "not compared with the main branch" in done.stderr
    assert "counted only" in done.stderr, "the seed's first file was written before squawk was asked"
    assert "1 migration applied on a scratch server" in done.stdout


RELEASE = """-- squawk-ignore-file
alter table small add column n int;
alter table big alter column n set not null;
update big set n = 1 where id = 5;
alter table big alter column n type bigint;
"""
SIZES = {
    "kind": "sizes",
    "tables": {
        "public.big": {"rows": 2_000_000, "bytes": 100_000_000, "index_bytes": 40_000_000},
        "public.small": {"rows": 10, "bytes": 8192, "index_bytes": 8192},
    },
    "rates": {"rewrite": 20.0, "scan": 0.1, "index": None, "change": None},
    "origin": "prod: app",
}


def test_the_impact_on_large_tables_is_told_without_a_login(
    invoke: Invoke, checkout: Path, commit_migrations: CommitMigrations, tmp_path: Path
) -> None:
    tables = "create table big (id bigint primary key, n int);\ncreate table small (id bigint primary key);\n"
    git(checkout, "checkout", "-q", "main")
    (checkout / "sql" / "002_tables.sql").write_text(tables)
    commit(checkout / "sql")
    git(checkout, "checkout", "-q", "branch")
    git(checkout, "merge", "-q", "main")
    commit_migrations(m003_release=RELEASE)
    (tmp_path / "sizes.json").write_text(json.dumps(SIZES))
    files = {flag: tmp_path / flag for flag in ("markdown", "sarif", "code-quality")}
    flags = [f"--{flag}={path}" for flag, path in files.items()]
    summary = tmp_path / "summary"
    env = {"GITHUB_STEP_SUMMARY": str(summary)}
    done = invoke("ci", "--against=main", f"--sizes={tmp_path / 'sizes.json'}", "--json", *flags, env=env).json
    assert [(each["line"], each["relation"], each["blocks"], each["estimate_ms"]) for each in done["impact"]] == [
        (3, "public.big", "reads", 200.0),
        (5, "public.big", "reads", 2000.0),
    ]
    assert [each["is_rewritten"] for each in done["impact"]] == [False, True]
    assert done["impact"][0]["waits_too"] == ["public.small"]
    text = files["markdown"].read_text()
    assert summary.read_text() == text + "\n"
    assert "| about 2.0 s | public.small |" in text
    results = json.loads(files["sarif"].read_text())["runs"][0]["results"]
    assert [each["locations"][0]["physicalLocation"]["region"]["startLine"] for each in results] == [3, 5]
    quality = json.loads(files["code-quality"].read_text())
    assert [each["location"]["lines"]["begin"] for each in quality] == [3, 5]
    assert len({each["fingerprint"] for each in quality}) == 2


def test_sizes_come_from_a_backup_and_a_rehearsal_replaces_the_estimates(
    invoke: Invoke, commit_migrations: CommitMigrations, database: Database
) -> None:
    env = {"DATABASE_URL": database.url}
    invoke("migrate", env=env)
    database.run("create table big (id bigint primary key, n int)")
    database.run("insert into big select g, g from generate_series(1, 400000) g")
    invoke("backup", env=env)
    wrote = invoke("doctor", "--write-sizes=sizes.json", env=env)
    assert "wrote the sizes of" in wrote.stderr
    commit_migrations(
        m002_more="-- squawk-ignore-file\ncreate table if not exists big (id bigint primary key, n int);\n"
    )
    commit_migrations(m003_more="-- squawk-ignore-file\nalter table big alter column n type bigint;\n")
    told = invoke("ci", "--against=main", "--sizes=backup", env=env).stdout
    assert "003_more.sql:2: takes ACCESS EXCLUSIVE on public.big, blocks reads and writes, rewrites it (" in told
    invoke("rehearse", env=env)
    text = invoke("ci", "--against=main", "--sizes=backup", "--markdown=/dev/stdout", env=env).stdout
    assert "### Rehearsal for dev" in text


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--sizes=nowhere.json"], "The file does not exist."),
        (["--sizes=tasks.py"], "no file that"),
        (["--sizes=backup"], "there is no backup"),
        (["--markdown=x.md"], "--markdown needs --sizes"),
    ],
)
def test_sizes_that_cannot_be_read_are_named(
    invoke: Invoke, commit_migrations: CommitMigrations, flags: list[str], text: str
) -> None:
    refused = invoke("ci", "--against=main", *flags, status=None)
    assert refused.status in (2, 9)
    assert text in refused.stderr
    assert PARTS.search(refused.stderr)


def test_roles_that_the_files_create_are_no_obstacle_for_the_next_step(
    invoke: Invoke, commit_migrations: CommitMigrations, tmp_path: Path
) -> None:
    role = f"made_{uuid.uuid4().hex[:8]}"
    commit_migrations(m002_role=f"-- squawk-ignore-file\ncreate role {role};\ncreate table mine (id int);\n")
    (tmp_path / "sizes.json").write_text(json.dumps(SIZES))
    invoke("snapshot")
    assert "applied on a scratch server" in invoke("ci", "--against=main", f"--sizes={tmp_path / 'sizes.json'}").stdout
