"""Names that do harm if they are executed as SQL or by a shell: they are passed unchanged, or refused.

Each of them would drop the table `witness` or create a file `pwned`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from psycopg import sql

from pgratchet.database import connection
from tests.servers.databases import Database, Server
from tests.support.invoke import Invoke, ProcessResult

PARTS = re.compile(r"^[^\n]+\n(DETAIL: .+\n)?HINT: .+", re.DOTALL | re.MULTILINE)
SQL = "'; DROP TABLE witness; --"
QUOTED = '"; DROP TABLE witness; --'
SHELL = "$(touch pwned)`touch pwned`;touch pwned"
ODD = "-ünï😀 %s {x} {{ 7 * 7 }} \\ host=x"
LINES = "x\nDROP TABLE witness;"
LONG = "é" * 32
"""64 bytes, of which a name of PostgreSQL's holds 63."""
HOSTILE = {"sql": (SQL, QUOTED), "shell": (SHELL, ODD)}
"""For a database, and for its owner."""
ANY = pytest.mark.parametrize("server", ["embedded"], indirect=True)
"""What is refused before a server is met needs no more than one."""


@pytest.fixture
def database_with_witness(database: Database, checkout: Path) -> Iterator[Database]:
    """The database with the table `witness`. Afterwards the table must exist, and the file `pwned` must not."""
    database.run("CREATE TABLE witness ()")
    yield database
    assert database.rows("SELECT to_regclass('witness') IS NOT NULL") == [(True,)]
    assert list(checkout.rglob("pwned")) == []


def variables(parameters: Mapping[str, str]) -> dict[str, str]:
    names = {"host": "HOST", "port": "PORT", "dbname": "DB", "user": "USER", "password": "PASSWORD"}
    return {f"POSTGRES_{names[key]}": value for key, value in parameters.items()}


def refused(done: ProcessResult, message: str) -> None:
    assert message in done.stderr
    assert PARTS.search(done.stderr), done.stderr


def test_the_names_are_harmful_if_executed(database: Database, tmp_path: Path) -> None:
    for name, around in ((SQL, "SELECT '{}'"), (QUOTED, 'SELECT 1 AS "x{}"'), (LINES, "-- {}")):
        database.run("CREATE TABLE witness ()")
        database.run(around.format(name))
        assert database.rows("SELECT to_regclass('witness')") == [(None,)]
    subprocess.run(["sh", "-c", f"echo {SHELL}"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "pwned").exists()


@pytest.fixture(params=HOSTILE)
def database_with_hostile_name(
    request: pytest.FixtureRequest, server: Server, database_with_witness: Database
) -> Iterator[Database]:
    """A database with a hostile name and an owner with a hostile name. It has the table `witness` too."""
    name, owner = HOSTILE[request.param]
    create, drop = sql.SQL("CREATE DATABASE {} OWNER {}"), sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
    with connection.connect(server.parameters) as session:
        session.execute(sql.SQL("CREATE ROLE {} LOGIN SUPERUSER PASSWORD 'x'").format(sql.Identifier(owner)))
        session.execute(create.format(sql.Identifier(name), sql.Identifier(owner)))
    hostile_database = Database({**server.parameters, "dbname": name, "user": owner, "password": "x"})
    hostile_database.run("CREATE TABLE witness ()")
    yield hostile_database
    assert hostile_database.rows("SELECT to_regclass('witness') IS NOT NULL") == [(True,)]
    with connection.connect(server.parameters) as session:
        for each in (name, f"{name}2"):
            session.execute(drop.format(sql.Identifier(each)))
        session.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(owner)))


