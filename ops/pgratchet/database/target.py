"""One target: where its backups are kept, how to connect to it, and how libpq's programs connect to it.

Credentials reach pg_dump and other libpq programs through in-memory files where the system supports them, so that no
secret is written to disk. libpq reads a password file only when it is a regular file that no other user can read
(https://www.postgresql.org/docs/current/libpq-pgpass.html); an in-memory file is one.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pgratchet.database.identity import Identity, OtherNames
from pgratchet.variables import StorageVariables, Variables

if TYPE_CHECKING:
    from psycopg import Connection

    from pgratchet.database.history import History


@dataclass(frozen=True)
class Origins:
    """Where the settings of a connection come from, in words for a hint and without values; empty when unknown.

    `server_variable` is the environment variable without which the bundled PostgreSQL would be used.
    """

    password: str = ""
    host: str = ""
    user: str = ""
    database: str = ""
    server_variable: str = ""


@dataclass(frozen=True)
class TargetStorage:
    """A target whose connection settings are not needed: only its backups, or its host, are."""

    environment: str
    target: str
    variables: StorageVariables


@dataclass(frozen=True)
class Target(TargetStorage, ABC):
    """A target that can be connected to. `connection` are the libpq parameters of the service file, no password.

    `others` are the other environments and targets of the inventory.
    """

    variables: Variables
    connection: Mapping[str, str]
    service_file: str
    others: OtherNames

    @abstractmethod
    def password(self) -> str:
        """The password, or an empty text when there is none."""

    @abstractmethod
    def pgpass(self, *, masked: bool = False) -> str:
        """The content of libpq's password file, with the password or with a mask; empty when there is none."""

    def hidden_variables(self) -> frozenset[str]:
        """Names of environment variables that hold this target's secrets; programs that we start do not get them."""
        return frozenset()

    def connection_origins(self) -> Origins:
        """Where the address and the password come from, for errors."""
        return Origins()

    @property
    def history(self) -> History:
        """The target's history table."""
        from pgratchet.database.history import History

        return History(self.variables.history_schema, self.variables.history_table)

    @property
    def identity(self) -> Identity:
        """The environment and target, for which the database must be this one's own."""
        return Identity(self.environment, self.target, self.others, self.variables.history_from)

    @property
    def title(self) -> str:
        """The environment, the target, and where the target's database is."""
        return f"{self.environment}: {self.target} ({self.location})"

    @property
    def location(self) -> str:
        """The database and the address of its server, in a phrase without secrets."""
        variables, hosts, ports = self.variables, self.connection.get("host", ""), self.connection.get("port", "5432")
        if variables.reach == "tunnel":  # the port of the connection is that of the tunnel
            ports = variables.pg_direct_port if variables.pg_direct_host else variables.pg_port
        via = {"ssh": f", on the host {variables.ssh_host}", "tunnel": f", through {variables.ssh_host}"}
        database = self.connection.get("dbname", "")
        return f"{database} on {format_addresses(hosts, ports)}{via.get(variables.reach, '')}"

    def parameters(self) -> dict[str, str]:
        """The libpq parameters including the password, which is fetched now."""
        secret = self.password()
        return {**self.connection, **({"password": secret} if secret else {})}

    def connect(self) -> Connection:
        """Open a session on the target's database."""
        return self.connect_to(self.connection["dbname"])

    def connect_to(self, database: str) -> Connection:
        """Open a session on another database of the target's server."""
        from pgratchet.database.connection import connect

        return connect({**self.parameters(), "dbname": database}, origins=self.connection_origins())

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """A session for the block. Errors of the server inside the block are raised as RatchetError."""
        from pgratchet.database.connection import translate_errors

        with translate_errors(), closing(self.connect()) as connection:
            yield connection

    @contextmanager
    def client_environment(self) -> Iterator[dict[str, str]]:
        """Environment variables with which libpq programs connect to the target, valid inside the block."""
        pgpass = self.pgpass()
        with ExitStack() as files:
            # The variable, and not the service file, because more options are added for some programs.
            text = re.sub(r"^options=.*\n?", "", self.service_file, flags=re.MULTILINE)
            service = files.enter_context(_private_file("pg_service.conf", text))
            environ = {**program_environment(self.hidden_variables()), "PGSERVICEFILE": service}
            if options := self.connection.get("options"):
                environ["PGOPTIONS"] = options
            if pgpass:  # without it libpq reads the user's own ~/.pgpass, as our own sessions do
                environ["PGPASSFILE"] = files.enter_context(_private_file("pgpass", pgpass))
            yield {**environ, "PGSERVICE": self.target, "LC_ALL": "C"}


@dataclass(frozen=True, repr=False)
class ReceivedTarget(Target):
    """A target whose rendered settings and password were sent to this host."""

    secret: str
    password_file: str
    origins: Origins = field(default_factory=Origins)

    def __repr__(self) -> str:
        return f"ReceivedTarget({self.environment!r}, {self.target!r})"

    def password(self) -> str:
        return self.secret

    def pgpass(self, *, masked: bool = False) -> str:
        return "" if masked else self.password_file

    def connection_origins(self) -> Origins:
        return self.origins


def format_addresses(hosts: str, ports: str) -> str:
    """The servers of libpq's parameters host and port, which are lists; one port may be for all hosts."""
    names, numbers = hosts.split(","), ports.split(",")
    pairs = [(name, numbers[index] if len(numbers) > 1 else ports) for index, name in enumerate(names)]
    named = [(f"[{name}]" if ":" in name else name or "the local socket", port) for name, port in pairs]
    return ",".join(f"{name}:{port}" for name, port in named)


def program_environment(hidden: frozenset[str] = frozenset()) -> dict[str, str]:
    """This process's environment for a program that it starts, without libpq's variables and without `hidden`."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PG") and key not in hidden}


def plain_environment() -> dict[str, str]:
    """The little that a program needs which connects nowhere, so that it gets no secret with the rest."""
    names = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {"LC_ALL": "C", **{name: os.environ[name] for name in names if name in os.environ}}


@contextmanager
def _private_file(name: str, text: str) -> Iterator[str]:
    """The path of a file that only this user can read: in memory, or of mode 0600 where there is no memfd_create."""
    if not (hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir()):
        import tempfile

        with tempfile.TemporaryDirectory(prefix="pgratchet-") as folder:
            path = Path(folder, name)
            write_private(path, text)
            yield str(path)
        return
    with os.fdopen(os.memfd_create(name), "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)
        file.flush()
        yield f"/proc/{os.getpid()}/fd/{file.fileno()}"


def write_private(path: Path, text: str, *, replace: bool = False) -> None:
    """Write a file of mode 0600. It is created with that mode, so that no other user can ever open it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.partial") if replace else path
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    if replace:
        draft.replace(path)
