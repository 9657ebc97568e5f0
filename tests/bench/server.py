"""The server that the benchmark runs on, and its databases: made outside of what is timed, dropped behind it.

By default one of the PostgreSQL that comes with the package, its disk settings as initdb leaves them, fsync
included. It listens on the loopback too, which the peers need, and so asks for a password, made up for this run:
without one, any user of the machine could run programs as the server's for as long as it is there.
BENCH_DATABASE_URL names another server, whose role may create databases; over TCP, for the delayed line.
"""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql

from pgratchet import embedded
from pgratchet.database import connection
from pgratchet.errors import ConfigurationError

_NO_URL = "BENCH_DATABASE_URL cannot be used"


@dataclass(frozen=True, slots=True)
class BenchDatabase:
    """Where a database is. TLS is off unless the URL says otherwise: the package's own psql has none."""

    host: str
    port: int
    user: str
    password: str
    name: str
    options: tuple[tuple[str, str], ...] = (("sslmode", "disable"),)

    def url(self, scheme: str = "postgresql", *, password: bool = True) -> str:
        secret = f":{quote(self.password, safe='')}" if password and self.password else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        path = f"{host}:{self.port}/{quote(self.name, safe='')}?{urlencode(self.options)}"
        return f"{scheme}://{quote(self.user, safe='')}{secret}@{path}"

    def by(self, port: int) -> BenchDatabase:
        """The same, by another port of the loopback."""
        return replace(self, host="127.0.0.1", port=port)

    def connect(self) -> psycopg.Connection:
        return connection.connect(connection.parse_url(self.url()), application_name="benchmark")

    def number(self, query: str) -> int:
        """The one number that a query returns."""
        with self.connect() as session:
            row = session.execute(query.encode()).fetchone()
        return int(row[0]) if row else 0


@dataclass(slots=True)
class BenchServer:
    """A server by its maintenance database; `created` are those that are still to be dropped."""

    maintenance: BenchDatabase
    version: str
    created: list[str] = field(default_factory=list)

    def create(self) -> BenchDatabase:
        """An empty database. What earlier runs left to be written is written first, so that no one pays for it."""
        name = f"bench_{secrets.token_hex(6)}"
        self.created.append(name)
        with self.maintenance.connect() as session:
            session.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
            with suppress(psycopg.errors.InsufficientPrivilege):
                session.execute("CHECKPOINT")
        return replace(self.maintenance, name=name)

    def drop(self, name: str) -> None:
        with self.maintenance.connect() as session:
            session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        self.created.remove(name)


@contextmanager
def running() -> Iterator[BenchServer]:
    """The server for the block; every database of the benchmark is dropped behind it."""
    url = os.environ.get("BENCH_DATABASE_URL")
    with _throwaway() if not url else _given(url) as maintenance:
        with maintenance.connect() as session:
            row = session.execute("SHOW server_version").fetchone()
        server = BenchServer(maintenance, str(row[0]).split()[0] if row else "?")
        try:
            yield server
        finally:
            for name in list(server.created):
                server.drop(name)


@contextmanager
def _given(url: str) -> Iterator[BenchDatabase]:
    parts = connection.parse_url(url)
    host = parts.pop("host", "localhost")
    if host.startswith("/") or "," in host:
        raise ConfigurationError(_NO_URL, detail="It does not lead to one host over TCP.", hint="Name one host.")
    known = {key: parts.pop(key, "") for key in ("port", "user", "password", "dbname")}
    options = {"sslmode": "disable", **parts}
    yield BenchDatabase(
        host,
        int(known["port"] or 5432),
        known["user"] or "postgres",
        known["password"],
        known["dbname"] or "postgres",
        tuple(options.items()),
    )


@contextmanager
def _throwaway() -> Iterator[BenchDatabase]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        server = embedded.locate(Path(folder), "bench", make=True)
        try:
            with embedded.locked(server):
                embedded.initialise(server)
            yield _start(server)
        finally:
            # Its port is not the one by which `embedded.remove` would know that it runs.
            embedded.run_program("pg_ctl", "stop", "-D", str(server.data), "-m", "immediate", "-w")
            embedded.remove(server)


def _start(server: embedded.Server) -> BenchDatabase:
    """Start it on a free port, and set the password by the socket, which is its owner's alone."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (server.data / "pg_hba.conf").write_text("local all all trust\nhost all all 127.0.0.1/32 password\n")
    options = f"-c listen_addresses=127.0.0.1 -c unix_socket_directories='{server.socket_folder}' -p {port}"
    embedded.run_checked(
        server, "start", "pg_ctl", "start", "-D", str(server.data), "-l", str(server.log), "-o", options, "-w"
    )
    password = secrets.token_hex(16)
    local = {**server.parameters(), "port": str(port), "dbname": "postgres"}
    with connection.connect(local) as session:
        session.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(embedded.USER), password))
    return BenchDatabase("127.0.0.1", port, embedded.USER, password, "postgres")
