"""The scenarios in which the manual's commands run, and the comparison of what they print with what the page shows."""

from __future__ import annotations

import difflib
import getpass
import os
import pty
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path

from pgratchet import embedded
from tests import ROOT
from tests.docs.pages import RunCommand, Scenario, Step, WriteFile, page_name
from tests.hosts.local_sshd import running_local_sshd
from tests.servers.clusters import Clusters
from tests.support.invoke import environment

_HOST = "db.example.com"
"""The host of the manual's databases. In files and commands the test's own server takes its place."""

_ADDRESS = f"127.{os.getpid() % 250}.8.9"
_WITHOUT_TLS = [("pg_sslmode: verify-full", "pg_sslmode: disable"), ("pg_sslrootcert: system", "pg_connect_timeout: 9")]

_AS_WITH_TLS = [
    ("sslmode=disable\n", "sslmode=verify-full\nsslrootcert=system\n"),
    ("sslmode=disable", "sslmode=verify-full"),
    ("connect_timeout=9\n", "connect_timeout=10\n"),
    (", not encrypted", ", encrypted"),
]
"""What is printed without TLS, and what the reader sees with it."""

_ID = re.compile(r"\b\d{8}T\d{6}-[0-9a-f]{4}\b")
"""The id of a backup."""

_MASKS = [
    (_ID, "ID"),
    (re.compile(r"\b\d{8}T\d{6}_"), "VERSION_"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d| UTC)?"), "TIME"),
    (re.compile(r"(?<!\d)\d{14}(?!\d)"), "STAMP"),
    (re.compile(r"\b[67]\d{18}\b"), "IDENTIFIER"),
    # The folder of a server, or of its socket, which lies elsewhere when the path would be too long.
    (re.compile(r"(?<=[/=])[\w.%/-]*pgratchet((/|%2F)\w+|-\d+)-[0-9a-f]{8}((/|%2F)socket)?"), "SERVER"),
    (
        re.compile(r"(\b\d+(\.\d+)? (ms|s|min|h|minutes?|seconds?|hours?)|(?<=the last )(second|minute|hour))\b"),
        "DURATION",
    ),
    (re.compile(r"\bin \d+\.\d+s\b"), "in DURATION"),
    (re.compile(r"\b\d+(\.\d+)? (B|kB|MB|GB)(?!\w)"), "SIZE"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "HASH"),
    (re.compile(r"\b(?=[0-9]*[a-f])(?=[a-f]*[0-9])[0-9a-f]{12}\b"), "RUN"),
    (re.compile(r"\bSHA256:[\w+/]{43}"), "FINGERPRINT"),
    (re.compile(r"\b1[4-9]\.\d+\b"), "VERSION"),
    (re.compile(r"\bpid \d+\b"), "pid N"),
    (re.compile(r'"run_id": "[0-9a-f]{12}"'), '"run_id": "RUN"'),
    (re.compile(r'"duration_ms": \d+'), '"duration_ms": N'),
    (re.compile(r" {2,}"), "  "),
    (re.compile(r"[─━]{2,}"), "──"),
]


def masked(text: str) -> str:
    """The text without what differs from run to run: ids, times, durations, sizes, versions and widths."""
    for pattern, replacement in _MASKS:
        text = pattern.sub(replacement, text)
    return text.strip()


def same_output(shown: list[str], printed: str) -> str:
    """Compare the lines of a page with what was printed; a line `...` stands for any lines. Returns the difference."""
    expected = [masked(line) for line in shown if line.strip()]
    actual = [masked(line) for line in printed.splitlines() if line.strip()]
    pattern = "\n".join(r"(?:.*(?:\n|\Z))*?.*" if line == "..." else re.escape(line) for line in expected)
    if re.fullmatch(pattern, "\n".join(actual)):
        return ""
    return "\n".join(difflib.unified_diff(expected, actual, "in the page", "printed", lineterm="", n=9))


