"""The error of repeatables that wait for what does not exist: what each file creates, and cycles."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgratchet.apply.unresolved import created_names, find_cycle
from pgratchet.migrations import files
from pgratchet.migrations.plan import make_plan
from pgratchet.migrations.scripts import prepare_plan


@pytest.mark.parametrize(
    ("needs", "cycle"),
    [
        ({}, ()),
        ({"a": "b", "b": "c"}, ()),
        ({"a": "b", "b": "a"}, ("a", "b")),
        ({"a": "a"}, ("a",)),
        ({"a": "b", "b": "c", "c": "d", "d": "c"}, ("c", "d")),
        ({"a": "x", "b": "c", "c": "b"}, ("b", "c")),
    ],
)
def test_cycles_are_found(needs: dict[str, str], cycle: tuple[str, ...]) -> None:
    assert find_cycle(needs) == cycle


def test_created_objects_are_named_as_errors_name_them(tmp_path: Path) -> None:
    text = """
        create or replace view s.Active_Users as select 1;
        CREATE FUNCTION "Do It"(x int) returns int language sql as 'select 1';
        create unlogged table if not exists t ();
        create materialized view m as select 1;
        create index i on t (x);
        create or replace trigger tr before insert on t for each row execute function f();
        select 'create view no as select 1';
    """
    (tmp_path / "repeatable").mkdir()
    (tmp_path / "repeatable" / "a.sql").write_text(text)
    (script,) = prepare_plan(make_plan(files.read(tmp_path), []))
    assert list(created_names(script)) == ["active_users", "Do It", "t", "m", "tr"]