def test_hostile_database_and_user_names_are_read_back_unchanged(
    invoke: Invoke, checkout: Path, database_with_hostile_name: Database
) -> None:
    """Through psycopg, the service file, pgpass and the programs; also through a backup and a restore."""
    env, name, owner = (
        variables(database_with_hostile_name.parameters),
        database_with_hostile_name.name,
        database_with_hostile_name.parameters["user"],
    )
    dev = checkout / "inventory" / "dev.yml"
    schema = owner.replace("{{", "{ {")  # in the inventory, though not in a variable, it would be a template
    own = {"history_schema": schema, "history_table": f"{name}t", "backup_dir": f"b/{name}"}
    lines = (f"      {key}: {json.dumps(each, ensure_ascii=False)}\n" for key, each in own.items())
    dev.write_text(dev.read_text() + "".join(lines))
    folder = checkout / name / "sql"
    folder.mkdir(parents=True)
    shutil.copy(checkout / "sql" / "001_initial_schema.sql", folder)
    ran = invoke("migrate", "--json", "--not-empty", f"--sql={name}/sql", f"--without-backup={owner}", env=env).json
    assert ran["applied"] == ["001_initial_schema"]
    history = sql.SQL("SELECT applied_by, backup_waived FROM {}").format(sql.Identifier(schema, f"{name}t"))
    with database_with_hostile_name.connect() as session:
        assert session.execute(history).fetchall() == [(owner, owner)]
    backup = invoke("backup", "--json", env=env).json
    assert backup["path"] == str(Path("b") / name / "dev" / "hyperpage_dev" / backup["backup"])
    manifest = json.loads((checkout / backup["path"] / "manifest.json").read_text())
    assert manifest["database"]["name"] == name
    assert f"{name}2" in invoke("restore", f"--backup={backup['backup']}", f"--into={name}2", env=env).stdout
    assert database_with_hostile_name.rows("SELECT count(*) FROM pg_database WHERE datname = %s", f"{name}2") == [(1,)]
    status = invoke("status", "--json", f"--sql={name}/sql", env=env | {"POSTGRES_DB": f"{name}2"}).json
    assert (status["applied"], status["pending"]) == (1, 0)
    invoke("render", "--write=pg_service.conf", env=env)
    assert f"dbname={name}\nuser={owner}\n" in (checkout / "pg_service.conf").read_text()


def test_a_name_that_no_format_can_hold_is_refused_before_anything_runs(
    invoke: Invoke, checkout: Path, database_with_witness: Database
) -> None:
    before = database_with_witness.fingerprint()
    good_variables = variables(database_with_witness.parameters)
    for changed, status, message in (
        ({"POSTGRES_DB": LINES}, 2, "the value of pg_dbname cannot be written"),
        ({"POSTGRES_HOST": LINES}, 2, "the value of pg_host cannot be written"),
        ({"POSTGRES_USER": f" {SQL}"}, 2, "begins or ends with a space"),
        ({"POSTGRES_DB": LONG}, 2, "pg_dbname: expected a name of at most 63 bytes"),
        ({"POSTGRES_PORT": SQL}, 2, "pg_port: expected a port from 1 to 65535"),
        ({"POSTGRES_DB": SQL}, 10, f'database "{SQL}" does not exist'),
        ({"POSTGRES_USER": SHELL}, 10, SHELL),
        ({"POSTGRES_HOST": SHELL}, 10, SHELL),
    ):
        refused(invoke("migrate", env=good_variables | changed, status=status), message)
    assert database_with_witness.fingerprint() == before


@ANY
def test_arguments_that_match_nothing_are_refused(invoke: Invoke, database_with_witness: Database) -> None:
    before = database_with_witness.fingerprint()
    arguments = (
        ("migrate", "--env", 2, 'unknown environment "{}"'),
        ("migrate", "--to", 2, 'no migration is named "{}"'),
        ("migrate", "--sql", 2, "no migrations folder {}"),
        ("migrate", "--limit", 2, "matches no target of dev"),
        ("verify", "--backup", 9, 'there is no backup "{}"'),
        ("migrate", "--env", 2, 'unknown environment "{}"'),
        ("verify", "--backup", 9, 'there is no backup "{}"'),
    )
    names = (SQL, QUOTED, SHELL, ODD, LINES, LONG, "../" * 9 + "etc/passwd")
    for name, (task, flag, status, message) in zip(names, arguments, strict=True):
        refused(
            invoke(task, f"{flag}={name}", env=variables(database_with_witness.parameters), status=status),
            message.format(name),
        )
    assert database_with_witness.fingerprint() == before