class Shell:
    """A shell in a scenario's folder. Variables and the working directory last from command to command."""

    def __init__(self, folder: Path, environ: Mapping[str, str], address: str) -> None:
        """`address` is the server's, in the place of the manual's host."""
        self.folder, self.address = folder, address
        self.names: dict[str, str] = {}  # further names of the manual, and what takes their place
        self.sshd = ""  # a pattern for the addresses of the sshd, which errors name
        self.ids: dict[str, str] = {}  # the ids of backups: as the page shows them, and as they were printed
        self.state = folder.parent / "state"
        exports = [f"export {name}={shlex.quote(value)}" for name, value in environ.items()]
        self.state.write_text("\n".join([*exports, f"cd {shlex.quote(str(folder))}"]), "utf-8")

    def here(self, text: str) -> str:
        """The manual's text for the test's own server."""
        for shown, own in _WITHOUT_TLS:
            text = text.replace(shown, own)
        text = _ID.sub(lambda match: self.ids.get(match[0], match[0]), text)
        for shown, own in self.names.items():
            text = text.replace(shown, own)
        return text.replace(_HOST, self.address)

    def shown(self, text: str) -> str:
        """What was printed, as the manual has it."""
        for shown, own in (*self.names.items(), *self.ids.items()):
            text = text.replace(own, shown)
        for own, shown in _AS_WITH_TLS:
            text = text.replace(own, shown)
        text = re.sub(self.sshd, _HOST, text) if self.sshd else text
        text = text.replace(str(embedded.programs()), "/usr/lib/postgresql/18/bin")
        text = text.replace(self.address, _HOST).replace(str(self.folder), "/home/you/shop")
        return text.replace(str(self.folder.parent), "/home/you")

    def prepare(self, command: str) -> None:
        """Run a command that no page shows."""
        status, printed = _in_terminal(["bash", "-c", f". {shlex.quote(str(self.state))}\n{self.here(command)}"], "")
        assert status == 0, f"{command}\nexited {status}:\n{printed}"

    def write(self, step: WriteFile) -> None:
        path = self.folder / step.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.here(step.text), "utf-8")

    def run(self, step: RunCommand) -> None:
        """Run a command in a terminal and check its status and output."""
        status, printed = self.execute(step)
        where = f"{page_name(step.page)}:{step.line}: {step.command}"
        assert status == step.status, f"{where}\nexited {status} instead of {step.status}:\n{printed}"
        if step.output is not None:
            difference = same_output(step.output, printed)
            assert not difference, f"{where}\n{difference}"
            self.learn_ids("\n".join(step.output), printed)

    def learn_ids(self, shown: str, printed: str) -> None:
        """Pair the ids in a page's output with the printed ones, so that later commands can name them."""
        pairs = _ID.findall(shown), _ID.findall(printed)
        if len(pairs[0]) == len(pairs[1]):
            self.ids = dict(zip(*pairs, strict=True)) | self.ids

    def execute(self, step: RunCommand) -> tuple[int, str]:
        """Run a command in a terminal. Returns its status and what it printed, as the manual has it."""
        state = shlex.quote(str(self.state))
        keep = f'status=$?; {{ export -p; echo "cd $(printf %q "$PWD")"; }} > {state}; exit $status'
        status, printed = _in_terminal(["bash", "-c", f". {state}\n{self.here(step.command)}\n{keep}"], step.typed)
        return status, self.shown(printed)


def _in_terminal(command: list[str], typed: str) -> tuple[int, str]:
    """Run a command with a terminal of 100 columns as its input and output; returns its status and what it printed.

    `typed` is typed at the first prompt, so that the terminal echoes it there.
    """
    mine, theirs = pty.openpty()
    environ = {"PATH": os.environ["PATH"], "COLUMNS": "100", "LINES": "40", "TERM": "dumb", "LC_ALL": "C.UTF-8"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ, start_new_session=True)
    os.close(theirs)
    timer = threading.Timer(180, process.kill)
    timer.start()
    parts = []
    try:
        while part := os.read(mine, 65536):
            parts.append(part)
            if typed and part.endswith(b": "):
                os.write(mine, typed.encode())
                typed = ""
    except OSError:  # Linux: the other side of a terminal is closed
        pass
    finally:
        status = process.wait()  # a program can close its output before it ends, and closing the terminal hangs it up
        timer.cancel()
        os.close(mine)
    return status, b"".join(parts).decode("utf-8", "replace").replace("\r\n", "\n")


