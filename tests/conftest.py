"""Loads the fixtures, which lie by subject; README.md beside this file names each of them."""

from __future__ import annotations

import pytest

# What tests share asserts too, and its asserts are to show their values.
pytest.register_assert_rewrite(
    "tests.faults", "tests.hosts", "tests.other_tools", "tests.requirements", "tests.servers", "tests.support"
)

pytest_plugins = [
    "tests.requirements",
    "tests.servers.fixtures",
    "tests.hosts.fixtures",
    "tests.support.fixtures",
]
