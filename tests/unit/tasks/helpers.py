"""Runs a task in this process."""

from __future__ import annotations

import pytest

from pgratchet.program import make_program


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[object, str, str]:
    """Run a command line of the program that ends the process; returns its status, output and errors."""
    with pytest.raises(SystemExit) as ended:
        make_program().run(["pgratchet", *words])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err
