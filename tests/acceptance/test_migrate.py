"""`invoke migrate` and `invoke status`: results, failures, concurrent runners, terminals."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pgratchet import embedded
from pgratchet.database.history import History
from tests.servers.databases import Database
from tests.support.invoke import COMMAND, PARTS, Invoke, InvokeOnDatabase, environment
from tests.support.waiting import until


def test_json_has_exactly_the_promised_shape(invoke_on_database: InvokeOnDatabase, database: Database) -> None:
    assert invoke_on_database("status", "--json").json == {
        "env": "dev",
        "target": "hyperpage_dev",
        "total": 1,
        "applied": 0,
        "pending": 1,
        "migrations": [
            {
                "name": "001_initial_schema",
                "status": "pending",
                "applied_at": None,
                "checksum": "34c8122ddc6a4de13a5b713bbfbcba391b8f7c8c0f42e575a2db65ad7240fe65",
                "duration_ms": None,
                "phase": "expand",
            }
        ],
        "repeatables": [],
    }
    ran = invoke_on_database("migrate", "--json").json
    assert set(ran) == {"env", "target", "run_id", "backup", "applied", "total", "pending", "duration_ms"}
    assert (ran["applied"], ran["total"], ran["pending"]) == (["001_initial_schema"], 1, 0)
    assert re.fullmatch(r"\d{8}T\d{6}-[0-9a-f]{4}", ran["backup"])
    (migration,) = invoke_on_database("status", "--json").json["migrations"]
    assert migration["status"] == "applied"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", migration["applied_at"])
    assert database.rows("SELECT run_id, backup_id FROM ratchet.migrations") == [(ran["run_id"], ran["backup"])]


def test_a_failing_file_is_located_and_names_what_stays(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    (checkout / "sql" / "002_ok.sql").write_text("create table ok ();")
    (checkout / "sql" / "003_bad.sql").write_text("create table gone ();\n\n  select emial from app_state;\n")
    failed = invoke_on_database("migrate", status=5)
    assert 'migration 003_bad failed at sql/003_bad.sql:3:10: column "emial" does not exist\n' in failed.stderr
    assert "\n    3 |   select emial from app_state;\n      |          ^\nDETAIL: " in failed.stderr
    assert "001_initial_schema and 002_ok were applied; 003_bad was rolled back." in failed.stderr
    (backup,) = [path.name for path in checkout.glob("backups/dev/hyperpage_dev/*")]
    assert f"The backup taken before this run is {backup}." in failed.stderr
    assert PARTS.search(failed.stderr)
    assert database.rows("SELECT to_regclass('ok') IS NOT NULL, to_regclass('gone')") == [(True, None)]
    again = invoke_on_database("migrate", "--json", status=5).json
    assert again["applied"] == []
    assert again["pending"] == 1
    assert again["error"]["migration"] == "003_bad"
    assert (again["error"]["line"], again["error"]["column"], again["error"]["sqlstate"]) == (3, 10, "42703")


@pytest.mark.parametrize("runners", [2, 20])
def test_runners_started_together_apply_every_file_once(checkout: Path, database: Database, runners: int) -> None:
    for number in range(2, 12):
        (checkout / "sql" / f"{number:03}_t.sql").write_text(f"create table t{number} (); select pg_sleep(0.05);")
    env = environment({"DATABASE_URL": database.url, "MIGRATION_TIMEOUT": "90000"})
    command = [*COMMAND, "migrate", "--json"]
    connected = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with database.connect() as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", (History().lock_key,))
        processes = [
            subprocess.Popen(command, cwd=checkout, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for _ in range(runners)
        ]
        until(lambda: database.rows(connected) == [(runners + 1,)], 80)  # all are there, and none has begun
        holder.execute("SELECT pg_advisory_unlock_all()")
    results = [(process.communicate(timeout=180), process.returncode) for process in processes]
    assert [status for _, status in results] == [0] * runners, results
    assert database.rows("SELECT count(*), count(DISTINCT name), count(DISTINCT run_id) FROM ratchet.migrations") == [
        (11, 11, 1)
    ]
    assert len(list(checkout.glob("backups/dev/hyperpage_dev/*"))) == 1


def test_a_waiver_is_recorded_in_the_history(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    invoke_on_database("migrate", "--without-backup=fresh copy of nothing")
    assert database.rows("SELECT backup_id, backup_waived FROM ratchet.migrations") == [(None, "fresh copy of nothing")]
    assert not (checkout / "backups").exists()


def test_a_failing_backup_exits_9_and_changes_nothing(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    (checkout / "backups").write_text("in the way")
    before = database.fingerprint()
    failed = invoke_on_database("migrate", status=9)
    assert PARTS.search(failed.stderr)
    assert database.fingerprint() == before


def bad(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda clone: (clone / "sql" / name).write_bytes(content)


def inventory(text: str) -> Callable[[Path], object]:
    return lambda clone: (clone / "inventory" / "dev.yml").write_text(text)


DEV = "all: {hosts: {db: {pg_url: \"{{ env('DATABASE_URL') }}\", pg_dbname: x, %s}}}"


@pytest.mark.parametrize(
    ("prepare", "arguments", "status", "expected"),
    [
        (None, ["migrate", "--env=nope"], 2, 'unknown environment "nope"'),
        (inventory(DEV % "pg_user: '{{ nothing }}'"), ["migrate"], 2, "'nothing' is undefined"),
        (inventory(DEV % "pg_prot: 1"), ["migrate"], 2, 'unknown variable "pg_prot". Did you mean pg_port?'),
        (inventory(DEV % "pg_prot: 1, confirm: maybe"), ["migrate"], 2, "2 mistakes"),
        (inventory("all: ["), ["status"], 2, "not YAML"),
        (bad("1_again.sql", b""), ["migrate"], 2, "the same version 1"),
        (bad("add email.sql", b""), ["migrate"], 2, "add email.sql: not the file name of a migration"),
        (bad("002_a.sql", b"select 1;\n\0"), ["migrate"], 2, "a NUL byte at byte 11 (line 2)"),
        (bad("002_a.sql", b"-- caf\xe9"), ["migrate"], 2, "not UTF-8: byte 0xe9"),
        (bad("002_a.sql", b"-- migrate: up\n"), ["migrate"], 2, ':1:1: unknown directive "up"'),
        (bad("002_a.sql", b"select 1;\n BEGIN;"), ["migrate"], 2, "002_a.sql:2:2: BEGIN"),
        (bad("002_a.sql", b"-- todo\n"), ["migrate"], 2, "002_a.sql:1:1: holds no statement"),
        (bad("002_a.sql", b"COMMIT;"), ["migrate"], 2, "002_a.sql:1:1: COMMIT"),
        (bad("002_a.sql", b"\n\nrollback"), ["migrate"], 2, "002_a.sql:3:1: ROLLBACK"),
        (bad("002_a.sql", b"\\connect x"), ["migrate"], 2, "002_a.sql:1:1: a psql meta-command"),
        (None, ["migrate", "--to=nothing"], 2, 'no migration is named "nothing"'),
        (None, ["migrate", "--sql=nowhere"], 2, "no migrations folder nowhere"),
        (None, ["migrate", "--limit=nowhere"], 2, "matches no target of dev"),
        (None, ["migrate", "--without-backup= "], 2, "Write --without-backup=REASON."),
        (None, ["verify", "--backup=nothing"], 9, 'there is no backup "nothing"'),
        (None, ["restore", "--backup=nothing", "--into=x"], 9, 'there is no backup "nothing"'),
        (None, ["rollback"], 2, "there is no rollback"),
        (None, ["render", "--write=notes.txt"], 2, "cannot write a file named"),
        (None, ["new", "!!!"], 2, "gives no file name"),
    ],
)
def test_invalid_input_is_named_in_three_parts_and_changes_nothing(
    invoke_on_database: InvokeOnDatabase,
    checkout: Path,
    database: Database,
    prepare: Callable[[Path], object] | None,
    arguments: list[str],
    status: int,
    expected: str,
) -> None:
    if prepare:
        prepare(checkout)
    before = database.fingerprint()
    failed = invoke_on_database(*arguments, status=status)
    assert expected in failed.stderr
    assert re.search(r"^HINT: .+", failed.stderr, re.MULTILINE)
    assert "invoke.exceptions" not in failed.stderr
    assert database.fingerprint() == before


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"port": "1"}, "port 1"),
        ({"host": "/nowhere"}, "/nowhere"),
        ({"dbname": "nodb"}, 'database "nodb" does not exist'),
        ({"user": "nobody_there"}, "nobody_there"),
    ],
)
def test_an_unreachable_server_exits_10_and_is_named(
    invoke: Invoke, database: Database, change: dict[str, str], expected: str
) -> None:
    elsewhere = Database({**database.parameters, **change})
    failed = invoke("migrate", env={"DATABASE_URL": elsewhere.url}, status=10)
    assert PARTS.search(failed.stderr)
    assert expected in failed.stderr


def test_a_wrong_password_is_not_printed(invoke: Invoke, database: Database) -> None:
    if "password" not in database.parameters:
        pytest.skip("this server asks for no password")
    wrong = Database({**database.parameters, "password": "canary-7f3a"})
    for env in ({}, {"INVOKE_RUN_ECHO": "1"}):
        failed = invoke("migrate", env={"DATABASE_URL": wrong.url, **env}, status=10)
        assert "password authentication failed" in failed.stderr
        assert "The password comes from DATABASE_URL" in failed.stderr
        assert "canary" not in failed.stderr + failed.stdout


def test_a_read_only_server_is_refused(invoke_on_database: InvokeOnDatabase, database: Database) -> None:
    database.run(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
    before = database.fingerprint()
    assert "is read-only" in invoke_on_database("migrate", status=2).stderr
    assert database.fingerprint() == before


def test_a_file_that_stops_part_way_exits_6_and_resumes_there(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    invoke_on_database("migrate")
    file = checkout / "sql" / "002_steps.sql"
    file.write_text("-- migrate: no-transaction\ncreate table once (x int);\ninsert into once values (1 / 0);\n")
    failed = invoke_on_database("migrate", "--json", status=6)
    assert (failed.json["error"]["code"], failed.json["applied"], failed.json["pending"]) == (6, [], 1)
    assert "stopped at statement 2 of 2, sql/002_steps.sql:3:28: division" in failed.stderr
    assert PARTS.search(failed.stderr)
    assert database.rows("SELECT count(*) FROM once") == [(0,)], "the first statement took effect, and stays"
    assert invoke_on_database("status", "--json").json["migrations"][1]["status"] == "unfinished"
    before = database.fingerprint()
    invoke_on_database("migrate", status=6)
    assert database.fingerprint() == before
    file.write_text(file.read_text().replace("1 / 0", "1"))
    assert invoke_on_database("migrate", "--json").json["applied"] == ["002_steps"]
    assert database.rows("SELECT x FROM once") == [(1,)]


@pytest.mark.parametrize(
    ("change", "state", "message"),
    [
        (lambda sql: (sql / "002_b.sql").write_text("create table other ();"), "changed", "-create table b"),
        (lambda sql: (sql / "002_b.sql").unlink(), "missing", "its file is gone"),
        (lambda sql: (sql / "0_late.sql").write_text(""), "out-of-order", "not applied, but the newer"),
    ],
)
def test_a_history_that_disagrees_exits_8_and_is_shown_by_status(
    invoke_on_database: InvokeOnDatabase,
    checkout: Path,
    database: Database,
    change: Callable[[Path], object],
    state: str,
    message: str,
) -> None:
    (checkout / "sql" / "002_b.sql").write_text("create table b ();")
    invoke_on_database("migrate")
    change(checkout / "sql")
    before = database.fingerprint()
    failed = invoke_on_database("migrate", status=8)
    assert message in failed.stderr
    assert PARTS.search(failed.stderr)
    assert state in {m["status"] for m in invoke_on_database("status", "--json").json["migrations"]}
    shown = invoke_on_database("status")
    assert "1 disagreement" in shown.stdout
    assert "HINT: `invoke status --check` shows how files and history differ." in shown.stderr
    invoke_on_database("status", "--check", status=8)
    assert database.fingerprint() == before


def test_reading_tasks_write_nothing(invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database) -> None:
    def files() -> list[Path]:
        return [path for path in sorted(checkout.rglob("*")) if "__pycache__" not in path.parts]

    before = database.fingerprint(), files()
    for task in (["status"], ["status", "--json"], ["backups"], ["render"], ["migrate", "--dry-run"]):
        invoke_on_database(*task)
    assert (database.fingerprint(), files()) == before


def test_render_masks_secrets_on_screen_and_writes_private_files(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    secret = database.parameters.get("password", "")
    shown = invoke_on_database("render").stdout
    assert f"dbname={database.name}" in shown
    assert not secret or secret not in shown
    invoke_on_database("render", "--write=pg_service.conf")
    invoke_on_database("render", "--write=.pgpass")
    if "'" not in secret:
        invoke_on_database("render", "--write=.env")
    for name in ("pg_service.conf", ".pgpass"):
        assert (checkout / name).stat().st_mode & 0o777 == 0o600
    result = subprocess.run(
        [str(embedded.programs() / "psql"), "-XAtc", "SELECT current_database()"],
        env={
            "PATH": os.environ["PATH"],
            "PGSERVICEFILE": str(checkout / "pg_service.conf"),
            "PGPASSFILE": str(checkout / ".pgpass"),
            "PGSERVICE": "hyperpage_dev",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.strip() == database.name, result.stderr


def test_confirmation_needs_a_terminal_or_yes(invoke_on_database: InvokeOnDatabase, checkout: Path) -> None:
    dev = checkout / "inventory" / "dev.yml"
    dev.write_text(dev.read_text() + "      confirm: true\n")
    refused = invoke_on_database("migrate", status=2)
    assert "dev was not confirmed" in refused.stderr
    assert invoke_on_database("status", "--json").json["applied"] == 0
    invoke_on_database("migrate", "--yes")
    assert invoke_on_database("status", "--json").json["applied"] == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_cancels_the_statement_and_frees_the_lock(
    checkout: Path, database: Database, number: signal.Signals, status: int
) -> None:
    (checkout / "sql" / "002_slow.sql").write_text("create table slow (); select pg_sleep(20);")
    command = [*COMMAND, "migrate", "--json"]
    env = environment({"DATABASE_URL": database.url})
    process = subprocess.Popen(
        command, cwd=checkout, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    deadline = time.monotonic() + 30
    while database.rows(sleeping) != [(1,)]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=10)
    assert process.returncode == status, stderr
    assert json.loads(stdout)["error"]["code"] == status
    assert json.loads(stdout)["applied"] == ["001_initial_schema"]
    assert "001_initial_schema was applied and stays." in stderr
    assert database.rows("SELECT name FROM ratchet.migrations") == [("001_initial_schema",)]
    assert "Traceback" not in stderr
    assert database.rows(sleeping) == [(0,)]
    assert database.locks() == []
    assert database.rows("SELECT to_regclass('slow')") == [(None,)]


def on_terminal(clone: Path, columns: int, env: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Run invoke on a pseudo-terminal. Returns the status and the output."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(clone)
        os.execve(
            COMMAND[0], [*COMMAND, *arguments], environment({"TERM": "xterm-256color", "COLUMNS": str(columns), **env})
        )
    written = b""
    while True:
        ready, _, _ = select.select([terminal], [], [], 60)
        try:
            chunk = os.read(terminal, 65536) if ready else b""
        except OSError:
            chunk = b""
        if not chunk:
            break
        written += chunk
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), written.decode()


COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9]m")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.mark.parametrize("columns", [80, 200])
def test_a_terminal_gets_colour_and_a_table_that_fits(checkout: Path, database: Database, columns: int) -> None:
    env = {"DATABASE_URL": database.url}
    status, migrated = on_terminal(checkout, columns, env, "migrate")
    assert status == 0
    assert "applied 001_initial_schema" in ESCAPE.sub("", migrated)
    status, shown = on_terminal(checkout, columns, env, "status")
    assert COLOUR.search(shown)
    assert max(len(ESCAPE.sub("", line).rstrip()) for line in shown.splitlines()) <= columns


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_color_and_dumb_terminals_get_no_colour(checkout: Path, database: Database, env: dict[str, str]) -> None:
    variables = {"DATABASE_URL": database.url, **env}
    written = "".join(on_terminal(checkout, 80, variables, task)[1] for task in ("migrate", "status"))
    assert "001_initial_schema" in written
    assert not COLOUR.search(written)
    if "TERM" in env:
        assert "\x1b" not in written


def test_a_pipe_gets_plain_text(invoke_on_database: InvokeOnDatabase) -> None:
    ran = invoke_on_database("migrate")
    shown = invoke_on_database("status")
    assert "\x1b" not in ran.stdout + ran.stderr + shown.stdout + shown.stderr
    assert "001_initial_schema  applied" in shown.stdout


def test_libpq_variables_and_files_do_not_redirect_a_run(
    invoke_on_database: InvokeOnDatabase, database: Database
) -> None:
    stray = {"PGHOSTADDR": "127.0.0.9", "PGOPTIONS": "-c datestyle=German", "PGDATABASE": "x", "PGSERVICE": "y"}
    assert invoke_on_database("migrate", "--json", env=stray).json["applied"] == ["001_initial_schema"]
    assert database.rows("SELECT count(*) FROM ratchet.migrations") == [(1,)]
