"""Skipping tests that lack something, and the summary at the end of a run."""

from __future__ import annotations

from collections import Counter

import pytest

from tests import requirements


def test_a_missing_program_skips_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "find_program", lambda _: None)
    with pytest.raises(pytest.skip.Exception, match=r"^needs pgbouncer: apt-get install pgbouncer$"):
        requirements.require("pgbouncer")


def test_a_missing_system_skips_with_an_action(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(requirements._SYSTEMS, "root", (lambda: False, "run the tests as root"))
    with pytest.raises(pytest.skip.Exception, match=r"^needs root: run the tests as root$"):
        requirements.require("root")


def test_an_unknown_need_is_an_error() -> None:
    with pytest.raises(KeyError):
        requirements.requires("no-such-program")


def test_the_summary_has_ten_lines_at_most() -> None:
    lines = requirements.summary(Counter({f"reason {number}": 100 - number for number in range(14)}))
    assert lines[0] == "  100 reason 0"
    assert lines[-1] == "  445 for 5 other reasons: pytest -rs lists them"
    assert len(lines) == requirements.SUMMARY_LINES
    assert requirements.summary(Counter({"one": 1})) == ["    1 one"]
