"""Writes the schema of the live database as one migration: the baseline.

The text is pg_dump's, without owners, and without settings that the runner owns. Rows are not dumped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pgratchet.adopt.conversion import ConvertedFile, converted_file
from pgratchet.migrations.files import Migration
from pgratchet.schema import dump_text
from pgratchet.schema.privileges import for_any_owner, roles

TITLE = "baseline"
_SETTINGS = """\
-- The schema of the database {database}, as pg_dump wrote it at adoption: {contents}.
-- It has no rows: write those that the application needs into a migration of their own.
SET check_function_bodies = off;
SET search_path = '';

"""


def baseline_file(name: str, dump: bytes, database: str, left_out: Sequence[str], contents: str) -> ConvertedFile:
    """The live schema as a migration. `left_out` are schemas that hold only histories; `contents` says what it is."""
    ours = {f"CREATE SCHEMA {quoted}".encode() for schema in left_out for quoted in (schema, f'"{schema}"')}
    statements = [_if_missing(statement) for statement in dump_text.split(dump) if statement not in ours]
    head = _SETTINGS.format(database=" ".join(database.split()), contents=contents)
    return converted_file(name, head.encode() + b"".join(b"%b;\n\n" % statement for statement in statements))


_NEW_NAME = re.compile(r"(?P<version>[0-9]{1,40})(_baseline(\.sql)?)?")


def is_new(name: str, files: Sequence[Migration]) -> bool:
    """Return whether a name, such as 001 or 001_baseline, is that of a baseline that is not written yet.

    It has to come before every file.
    """
    match = _NEW_NAME.fullmatch(name)
    return match is not None and all(int(match["version"]) < file.version for file in files if not file.is_repeatable)


def new_baseline(name: str, dump: bytes, database: str, history_schema: str, user: str) -> ConvertedFile:
    """A baseline with the privileges of a database without a history. `user` owns it, and needs no privileges in it."""
    dump = b"".join(b"%b;\n" % statement for s in dump_text.split(dump) if (statement := for_any_owner(s, user)))
    needed = roles(dump)
    contents = f"no history. Roles that it needs: {', '.join(needed)}" if needed else "no history"
    version = name.removesuffix(".sql").removesuffix(f"_{TITLE}")
    return baseline_file(f"{version}_{TITLE}", dump, database, [history_schema], contents)


def _if_missing(statement: bytes) -> bytes:
    """Every new database has the schema public, which pg_dump creates where its owner or comment was changed."""
    return b"CREATE SCHEMA IF NOT EXISTS public" if statement == b"CREATE SCHEMA public" else statement
