"""The names that a text creates, and texts that may drop them."""

from __future__ import annotations

import pytest

from pgratchet.migrations.created_objects import created_names, may_drop


def test_created_objects_are_named_as_errors_name_them() -> None:
    text = b"""
        create or replace view s.Active_Users as select 1;
        CREATE FUNCTION "Do It"(x int) returns int language sql as 'select 1';
        create unlogged table if not exists t ();
        create materialized view m as select 1;
        create index i on t (x);
        create or replace trigger tr before insert on t for each row execute function f();
        select 'create view no as select 1';
    """
    assert list(created_names(text)) == ["active_users", "Do It", "t", "m", "tr"]


@pytest.mark.parametrize(
    ("text", "is_dropped"),
    [
        ("drop view V", True),
        ('DROP VIEW IF EXISTS s."v"', True),
        ("do $$ begin execute 'drop view v'; end $$", True),
        ("drop view v_old", False),
        ("select * from v", False),
        ("drop table t", False),
    ],
)
def test_a_text_that_may_drop_an_object_is_found(text: str, is_dropped: bool) -> None:
    assert may_drop(text.encode(), {"v"}) is is_dropped
    assert not may_drop(text.encode(), set())
