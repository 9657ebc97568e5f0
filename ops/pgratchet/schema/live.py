"""Reads the schema of a live database, and what a scratch server needs to build the like of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg

from pgratchet.backups.manifest import Database
from pgratchet.database import queries
from pgratchet.schema.scratch import read_search_path


@dataclass(frozen=True, slots=True)
class LiveSchema:
    """The live database, as far as the scratch server needs to know it.

    `dump` is pg_dump's schema, without the tables of histories. `left_out` are schemas that hold only histories.
    """

    dump: bytes
    database: Database
    name: str
    roles: tuple[str, ...]
    extensions: tuple[str, ...]
    left_out: tuple[str, ...]
    search_path: str


def read_live(
    connection: psycopg.Connection,
    database: Database,
    dump: Callable[[], bytes],
    left_out: Sequence[str],
) -> LiveSchema:
    """Read what a scratch server needs of the live database."""
    text = queries.load(__file__, "live")
    roles, extensions = (
        tuple(name for (name,) in connection.execute(text[query].encode()).fetchall())
        for query in ("roles", "extensions")
    )
    search_path = read_search_path(connection)
    return LiveSchema(dump(), database, connection.info.dbname, roles, extensions, tuple(left_out), search_path)
