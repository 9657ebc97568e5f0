"""The sample that every tool applies: three migrations, and a fourth for later.

They are easy to get wrong: a function body and strings contain semicolons, quotes and comment marks, and one index
cannot be created inside a transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

_CONCURRENTLY = "CREATE INDEX CONCURRENTLY"


@dataclass(frozen=True, slots=True)
class SampleMigration:
    """One migration: its name in lower case and underscores, and its statements without semicolons."""

    number: int
    name: str
    statements: tuple[str, ...]

    @property
    def transactional(self) -> bool:
        return not any(each.startswith(_CONCURRENTLY) for each in self.statements)

    @property
    def text(self) -> str:
        return "".join(f"{each};\n" for each in self.statements)

    @property
    def moment(self) -> str:
        """A time in fourteen digits, as most tools begin file names. The times are a minute apart."""
        return f"2024010100{self.number:02d}00"

    def in_transaction(self) -> SampleMigration:
        """The same migration for a tool that runs everything in a transaction."""
        return replace(self, statements=tuple(each.replace(_CONCURRENTLY, "CREATE INDEX") for each in self.statements))


_TABLE = """\
CREATE TABLE items (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    price numeric(10, 2) NOT NULL DEFAULT 0
)"""
_FUNCTION = """\
CREATE FUNCTION item_label(item items) RETURNS text LANGUAGE plpgsql AS $body$
BEGIN
    -- a label; with its price where it has one
    IF item.price > 0 THEN
        RETURN item.name || '; ' || item.price;
    END IF;
    RETURN item.name;
END
$body$"""
_ROWS = """\
INSERT INTO items (name, price) VALUES
    ('it''s; "quoted" -- no comment', 1.50),
    ('/* nor; this */', 0)"""
_VIEW = "CREATE VIEW labels AS SELECT id, item_label(items) AS label, '; it''s'::text AS sign FROM items"

SAMPLE: Sequence[SampleMigration] = (
    SampleMigration(1, "create_items", (_TABLE, "CREATE INDEX items_name ON items (lower(name))")),
    SampleMigration(2, "label_items", (_FUNCTION, _VIEW, _ROWS)),
    SampleMigration(3, "index_prices", (f"{_CONCURRENTLY} items_price ON items (price)",)),
)
FURTHER = SampleMigration(
    4,
    "add_stock",
    (
        "ALTER TABLE items ADD COLUMN stock integer NOT NULL DEFAULT 0",
        "CREATE VIEW in_stock AS SELECT id, stock FROM items WHERE stock > 0",
    ),
)
BROKEN = SampleMigration(4, "break_off", ("SELECT 1 / 0",))
CONTENT = "SELECT label, sign FROM labels ORDER BY id"
LABELS = [('it\'s; "quoted" -- no comment; 1.50', "; it's"), ("/* nor; this */", "; it's")]
