"""Liquibase, from npm, with all libraries except Java itself."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.other_tools import histories
from tests.other_tools.sample import SampleMigration
from tests.other_tools.tool import OtherTool, npm, put, run
from tests.servers.databases import Database

_JARS = ("liquibase-core", "commons-*", "jaxb-*", "opencsv", "picocli", "postgresql", "snakeyaml")
_MAIN = "liquibase.integration.commandline.LiquibaseCommandLine"


class Liquibase(OtherTool):
    """Changesets in SQL, one per file. The npm package 4.28.1 holds Liquibase 4.28.0."""

    name = "liquibase"
    version = "4.28.1"
    programs = ("java", "npm")
    files = "changelog"
    history = histories.LIQUIBASE

    def fetch(self, home: Path) -> None:
        """Keep only the needed files; the others are drivers for other databases."""
        npm(home, f"liquibase@{self.version}")
        (home / "lib").mkdir()
        brought = home / "node_modules" / "liquibase" / "dist" / "liquibase" / "internal" / "lib"
        for pattern in _JARS:
            for jar in brought.glob(f"{pattern}.jar"):
                jar.rename(home / "lib" / jar.name)
        shutil.rmtree(home / "node_modules")

    def write(self, project: Path, steps: Sequence[SampleMigration]) -> None:
        for step in steps:
            put(project / self.files / f"{step.number:03d}_{step.name}.sql", _changesets(step))
        includes = "".join(f"  - include:\n      file: {self.files}/{s.number:03d}_{s.name}.sql\n" for s in steps)
        put(project / "changelog.yaml", f"databaseChangeLog:\n{includes}")

    def migrate(self, project: Path, database: Database, *options: str) -> None:
        java = ("java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", str(self.home() / "lib" / "*"), _MAIN)
        with _by_tcp(database) as port:
            variables = {
                "LIQUIBASE_COMMAND_URL": f"jdbc:postgresql://127.0.0.1:{port}/{database.name}?sslmode=disable",
                "LIQUIBASE_COMMAND_USERNAME": database.parameters["user"],
            }
            run(
                (*java, "--show-banner=false", "update", "--changelog-file=changelog.yaml", *options),
                project,
                variables,
            )


def _changesets(step: SampleMigration) -> str:
    """One changeset per statement. The first is for another database."""
    parts = ["--liquibase formatted sql\n", "--changeset mover:0 dbms:mysql\nCREATE TABLE nowhere (id int);\n"]
    for number, statement in enumerate(step.statements, 1):
        # Comments too: left to itself it takes them out, even of a function's body.
        options = " splitStatements:false stripComments:false" if "$" in statement else ""
        options += "" if step.transactional else " runInTransaction:false"
        parts.append(f'--changeset "a mover":{step.name}-{number}{options}\n{statement};\n')
    return "\n".join(parts)


@contextmanager
def _by_tcp(database: Database) -> Iterator[int]:
    """A loopback port that leads to the server's Unix socket, which Java's driver does not support."""
    path = str(Path(database.parameters["host"]) / f".s.PGSQL.{database.parameters['port']}")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve, args=(listener, path), daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket, path: str) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            server = socket.socket(socket.AF_UNIX)
            server.connect(path)
            for ends in ((client, server), (server, client)):
                threading.Thread(target=_carry, args=ends, daemon=True).start()


def _carry(source: socket.socket, target: socket.socket) -> None:
    """Forward one direction. Each thread closes the socket that it reads from."""
    with source, suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
