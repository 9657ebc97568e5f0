"""The row of an INSERT that a violated constraint is about."""

from __future__ import annotations

import pytest

from pgratchet.apply.diagnosis import Diagnosis
from pgratchet.apply.inserted_rows import find_row
from pgratchet.migrations.lexer import read_tokens, split_statements

LONG = "x" * 100
WITH_COLUMNS = f"""insert into t (id, "Name", qty) values
(1, 'it''s', 7),
(-2, null, 1.5),
(3, '{LONG}', 9),
(7, 'a, b', default),
(7, 'twice', 4),
(8, 'it''s', 12),
(9, lower('X'), 13)
on conflict do nothing"""
WITHOUT = "insert into t values (1, 'a', 5), (2, 'b'::text, 1), (5, date '2024-01-01', true), (6, (select (1), 2), 3)"


@pytest.mark.parametrize(
    ("text", "sqlstate", "detail", "row"),
    [
        (WITH_COLUMNS, "23514", "Failing row contains (1, it's, 7, 2024-01-01 00:00:00).", "(1, 'it"),
        (WITH_COLUMNS, "23502", "Failing row contains (-2, null, 1.5).", "(-2"),
        (WITH_COLUMNS, "23514", f"Failing row contains (3, {LONG[:64]}..., 9).", "(3"),
        (WITH_COLUMNS, "23514", "Failing row contains (7, a, b, 0).", "(7, 'a"),
        (WITH_COLUMNS, "23514", "Failing row contains (9, x, 13).", "(9"),
        (WITH_COLUMNS, "23514", "Failing row contains (id, qty) = (8, 12).", "(8"),
        (WITH_COLUMNS, "23514", "Failing row contains (99, none, 98).", None),
        (WITH_COLUMNS, "23505", "Key (id)=(7) already exists.", "(7, 'twice"),
        (WITH_COLUMNS, "23505", "Key (id)=(1) already exists.", "(1"),
        (WITH_COLUMNS, "23505", "Key (qty)=(9) already exists.", "(3"),
        (WITH_COLUMNS, "23505", 'Key ("Name", qty)=(twice, 4) already exists.', "(7, 'twice"),
        (WITH_COLUMNS, "23505", 'Key (lower("Name"))=(twice) already exists.', "(7, 'twice"),
        (WITH_COLUMNS, "23505", 'Key ("Name")=(a, b) already exists.', None),
        (WITH_COLUMNS, "23503", 'Key ("Name")=(it\'s) is not present in table "p".', "(1"),
        (WITH_COLUMNS, "23P01", "Key (id)=(7) conflicts with existing key (id)=(7).", "(7, 'twice"),
        (WITH_COLUMNS, "23505", "Key (id)=(99) already exists.", None),
        (WITH_COLUMNS, "22001", "", None),
        (WITH_COLUMNS, "23514", "", None),
        (WITH_COLUMNS, "23505", "", None),
        (WITHOUT, "23505", "Key (id)=(2) already exists.", "(2"),
        (WITHOUT, "23505", "Key (id)=(1) already exists.", "(2"),
        (WITHOUT, "23514", "Failing row contains (2, b, 1).", "(2"),
        (WITHOUT, "23514", "Failing row contains (5, 2024-01-01, t).", "(5"),
        (WITHOUT, "23514", "Failing row contains (6, 1, 3).", "(6"),
        ("insert into t select 1", "23514", "Failing row contains (1).", None),
        ("insert into t default values", "23502", "Failing row contains (null).", None),
        ("insert into t values (1), (1)", "23514", "Failing row contains (1).", None),
        ("update t set x = 1", "23514", "Failing row contains (1).", None),
    ],
)
def test_the_row_is_found_by_its_values(text: str, sqlstate: str, detail: str, row: str | None) -> None:
    raw = text.encode()
    offset = find_row(read_tokens(raw, split_statements(raw)[0]), Diagnosis(sqlstate=sqlstate, detail=detail))
    assert (offset is None) == (row is None)
    assert row is None or raw[offset:].decode().startswith(row)
