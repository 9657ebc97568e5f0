"""A known password, in every place that may hold a password, is searched in every place that must not.

The search is for its middle part, which no quoting changes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest
from psycopg import sql

from pgratchet.database import connection
from pgratchet.errors import Unreachable
from tests.servers.databases import Database, Server
from tests.support.invoke import COMMAND, ProcessResult, environment

CANARY = "c4n4ry7f3a"
PASSWORD = f"'\"\\ :@/?#%24$(id)`é{CANARY}{{{{x}}}};&=*\\"
"""All that means something to a shell, a URL, a .pgpass, a template, SQL or JSON."""
ROLE = "canary_owner"
TRACED = {"INVOKE_RUN_ECHO": "1", "INVOKE_DEBUG": "1"}


@dataclass
class ObservedProcesses:
    """The arguments and variables of the child processes of a process, by program."""

    arguments: dict[str, set[bytes]] = field(default_factory=dict)
    variables: dict[str, set[bytes]] = field(default_factory=dict)

    @property
    def programs(self) -> set[str]:
        return set(self.arguments)

    def leaks(self) -> list[str]:
        both = ((kind, each) for kind in (self.arguments, self.variables) for each in kind.items())
        return [program for _, (program, texts) in both if any(CANARY.encode() in text for text in texts)]

    def look(self, pid: int) -> None:
        """Read /proc without pauses, because a child may last only milliseconds.

        A child that has not yet called exec has the arguments of its parent and is left out.
        """
        with suppress(OSError):
            parent = Path("/proc", str(pid), "cmdline").read_bytes()
            for child in _children(pid):
                folder = Path("/proc", str(child))
                arguments, variables = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
                if arguments != parent:
                    program = os.path.basename(arguments.partition(b"\0")[0]).decode()  # noqa: PTH119
                    self.arguments.setdefault(program, set()).add(arguments)
                    self.variables.setdefault(program, set()).add(variables)
                    self.look(child)


def _children(pid: int) -> list[int]:
    try:
        lists = [path.read_text() for path in Path("/proc", str(pid), "task").glob("*/children")]
    except OSError:
        return []
    return [int(each) for text in lists for each in text.split()]


def watched(command: list[str], cwd: Path, env: Mapping[str, str]) -> tuple[ProcessResult, ObservedProcesses]:
    """Run a command. Returns its result and its observed child processes."""
    process = subprocess.Popen(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    observed, done = ObservedProcesses(), threading.Event()

    def look() -> None:
        while not done.wait(0.001):
            observed.look(process.pid)

    thread = threading.Thread(target=look)
    thread.start()
    stdout, stderr = process.communicate(timeout=60)
    done.set()
    thread.join()
    return ProcessResult(process.returncode, stdout, stderr), observed


@pytest.fixture
def database_with_secret(server: Server) -> Iterator[Database]:
    """A database whose owner has the known password."""
    database = server.create()
    with connection.connect(server.parameters) as session:
        create = "CREATE ROLE {} LOGIN SUPERUSER PASSWORD {}"
        session.execute(sql.SQL(create).format(sql.Identifier(ROLE), sql.Literal(PASSWORD)))
    yield Database({**database.parameters, "user": ROLE, "password": PASSWORD})
    server.drop(database)
    with connection.connect(server.parameters) as session:
        session.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(ROLE)))


def by_url(database: Database, clone: Path, outside: Path) -> dict[str, str]:
    p = database.parameters
    secret = quote(PASSWORD, safe="")
    return {
        "DATABASE_URL": f"postgresql://{ROLE}:{secret}@/{p['dbname']}?host={quote(p['host'], safe='')}&port={p['port']}"
    }


def by_variable(database: Database, clone: Path, outside: Path) -> dict[str, str]:
    p = database.parameters
    place = {"HOST": p["host"], "PORT": p["port"], "DB": p["dbname"], "USER": ROLE, "PASSWORD": PASSWORD}
    return {f"POSTGRES_{name}": value for name, value in place.items()}


def by_command(database: Database, clone: Path, outside: Path) -> dict[str, str]:
    (outside / "secret").write_text(PASSWORD + "\n")
    dev = clone / "inventory" / "dev.yml"
    command = f"password_command: [cat, {outside / 'secret'}]"
    dev.write_text(
        "\n".join(command.join(("      ", "")) if "pg_password" in x else x for x in dev.read_text().split("\n"))
    )
    variables = by_variable(database, clone, outside)
    del variables["POSTGRES_PASSWORD"]
    return variables


PasswordSource = Callable[[Database, Path, Path], dict[str, str]]
SOURCES: tuple[PasswordSource, ...] = (by_url, by_variable, by_command)


@pytest.fixture
def outside_checkout(tmp_path: Path) -> Path:
    """A folder outside the checkout, for temporary files and for the user's own secrets."""
    folder = tmp_path / "outside"
    (folder / "temporary").mkdir(parents=True)
    return folder


def holding(folder: Path) -> list[str]:
    return [str(p) for p in folder.rglob("*") if p.is_file() and CANARY.encode() in p.read_bytes()]


def test_the_observation_finds_a_secret(tmp_path: Path) -> None:
    for arguments, variables in (([CANARY], {}), ([], {"X": CANARY}), ([], {"X": "none"})):
        program = f"import subprocess; subprocess.run(['sh', '-c', 'sleep 0.1; true', *{arguments}], env={variables})"
        _, observed = watched([sys.executable, "-c", program], tmp_path, environment({}))
        assert observed.programs >= {"sh", "sleep"}
        assert ("sh" in observed.leaks()) is (CANARY in program)


