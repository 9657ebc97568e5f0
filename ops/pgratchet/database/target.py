"""The way to one target, as the rooms take it: its variables, libpq's parameters, and libpq's own files.

Owns how libpq's programs are let in: by files in memory where the system has such, so that no secret touches a disk.
Refuses to know where the settings come from: they are rendered here, or have come over a line from where they were.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgratchet.config.inventory import Variables


@dataclass(frozen=True, slots=True)
class Access(ABC):
    """One target. `connection` are libpq parameters as the service file states them, without the password."""

    environment: str
    target: str
    variables: Variables
    connection: Mapping[str, str]
    service_file: str

    @abstractmethod
    def password(self) -> str:
        """The password; empty where there is none."""

    @abstractmethod
    def pgpass(self, *, masked: bool = False) -> str:
        """libpq's password file, with the secret or with a mask in its place; empty where there is none."""

    def parameters(self) -> dict[str, str]:
        """The libpq parameters with the password, fetched now."""
        secret = self.password()
        return {**self.connection, **({"password": secret} if secret else {})}

    @contextmanager
    def client_environment(self) -> Iterator[dict[str, str]]:
        """Environment variables with which libpq's programs connect here, as long as the block lasts."""
        secret = self.pgpass()
        with ExitStack() as files:
            service = files.enter_context(_private_file("pg_service.conf", self.service_file))
            inherited = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
            ours = {"PGSERVICEFILE": service, "PGSERVICE": self.target, "LC_ALL": "C"}
            if secret:  # with none of ours libpq looks into the user's own ~/.pgpass, for session and dump alike
                ours["PGPASSFILE"] = files.enter_context(_private_file("pgpass", secret))
            yield {**inherited, **ours}


@dataclass(frozen=True, slots=True)
class Carried(Access):
    """A target whose settings came over a line, rendered and with the secret in them."""

    secret: str
    passfile: str

    def __repr__(self) -> str:
        return f"Carried({self.environment!r}, {self.target!r})"

    def password(self) -> str:
        return self.secret

    def pgpass(self, *, masked: bool = False) -> str:
        return "" if masked else self.passfile


@contextmanager
def _private_file(name: str, text: str) -> Iterator[str]:
    """The path of a file for programs of this user that we start: in memory, or where there is none such, of mode 0600.

    libpq opens a password file only where it is a plain one that no one else may read, which one in memory is.
    """
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
    """Write a file that only its owner can read, and that could be read by no one else at any moment."""
    target = path.with_name(f".{path.name}.{os.getpid()}.partial") if replace else path
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    if replace:
        target.replace(path)
