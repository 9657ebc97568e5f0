"""Names of the repeatables that are made from another tool's: valid, unique and in the tool's order."""

from __future__ import annotations

import pytest

from pgratchet.adopt.repeatable_names import repeatable_names
from pgratchet.migrations import file_names


@pytest.mark.parametrize(
    ("titles", "names"),
    [
        ([], []),
        (["views"], ["views"]),
        (["a_view", "views", "zz_afterMigrate"], ["a_view", "views", "zz_afterMigrate"]),
        (["a view (new)"], ["a_view_new"]),
        (["customer_view", "customer2_view"], ["customer-view", "customer2-view"]),
        (["0010_roles", "0020_views"], ["r_0010_roles", "r_0020_views"]),
        (["views", "grants"], ["r01_views", "r02_grants"]),
        (["Views", "views"], ["r01_Views", "r02_views"]),
        (["größe", "gr__e"], ["r01_gr_e", "r02_gr_e"]),
        (["\u00e9"], ["repeatable"]),
        (["a" * 300], ["a" * 80]),
        ([f"{'a' * 90}{n}" for n in range(2)], [f"r0{n}_{'a' * 80}" for n in (1, 2)]),
    ],
)
def test_names_are_valid_and_rise_in_the_order_of_the_tool(titles: list[str], names: list[str]) -> None:
    chosen, notes = repeatable_names(titles)
    assert chosen == [f"repeatable/{name}" for name in names]
    assert chosen == sorted(chosen)
    assert bool(notes) == any(name.startswith("r01_") for name in names)
    assert not any(file_names.describe_repeatable_fault(f"{name}.sql") for name in names)