@ANY
def test_names_in_the_inventory_that_the_server_would_truncate_are_refused(
    invoke: Invoke, checkout: Path, database_with_witness: Database
) -> None:
    """Two history tables whose names differ after the 63rd byte would be the same table."""
    database_with_witness.run(f'CREATE TABLE "{LONG}1" ()')
    with pytest.raises(Exception, match="already exists"):
        database_with_witness.run(f'CREATE TABLE "{LONG}2" ()')
    before = database_with_witness.fingerprint()
    dev = checkout / "inventory" / "dev.yml"
    sound = dev.read_text()
    for line, message in (
        (f"history_schema: {LONG}", "history_schema: expected a name of at most 63 bytes"),
        ('history_table: "a\\0b"', "history_table: expected a name of at most 63 bytes"),
    ):
        dev.write_text(f"{sound}      {line}\n")
        refused(invoke("migrate", env=variables(database_with_witness.parameters), status=2), message)
    for target in (SQL, "x]\nhost=evil"):
        dev.write_text(json.dumps({"all": {"hosts": {target: {"pg_dbname": "x"}}}}))
        shown = target.replace("\n", "\n        ")
        refused(
            invoke("migrate", env=variables(database_with_witness.parameters), status=2),
            f'"{shown}" is not a valid name',
        )
    assert database_with_witness.fingerprint() == before


@ANY
def test_unusual_file_names_are_refused(invoke: Invoke, checkout: Path, database_with_witness: Database) -> None:
    before = database_with_witness.fingerprint()
    names = [f"002_{name}.sql" for name in (SQL, QUOTED, SHELL, "a\nb", LONG, "x" * 190, "a b", "; select", "x%s{y}")]
    for name in names:
        (checkout / "sql" / name).write_text("create table made ();")
    failed = invoke("migrate", env=variables(database_with_witness.parameters), status=2)
    refused(failed, f"the migrations cannot be used: {len(names)} mistakes")
    for name in names:
        shown = name.replace("\n", "\n        ")
        assert f"{shown}: not the file name of a migration" in failed.stderr
        (checkout / "sql" / name).unlink()
    os.close(os.open(os.fsencode(checkout / "sql") + b"/002_\xff.sql", os.O_CREAT | os.O_WRONLY))
    refused(invoke("migrate", env=variables(database_with_witness.parameters), status=2), "")
    assert database_with_witness.fingerprint() == before


@ANY
def test_the_description_of_a_new_file_is_a_comment(
    invoke: Invoke, checkout: Path, database_with_witness: Database
) -> None:
    path = checkout / invoke("new", f"{SQL} {SHELL} {LINES}", "--sql=new").stdout.strip()
    assert re.fullmatch(r"\d{8}T\d{6}_[a-z0-9_]+\.sql", path.name)
    path.write_text(path.read_text() + "SELECT 1;\n")
    env = variables(database_with_witness.parameters)
    ran = invoke("migrate", "--json", "--not-empty", "--sql=new", "--without-backup=x", env=env)
    assert ran.json["applied"] == [path.stem]


@ANY
def test_a_password_command_is_not_run_by_a_shell(
    invoke: Invoke, checkout: Path, database_with_witness: Database
) -> None:
    dev = checkout / "inventory" / "dev.yml"
    program = "import sys; sys.exit(sys.argv[1:] != ['$(touch pwned)', ';touch', 'pwned'])"
    command = json.dumps([sys.executable, "-c", program, "$(touch pwned)", ";touch", "pwned"])
    dev.write_text(f"{dev.read_text()}      password_command: {command}\n")
    failed = invoke("migrate", env=variables(database_with_witness.parameters), status=10)
    refused(failed, "It must print the password as one line")