@pytest.mark.parametrize("source", SOURCES)
def test_a_password_reaches_the_server_and_nothing_else(
    checkout: Path, database_with_secret: Database, outside_checkout: Path, source: PasswordSource
) -> None:
    variables = source(database_with_secret, checkout, outside_checkout)
    env = environment({**variables, **TRACED, "TMPDIR": str(outside_checkout / "temporary")})
    assert CANARY in "".join([*variables.values(), *(p.read_text() for p in outside_checkout.glob("secret"))]), (
        "it is in there"
    )
    (checkout / "sql" / "002_more.sql").write_text(
        "create table more as select repeat('x', 900) from generate_series(1, 9999)"
    )
    programs: set[str] = set()

    def run(*arguments: str, status: int = 0) -> ProcessResult:
        done, observed = watched([*COMMAND, "-d", *arguments], checkout, env)
        assert done.status == status, done.stderr[-300:]
        assert CANARY not in done.stdout + done.stderr, arguments
        assert observed.leaks() == [], arguments
        assert holding(checkout) == holding(outside_checkout / "temporary") == [], arguments
        programs.update(observed.programs)
        return done

    backup = run("migrate", "--json").json["backup"]
    assert "********" in run("render").stdout
    run("restore", f"--backup={backup}", f"--into={database_with_secret.name}_r")
    database_with_secret.run(f"DROP DATABASE {database_with_secret.name}_r")
    assert programs >= {"pg_dump", "pg_restore"}
    (checkout / "sql" / "003_bad.sql").write_text("select emial")
    run("migrate", "--json", status=5)
    (checkout / "sql" / "003_bad.sql").unlink()
    rows = database_with_secret.rows("SELECT m::text FROM ratchet.migrations AS m")
    assert len(rows) == 2
    assert CANARY not in str(rows)
    written = subprocess.run(
        [*COMMAND, "render", f"--write={outside_checkout}/pgpass"], cwd=checkout, env=env, capture_output=True
    )
    assert CANARY in (outside_checkout / "pgpass").read_text(), "unmasked it would have shown"
    assert CANARY.encode() not in written.stdout + written.stderr


FAILURES: dict[str, tuple[dict[str, str], int]] = {
    "a wrong port": ({"DATABASE_URL": f"postgresql://u:{CANARY}@127.0.0.1:1/d"}, 10),
    "an @ that is not encoded": ({"DATABASE_URL": f"postgresql://u:p@{CANARY}@127.0.0.1:1/d"}, 2),
    "a ? that is not encoded": ({"DATABASE_URL": f"postgresql://u:{CANARY}?host=p@127.0.0.1:1/d"}, 10),
    "a ? and an @ that are not": ({"DATABASE_URL": f"postgresql://u:p?p@{CANARY}@127.0.0.1:1/d"}, 2),
    "a % that is not encoded": ({"DATABASE_URL": f"postgresql://u:{CANARY}%zz@127.0.0.1:1/d"}, 2),
    "a parameter that cannot be used": ({"DATABASE_URL": f"postgresql://u@h/d?passfile={CANARY}"}, 2),
    "a line end": ({"POSTGRES_PASSWORD": f"x\n{CANARY}", "POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": "1"}, 10),
    "as a port": ({"POSTGRES_PASSWORD": "x", "POSTGRES_PORT": CANARY}, 2),
}


def test_failures_do_not_show_the_password(checkout: Path, outside_checkout: Path) -> None:
    for kind, (variables, status) in FAILURES.items():
        assert CANARY in str(variables)
        env = environment({**variables, **TRACED, "TMPDIR": str(outside_checkout / "temporary")})
        done, observed = watched([*COMMAND, "-d", "migrate", "--json"], checkout, env)
        assert done.status == status, f"{kind}: {done.stderr[-300:]}"
        assert CANARY not in done.stdout + done.stderr, kind
        assert done.json["error"]["hint"], kind
        assert observed.leaks() == holding(checkout) == holding(outside_checkout) == [], kind


def test_a_failing_password_command_does_not_show_its_output(checkout: Path, outside_checkout: Path) -> None:
    dev = checkout / "inventory" / "dev.yml"
    sound = dev.read_text()
    for script in (f"echo {CANARY}; exit 1", f"echo {CANARY}; echo {CANARY}"):
        (outside_checkout / "command").write_text(script)
        printed = subprocess.run(["sh", str(outside_checkout / "command")], capture_output=True)
        assert CANARY.encode() in printed.stdout
        dev.write_text(f"{sound}      password_command: [sh, {outside_checkout / 'command'}]\n")
        env = environment({"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": "1", **TRACED})
        done, _ = watched([*COMMAND, "-d", "migrate", "--json"], checkout, env)
        assert done.status == 10
        assert "returned no password" in done.stderr
        assert CANARY not in done.stdout + done.stderr, script


def test_a_refused_password_is_not_shown(
    checkout: Path, server: Server, database_with_secret: Database, outside_checkout: Path
) -> None:
    wrong = Database({**database_with_secret.parameters, "password": f"not {CANARY}"})
    if "password" not in server.parameters:
        pytest.skip("this server asks for no password")
    with pytest.raises(Unreachable, match="cannot connect"):
        wrong.connect()
    before = database_with_secret.fingerprint()
    env = environment(
        {
            **by_variable(database_with_secret, checkout, outside_checkout),
            "POSTGRES_PASSWORD": f"not {CANARY}",
            **TRACED,
        }
    )
    done, observed = watched([*COMMAND, "-d", "migrate", "--json"], checkout, env)
    assert (done.status, done.json["error"]["code"]) == (10, 10)
    assert "password authentication failed" in done.stderr
    assert CANARY not in done.stdout + done.stderr
    assert observed.leaks() == []
    assert database_with_secret.fingerprint() == before
