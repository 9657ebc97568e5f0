"""SQL that stands in files: the statements of a .sql file by name.

A statement begins behind a line `-- name: x`; the comments below that line say what it is for, and are not sent.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path


@lru_cache
def load(name: str) -> dict[str, str]:
    """The statements of `name`.sql in this folder, without their comments and last semicolons."""
    text = Path(__file__).with_name(f"{name}.sql").read_text("utf-8")
    named = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)[1:]
    bodies = (re.sub(r"^--.*\n", "", body, flags=re.MULTILINE).strip().rstrip(";") for body in named[1::2])
    return dict(zip(named[::2], bodies, strict=True))
