"""`invoke` as a process, in a checkout of its own, as a user runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Database

COMMAND = (sys.executable, "-m", "invoke")


@dataclass(frozen=True)
class Done:
    """What a process printed and ended with."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


Invoke = Callable[..., Done]
Run = Callable[..., Done]
PARTS = re.compile(r"^[^\n]+\nDETAIL: .+\nHINT: .+", re.DOTALL | re.MULTILINE)


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of a user who has set nothing of ours."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PG", "POSTGRES_", "TEST_", "DATABASE_", "MIGRATION_", "OPS_", "INVOKE_", "COV_"))
        and key not in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "PYTHONWARNINGS")
    }
    return {**kept, **extra}


@pytest.fixture
def invoke(clone: Path) -> Invoke:
    def run(*arguments: str, env: Mapping[str, str] | None = None, status: int | None = 0) -> Done:
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=clone,
            env=environment(env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        result = Done(done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stdout + done.stderr
        assert status is None or done.returncode == status, done.stdout + done.stderr
        return result

    return run


@pytest.fixture
def on(invoke: Invoke, database: Database) -> Run:
    """invoke, with DATABASE_URL leading to the test's database."""

    def run(*arguments: str, env: dict[str, str] | None = None, status: int | None = 0) -> Done:
        return invoke(*arguments, env={"DATABASE_URL": database.url, **(env or {})}, status=status)

    return run
