"""Impacts on large tables, from traced statements and the sizes of the live tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgratchet.backups.manifest import TableSize
from pgratchet.migrations.directives import Directives
from pgratchet.migrations.files import Migration
from pgratchet.migrations.scripts import Script
from pgratchet.rehearsal.impact import LARGE, Impact, find_impacts
from pgratchet.rehearsal.report import Lock, Scan, StatementReport
from pgratchet.rehearsal.sizes import Rates, Sizes
from tests.unit.rehearsal.samples import EXCLUSIVE, STATEMENTS, statement

LARGE_TABLE = TableSize(2000, LARGE, 0)
SIZES = Sizes(
    {
        "public.users": LARGE_TABLE,
        "public.events": LARGE_TABLE,
        "public.small": TableSize(10, LARGE - 1, 0),
    },
    Rates(rewrite=20.0, scan=2.0, index=3.0, change=5.0),
)


def impacts(*statements: StatementReport, transactional: bool = True, sizes: Sizes = SIZES) -> list[Impact]:
    file = Migration("002_release", 2, "c" * 64, "sql/002_release.sql")
    scripts = [Script(file, replace(Directives(), transactional=transactional), 4, 100)]
    return list(find_impacts(statements, scripts, sizes))


def test_each_statement_on_a_large_table_has_an_impact() -> None:
    assert [(each.path, each.line, each.relation, each.mode, each.blocks) for each in impacts(*STATEMENTS)] == [
        ("sql/002_release.sql", 1, "public.users", EXCLUSIVE, "reads"),
        ("sql/002_release.sql", 3, "public.events", "ROW EXCLUSIVE", None),
        ("sql/002_release.sql", 5, "public.events", EXCLUSIVE, "reads"),
    ]


@pytest.mark.parametrize(
    ("transactional", "waits_too"), [(True, [(), ("public.users",), ("public.users",)]), (False, [(), (), ()])]
)
def test_tables_that_the_transaction_has_blocked_before_wait_too(
    transactional: bool, waits_too: list[tuple[str, ...]]
) -> None:
    assert [each.waits_too for each in impacts(*STATEMENTS, transactional=transactional)] == waits_too


@pytest.mark.parametrize(
    ("report", "milliseconds"),
    [
        (STATEMENTS[2], 200.0),  # 10 MB to rewrite
        (STATEMENTS[1], 10.0),  # 2,000 rows to change
        (statement(1, "create index", 0, 0, scans=(Scan("public.events", 0),), indexes_built=("i",)), 6.0),
        (statement(1, "select", 0, 0, scans=(Scan("public.events", 0),)), 4.0),
        (statement(1, "alter table", 0, 0, locks=(Lock("public.events", EXCLUSIVE),)), None),  # no work on its rows
    ],
)
def test_an_estimate_is_the_size_of_the_table_multiplied_by_the_rate_of_the_work(
    report: StatementReport, milliseconds: float | None
) -> None:
    assert [each.estimate_ms for each in impacts(report)] == [milliseconds]
    (without_rates,) = impacts(report, sizes=replace(SIZES, rates=Rates()))
    assert without_rates.estimate_ms is None
