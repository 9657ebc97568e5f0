"""`invoke` as a process in its own checkout, as a user runs it."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

COMMAND = (sys.executable, "-m", "invoke")


@dataclass(frozen=True)
class ProcessResult:
    """The exit status and the output of a process."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


Invoke = Callable[..., ProcessResult]


InvokeOnDatabase = Callable[..., ProcessResult]


PARTS = re.compile(r"^[^\n]+\nDETAIL: .+\nHINT: .+", re.DOTALL | re.MULTILINE)


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment without variables that affect pgratchet."""
    variables = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PG", "POSTGRES_", "TEST_", "DATABASE_", "MIGRATION_", "OPS_", "INVOKE_", "COV_"))
        and key not in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "PYTHONWARNINGS", "CI", "GITHUB_ACTIONS")
    }
    return {**variables, **extra}
