"""Writes the schema that all migrations make into sql/schema.sql, so that a review shows the result of a change.

The text is pg_dump's after one restore, with privileges in a fixed order and without what differs from run to run.
psql can load it into an empty database.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from difflib import unified_diff
from pathlib import Path

from pgratchet.backups.manifest import Database
from pgratchet.backups.pg_programs import dump_schema, find_programs
from pgratchet.backups.restore_server import server_at
from pgratchet.backups.snapshot import read_database
from pgratchet.database import connection as sessions
from pgratchet.database.history import History
from pgratchet.database.roles import temporary_roles
from pgratchet.migrations.file_names import SCHEMA_FILE
from pgratchet.migrations.files import Migration
from pgratchet.schema.build import build
from pgratchet.schema.drift import comparable
from pgratchet.schema.dump_text import major_version
from pgratchet.schema.live import append_versions, read_extensions
from pgratchet.schema.objects import SchemaObject, read_objects
from pgratchet.schema.scratch import Scratch

_MOST_LINES = 60
_HEAD = """\
-- The schema that the migrations make, up to {last}, on PostgreSQL {major}.
-- Written by `invoke snapshot`, compared by `invoke ci`. Changes belong into migrations.
SET check_function_bodies = off;
SET search_path = '';
"""
_MAJOR = re.compile(r"-- The schema that the migrations make, .* on PostgreSQL (\d+)\.")
_HISTORY = History()


def make(parameters: Mapping[str, str], files: Sequence[Migration], roles: Sequence[str]) -> str:
    """The text of the file: build a database from the migrations on a scratch server, and dump its schema.

    `parameters` are libpq's, for a database of the server to work from. `roles` are created for the time being.
    """
    with sessions.translate_errors(), closing(sessions.connect(parameters)) as connection:
        scratch = scratch_at(
            connection.info.server_version, parameters, read_database(connection, parameters["dbname"])[0]
        )
        user = connection.info.user
        with temporary_roles(connection, roles):
            with scratch.database("files") as name:
                build(scratch, name, files, "snapshot")
                with closing(scratch.server.open_session(name)) as session:
                    versions = read_extensions(session)
                dump = scratch.dump(name)
            dump = append_versions(scratch.round_trip(dump), versions)
    return _render(dump, user, _last(files))


def _last(files: Sequence[Migration]) -> str:
    """The name of the last versioned file."""
    return next((file.name for file in reversed(files) if not file.is_repeatable), "none")


def scratch_at(server_version: int, parameters: Mapping[str, str], like: Database) -> Scratch:
    """A scratch server at libpq's parameters. Its databases are like the one that the parameters lead to."""
    programs = find_programs(server_version)
    server = server_at(parameters, parameters["dbname"], _HISTORY)

    def dump(name: str) -> bytes:
        with server.client_environment() as environ:
            return dump_schema(programs, environ, name, _HISTORY.quoted_name, privileges=True)

    return Scratch(server, dump, like, '"$user", public')


def _render(dump: bytes, user: str, last: str) -> str:
    head = _HEAD.format(last=last, major=major_version(dump))
    objects = comparable(read_objects(dump), user, schemas=(_HISTORY.schema,))
    return head + "".join(f"\n{each.sql}\n" for each in objects.values() if not _is_inside_table(each))


def _is_inside_table(each: SchemaObject) -> bool:
    return each.kind == "column" or (each.kind == "constraint" and each.statements[0].startswith("CONSTRAINT "))


def read(folder: Path) -> str | None:
    """The text of the file; None where there is none."""
    try:
        return (folder / SCHEMA_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def write(folder: Path, text: str) -> bool:
    """Write the file; returns whether it has changed."""
    if read(folder) == text:
        return False
    draft = folder / f".{SCHEMA_FILE}.partial"
    draft.write_text(text, encoding="utf-8")
    draft.replace(folder / SCHEMA_FILE)
    return True


def major_of(text: str) -> int | None:
    """The major version of the server that made a file's text."""
    match = _MAJOR.match(text)
    return int(match[1]) if match else None


def difference(text: str, expected: str) -> str:
    """A diff from a file's text to the expected text, of limited length."""
    lines = list(unified_diff(text.splitlines(), expected.splitlines(), SCHEMA_FILE, "migrations", n=2, lineterm=""))
    return "\n".join([*lines[:_MOST_LINES], *(["..."] if len(lines) > _MOST_LINES else [])])
