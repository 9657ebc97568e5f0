"""Reads how much data a database has: rows without indexes, values in TOAST tables, large objects."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from pgratchet.database import queries


@dataclass(frozen=True, slots=True)
class DataSize:
    """The data of a database in bytes, as stored. `heap` and `toast` have no dead rows; `database` is all its files."""

    tables: int
    heap: int
    toast: int
    large_objects: int
    database: int


def read_table_sizes(connection: psycopg.Connection) -> list[tuple[str, int, int, int]]:
    """Read the rows, the bytes and the bytes of the indexes of each table, by its qualified name."""
    rows = connection.execute(queries.load(__file__, "data_size")["table_sizes"].encode()).fetchall()
    return [(str(name), int(count), int(size), int(index_size)) for name, count, size, index_size in rows]


def read_data_size(connection: psycopg.Connection) -> DataSize:
    """Estimate the size of the data. Waits for no lock."""
    row = connection.execute(queries.load(__file__, "data_size")["data_size"].encode()).fetchone()
    assert row is not None
    return DataSize(*(int(number) for number in row))
