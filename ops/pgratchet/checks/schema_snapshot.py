"""Checks that sql/schema.sql is the schema that the migrations make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pgratchet.errors import ConfigurationError
from pgratchet.migrations.file_names import SCHEMA_FILE
from pgratchet.migrations.files import Migration
from pgratchet.schema import schema_file


def check_snapshot(
    folder: Path, parameters: Mapping[str, str], files: Sequence[Migration], roles: Sequence[str]
) -> str:
    """Compare the file with a schema built on a scratch server; ConfigurationError when it is stale.

    `parameters` are libpq's. Returns a note when the file cannot be compared, and otherwise an empty text.
    """
    text = schema_file.read(folder)
    if text is None:
        return ""
    expected, path = schema_file.make(parameters, files, roles), folder / SCHEMA_FILE
    theirs, ours = schema_file.major_of(text), schema_file.major_of(expected)
    if theirs != ours and theirs is not None:
        return f"{path} is of PostgreSQL {theirs}, so it was not compared with the schema on PostgreSQL {ours}"
    if text != expected:
        raise ConfigurationError(
            f"{path} is not the schema that the migrations make",
            detail=schema_file.difference(text, expected),
            hint="Run `invoke snapshot`, and commit the file with the migrations.",
        )
    return ""
