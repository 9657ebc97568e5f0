"""Compares schemas as pg_dump writes them, in a form that survives a restore.

The text of pg_dump is no fixed point: PostgreSQL prints `CHECK (status IN (...))` on a varchar in one way, and in
another way after that text was restored. So two dumps that differ are both restored into scratch databases and dumped
again, until they are equal or no longer change (tests/integration/adopt/test_baseline.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import unified_diff
from itertools import count

import psycopg

from pgratchet.schema.dump_text import ignored_names, lines
from pgratchet.schema.scratch import Scratch

ROUND_TRIPS = 3
"""How often dumps that differ are restored and dumped again. One is enough for all known expressions."""


def differences(scratch: Scratch, files: bytes, database: bytes, left_out: Sequence[str]) -> list[str]:
    """The lines of a diff from one dump to another, empty for equal schemas."""
    ignored = ignored_names(files, database)
    for trip in count():
        expected, live = lines(files, left_out, ignored), lines(database, left_out, ignored)
        if expected == live or trip == ROUND_TRIPS:
            break
        try:
            files, database = scratch.round_trip(files), scratch.round_trip(database)
        except psycopg.Error:
            break  # a dump that cannot be restored is compared as it is
    return list(unified_diff(expected, live, "files", "database", n=2, lineterm=""))
