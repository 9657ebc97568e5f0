"""Creates the roles that migrations grant privileges to, on servers for development and tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import sql


def create_missing_roles(connection: psycopg.Connection, roles: Iterable[str]) -> list[str]:
    """Create the roles that the server lacks, without a login; returns their names. Other runs may do the same."""
    names = list(dict.fromkeys(roles))
    if not names:
        return []
    query = "SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolname = ANY (%s)"
    present = {name for (name,) in connection.execute(query, (names,)).fetchall()}
    created = []
    for name in names:
        if name not in present:
            try:
                connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
            except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
                continue
            created.append(name)
    return created


@contextmanager
def temporary_roles(connection: psycopg.Connection, roles: Iterable[str]) -> Iterator[None]:
    """Create the roles that the server lacks, and drop these at the end of the block, except those still in use."""
    created = list[str]()
    try:
        created += create_missing_roles(connection, roles)
        yield
    finally:
        for name in created:
            with suppress(psycopg.errors.DependentObjectsStillExist):  # a file may have granted it more
                connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
