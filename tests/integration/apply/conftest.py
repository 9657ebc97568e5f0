"""Fixtures of the tests of runs."""

from __future__ import annotations

import pytest

from tests.servers.databases import Database


@pytest.fixture
def table_with_duplicates(database: Database) -> Database:
    """A table on which no unique index can be built."""
    database.run("CREATE TABLE t (x int); INSERT INTO t VALUES (1), (1)")
    return database
