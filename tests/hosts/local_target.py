"""A target that is reached through the sshd on this machine: its inventory, and `invoke` for it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.hosts.local_sshd import LocalSshd
from tests.hosts.remote_target import RunningInvoke
from tests.servers.databases import Database
from tests.support.invoke import COMMAND, Invoke, ProcessResult, environment


@dataclass
class LocalTarget:
    """A database for one test, and the inventory `near` that describes the way to it."""

    sshd: LocalSshd
    database: Database
    clone: Path
    invoke: Invoke

    @property
    def home(self) -> Path:
        """The home of the host's user."""
        return self.sshd.folder

    def describe(self, **more: object) -> None:
        parameters = {key: value for key, value in self.database.parameters.items() if key != "password"}
        variables = self.sshd.variables(pg_password="{{ env('SECRET', '') }}")
        variables |= {f"pg_{key}": value for key, value in parameters.items()}
        variables |= {"pg_port": int(parameters["port"]), **more}
        shape = {"all": {"hosts": {"app": variables}}}
        (self.clone / "inventory" / "near.yml").write_text(json.dumps(shape))

    @property
    def _secret(self) -> dict[str, str]:
        return {"SECRET": self.database.parameters.get("password", "")}

    def __call__(self, *arguments: str, status: int | None = 0) -> ProcessResult:
        return self.invoke(*arguments, "--env=near", env=self._secret, status=status)

    def start(self, *arguments: str, command: Sequence[str] = COMMAND) -> RunningInvoke:
        """Start invoke, or another command that takes its arguments, and return while it runs."""
        process = subprocess.Popen(
            [*command, *arguments, "--env=near"],
            cwd=self.clone,
            env=environment({**self._secret, "PYTHONPATH": str(self.clone / "ops")}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return RunningInvoke(process)

    def sql(self, **files: str) -> None:
        for name, text in files.items():
            (self.clone / "sql" / f"{name.removeprefix('m')}.sql").write_text(text)

    def applied(self) -> set[str]:
        """The names of the migrations that the history has as applied."""
        if self.database.rows("SELECT to_regclass('ratchet.migrations')") == [(None,)]:
            return set()
        rows = self.database.rows("SELECT name FROM ratchet.migrations WHERE executed_at IS NOT NULL")
        return {str(name) for (name,) in rows}

    def backups(self) -> set[str]:
        return {entry["id"] for entry in self("backups", "--json").json["backups"]}
