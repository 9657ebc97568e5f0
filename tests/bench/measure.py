"""One process, measured: its wall time and its peak of memory.

Owns the environment that every contestant runs in, which is the same for all of them: nothing of the caller's
but where programs and the home are, so that no setting of one tool reaches another and byte code is written.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_LAUNCH = Path(__file__).with_name("launch.py")
_KEPT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, slots=True)
class Command:
    """A process to start; `env` is added to what every contestant is given."""

    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        return {key: os.environ[key] for key in _KEPT if key in os.environ} | dict(self.env)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a process came to. `peak` in bytes; `late`: it was ended when its time was over."""

    seconds: float
    peak: int
    status: int
    late: bool
    output: str

    @property
    def good(self) -> bool:
        return self.status == 0 and not self.late


def measure(command: Command, bound: float) -> Measured:
    """Run the command for at most `bound` seconds. Where we are interrupted, it is ended first."""
    with tempfile.NamedTemporaryFile(prefix="bench-") as log:
        launcher = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_LAUNCH), str(bound), log.name, *command.argv],
            cwd=command.cwd,
            env=command.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            report, _ = launcher.communicate()
        except BaseException:
            launcher.terminate()
            launcher.wait()
            raise
        if launcher.returncode:
            raise RuntimeError(f"{command.argv[0]} could not be started")
        seconds, peak, status, late = report.split()
        output = log.read().decode(errors="replace")
    return Measured(float(seconds), int(peak) * _MAXRSS_UNIT, int(status), late == "1", output)
