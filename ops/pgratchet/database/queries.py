"""Loads SQL statements from .sql files by name.

A statement follows a line `-- name: x`. The comments below that line describe it and are not sent to the server.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path


@lru_cache
def load(module: str, name: str) -> dict[str, str]:
    """The statements of `name`.sql beside the module file (its `__file__`), without comments and final semicolons."""
    text = Path(module).with_name(f"{name}.sql").read_text("utf-8")
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)[1:]
    bodies = (re.sub(r"^--.*\n", "", body, flags=re.MULTILINE).strip().rstrip(";") for body in parts[1::2])
    return dict(zip(parts[::2], bodies, strict=True))
