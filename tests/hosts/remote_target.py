"""A target whose database is on a host: its inventory, and `invoke` for it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.hosts.containers import Host, Hosts
from tests.support.invoke import Invoke, ProcessResult


@dataclass
class RemoteTarget:
    """A database on a host for one test, and the inventory `far` that describes it."""

    hosts: Hosts
    host: Host
    clone: Path
    invoke: Invoke
    name: str

    def describe(self, **more: object) -> None:
        variables = self.hosts.variables(self.host, pg_dbname=self.name, **more)
        shape = {"all": {"hosts": {"app": {key: value for key, value in variables.items() if value is not None}}}}
        (self.clone / "inventory" / "far.yml").write_text(json.dumps(shape))

    def __call__(self, *arguments: str, status: int | None = 0) -> ProcessResult:
        return self.invoke(*arguments, "--env=far", env={"SECRET": self.hosts.password}, status=status)

    def rows(self, query: str) -> list[str]:
        return self.host.psql(query, self.name).splitlines()

    def sql(self, **files: str) -> None:
        for name, text in files.items():
            (self.clone / "sql" / f"{name.removeprefix('m')}.sql").write_text(text)


SLEEPING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"


LOCKED = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"


@dataclass
class RunningInvoke:
    """An invoke that runs while the test continues."""

    process: subprocess.Popen[str]

    def ended(self, seconds: float = 60) -> ProcessResult:
        stdout, stderr = self.process.communicate(timeout=seconds)
        assert "Traceback" not in stdout + stderr
        return ProcessResult(self.process.returncode, stdout, stderr)
