"""Examples: what a project that uses the test kit writes."""

from __future__ import annotations

import psycopg
import pytest

from pgratchet.testing.databases import Database

TABLES = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"


def test_an_order_has_a_customer(pg_connection: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        pg_connection.execute("INSERT INTO orders (customer) VALUES (42)")


def test_the_url_leads_to_the_same_database(pg_url: str, pg_database: Database) -> None:
    with psycopg.connect(pg_url) as session:
        assert session.info.dbname == pg_database.name


@pytest.mark.parametrize("number", range(20))
def test_each_test_has_all_tables_and_no_rows(number: int, pg_connection: psycopg.Connection) -> None:
    assert pg_connection.execute(TABLES).fetchone() == (300,)
    assert pg_connection.execute("SELECT * FROM customers").fetchall() == []
    pg_connection.execute("INSERT INTO customers (name) VALUES ('Ada')")
