"""Loads SQL statements from .sql files by name.

A statement follows a line `-- name: x`. Comments below are not sent to the server.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path


@lru_cache
def load(module: str, name: str) -> dict[str, str]:
    """Return the statements of `name`.sql, which lies beside `module` (a `__file__`), without comments."""
    text = Path(module).with_name(f"{name}.sql").read_text("utf-8")
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)[1:]
    bodies = (re.sub(r"^--.*\n", "", body, flags=re.MULTILINE).strip().rstrip(";") for body in parts[1::2])
    return dict(zip(parts[::2], bodies, strict=True))