class Scenarios:
    """Starts scenarios. Each has a folder `shop` of its own, and ends with the next one.

    A scenario's name is a list of words:

    empty      an empty Git repository
    project    after `pgratchet init`
    example    after `pgratchet init --example=hyperpage`
    server     with a PostgreSQL at db.example.com, which has the database `shop` and its owner `shop_owner`; psql
               needs no password there
    ssh        with an sshd on that host; PostgreSQL's socket is in /var/run/postgresql there, the home is /home/deploy
    """

    def __init__(self, folder: Path, clusters: Clusters, kind: type[Shell] = Shell) -> None:
        """`kind` is the class of the shells."""
        self.folder, self.clusters, self.kind, self._count = folder, clusters, kind, 0

    @contextmanager
    def start(self, name: str) -> Iterator[Shell]:
        words = set(name.split())
        assert words <= {"empty", "project", "example", "server", "ssh"}, f"unknown scenario: {name}"
        self._count += 1
        folder = self.folder / str(self._count) / "shop"
        folder.mkdir(parents=True)
        shell = self.kind(folder, _environment(folder.parent), _ADDRESS)
        running = ExitStack()
        try:
            if "server" in words:
                self._make_production(shell)
            if "ssh" in words:
                running.enter_context(_sshd(folder.parent, shell))
            shell.prepare("git init -q -b main .")
            if words & {"project", "example"}:
                shell.prepare("pgratchet init" + (" --example=hyperpage" if "example" in words else ""))
                production = folder / "inventory/prod.yml"
                production.write_text(shell.here(production.read_text("utf-8")), "utf-8")
            yield shell
        finally:
            shell.prepare("test ! -e .pgratchet || pgratchet down --env=dev --remove --yes")
            running.close()
            self.clusters.remove()

    def _make_production(self, shell: Shell) -> None:
        cluster = self.clusters.make(f"production{self._count}", address=_ADDRESS)
        shell.names["/var/run/postgresql"] = str(cluster.server.socket_folder)
        with cluster.database.connect() as session:
            session.autocommit = True
            session.execute("CREATE ROLE shop_owner LOGIN CREATEDB PASSWORD 'secret'")
            session.execute("CREATE ROLE shop_app LOGIN PASSWORD 'secret'")
            session.execute("CREATE DATABASE shop OWNER shop_owner")
            access = cluster.server.data / "pg_hba.conf"
            access.write_text("host all shop_owner,shop_app all scram-sha-256\n" + access.read_text("utf-8"), "utf-8")
            session.execute("SELECT pg_reload_conf()")


@contextmanager
def _sshd(home: Path, shell: Shell) -> Iterator[None]:
    """Run an sshd, and describe it in the user's ~/.ssh as the host of the manual and as bastion.example.com."""
    folder, user = home / "host", home / ".ssh"
    folder.mkdir()
    user.mkdir(mode=0o700)
    with running_local_sshd(folder) as sshd:
        options = f" HostName 127.0.0.1\n Port {sshd.port}\n User {getpass.getuser()}\n IdentityFile {sshd.key}\n"
        (user / "config").write_text(f"Host {_ADDRESS} bastion.example.com\n{options}")
        (user / "known_hosts").write_text(sshd.known_hosts.read_text())
        shell.names["/home/deploy"] = str(folder)
        shell.sshd = rf"\[?\b127\.0\.0\.1\b\]?(:{sshd.port})?"
        yield


_PGRATCHET = f"""#!{sys.executable}
import sys
sys.path.insert(0, {str(ROOT / "ops")!r})
from pgratchet.program import main
main()
"""
"""The console script, of this checkout, whether or not the package is installed."""


def _plugin() -> dict[str, str]:
    """The variable that loads the pytest plugin where no installed package does."""
    installed = {point.name for point in metadata.entry_points(group="pytest11")}
    return {} if "pgratchet" in installed else {"PYTEST_PLUGINS": "pgratchet.testing.pytest_plugin"}


def _environment(home: Path) -> dict[str, str]:
    """The variables of a user with an empty home, whose PATH has the tool, PostgreSQL's programs and `pass`."""
    programs = home / "bin"
    programs.mkdir()
    for name, text in (("pass", "#!/bin/sh\necho secret\n"), ("pgratchet", _PGRATCHET)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    git = "[user]\n name = You\n email = you@example.com\n"
    (home / ".gitconfig").write_text(git)
    (home / "psql.pgpass").write_text("*:*:*:*:secret\n")
    (home / "psql.pgpass").chmod(0o600)
    folders = [str(programs), str(Path(sys.executable).parent), str(embedded.programs()), os.environ["PATH"]]
    return {
        **environment({}),
        **_plugin(),
        "PYTHONPATH": str(ROOT / "ops"),
        "HOME": str(home),
        "PATH": os.pathsep.join(folders),
        "NO_COLOR": "1",
        "PAGER": "cat",
        "TERM": "dumb",
        "COLUMNS": "100",
        "PROD_PASSWORD": "secret",
        "PGPASSFILE": str(home / "psql.pgpass"),
        "SUPERUSER": f"postgresql://{embedded.USER}@{_ADDRESS}/shop",  # for commands that no page shows
    }


def run_page(steps: list[Step], scenarios: Scenarios) -> None:
    """Run a page's steps, scenario by scenario."""
    with ExitStack() as current:
        shell: Shell | None = None
        for step in steps:
            if isinstance(step, Scenario):
                current.close()
                shell = current.enter_context(scenarios.start(step.name))
            elif isinstance(step, WriteFile):
                assert shell
                shell.write(step)
            elif isinstance(step, RunCommand):
                assert shell
                shell.run(step)
