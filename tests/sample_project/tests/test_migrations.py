"""Examples: a migration is tested by rows that are there before it."""

from __future__ import annotations

from collections.abc import Callable

from pgratchet.testing.databases import PartlyMigrated


def test_0002_takes_the_first_name_out_of_the_name(pg_migrated_to: Callable[[str], PartlyMigrated]) -> None:
    database = pg_migrated_to("0001")
    with database.connect() as session:
        session.execute("INSERT INTO customers (name) VALUES ('Ada Lovelace')")
    database.migrate()
    with database.connect() as session:
        assert session.execute("SELECT first_name FROM customers").fetchone() == ("Ada",)


def test_the_rest_goes_on_top(pg_migrated_to: Callable[[str], PartlyMigrated]) -> None:
    database = pg_migrated_to("0001_customers")
    database.migrate(to="0003")
    with database.connect() as session:
        assert session.execute("SELECT count(*) FROM archive_298").fetchone() == (0,)
