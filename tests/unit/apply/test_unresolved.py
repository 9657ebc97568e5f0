"""The error of repeatables that wait for what does not exist: cycles."""

from __future__ import annotations

import pytest

from pgratchet.apply.unresolved import find_cycle


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
