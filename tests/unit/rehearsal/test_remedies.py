"""Safe forms of statements that take long, with the statements to write."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgratchet.migrations.lexer import split_statements
from pgratchet.rehearsal.remedies import find_remedies
from pgratchet.rehearsal.report import Changes, Lock, Report, Rewrite
from pgratchet.rehearsal.stops import find_stops
from tests.unit.rehearsal.samples import EXCLUSIVE, REPORT, statement

ALONE = "-- migrate: no-transaction\n"
FORMS = {
    "CREATE INDEX i ON t (n)": (f"{ALONE}CREATE INDEX CONCURRENTLY i ON t (n);",),
    "CREATE UNIQUE INDEX i ON t (n)": (f"{ALONE}CREATE UNIQUE INDEX CONCURRENTLY i ON t (n);",),
    "CREATE INDEX ON t (n)": (),
    "DROP INDEX a": (f"{ALONE}DROP INDEX CONCURRENTLY a;",),
    "DROP INDEX a, b": (),
    "DROP INDEX a CASCADE": (),
    "REINDEX TABLE t": (f"{ALONE}REINDEX TABLE CONCURRENTLY t;",),
    "REFRESH MATERIALIZED VIEW m": ("REFRESH MATERIALIZED VIEW CONCURRENTLY m;",),
    "VACUUM FULL t": (),
    "CLUSTER t": (),
    "UPDATE t SET n = 1": (),
    "CREATE TABLE p PARTITION OF t FOR VALUES IN (1)": (),
    'ALTER TABLE "a b" ADD CONSTRAINT c CHECK (n > 0)': (
        'ALTER TABLE "a b" ADD CONSTRAINT c CHECK (n > 0) NOT VALID;',
        'ALTER TABLE "a b" VALIDATE CONSTRAINT c;',
    ),
    "ALTER TABLE ONLY s.t ADD CONSTRAINT c FOREIGN KEY (a, b) REFERENCES o (a, b)": (
        "ALTER TABLE ONLY s.t ADD CONSTRAINT c FOREIGN KEY (a, b) REFERENCES o (a, b) NOT VALID;",
        "ALTER TABLE s.t VALIDATE CONSTRAINT c;",
    ),
    "ALTER TABLE t ADD CHECK (n > 0)": (),
    "ALTER TABLE t ADD CONSTRAINT c CHECK (n > 0), ADD COLUMN x int": (),
    "ALTER TABLE t ADD CONSTRAINT u UNIQUE (n)": (),
    "ALTER TABLE t ATTACH PARTITION p FOR VALUES IN (1)": (),
}


def report_of(text: str, version: int = 150000, **more: object) -> Report:
    statements = (statement(1, text, 0, 900, locks=(Lock("t", EXCLUSIVE),), **more),)
    return replace(REPORT, scratch_version=version, statements=statements, stops=tuple(find_stops(statements, 0, {})))


@pytest.mark.parametrize("text", FORMS)
def test_the_safe_form_of_a_statement(text: str) -> None:
    (remedy,) = find_remedies(report_of(text))
    assert remedy.sql == FORMS[text]
    assert remedy.problem.endswith(".")
    assert remedy.advice.endswith(".")
    for sql in remedy.sql:
        assert list(split_statements(sql.encode()))


@pytest.mark.parametrize("version", [150000, 180000])
def test_not_null_is_proven_first_as_the_version_can(version: int) -> None:
    (remedy,) = find_remedies(report_of('ALTER TABLE t ALTER COLUMN "a" SET NOT NULL', version))
    constraint = 'NOT NULL "a" NOT VALID' if version == 180000 else 'CHECK ("a" IS NOT NULL) NOT VALID'
    assert remedy.sql[0] == f'ALTER TABLE t ADD CONSTRAINT "a_not_null" {constraint};'
    assert remedy.sql[1] == 'ALTER TABLE t VALIDATE CONSTRAINT "a_not_null";'
    assert len(remedy.sql) == (2 if version == 180000 else 3)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("ALTER TABLE t ALTER n TYPE bigint", "new type"),
        ("ALTER TABLE t ADD COLUMN n timestamptz DEFAULT clock_timestamp()", "without the default"),
        ("ALTER TABLE t SET LOGGED", "make a new table"),
    ],
)
def test_a_rewrite_has_a_form_by_its_cause(text: str, advice: str) -> None:
    (remedy,) = find_remedies(report_of(text, rewrites=(Rewrite("t", 10**9),)))
    assert advice in remedy.advice


def test_a_lock_taken_too_early_is_split_off() -> None:
    first, second = find_remedies(REPORT)[:2]
    assert (first.position.line, second.position.line) == (1, 3)
    assert first.problem.startswith("The statement locks public.users, and 002_release:3 then runs for 6.9 s")
    assert "Split the file" in first.advice


@pytest.mark.parametrize("text", ["SELECT 'cut short", "SELECT pg_sleep(9)", "ALTER TABLE t ADD COLUMN n int"])
def test_a_statement_without_a_safe_form_has_none(text: str) -> None:
    assert find_remedies(report_of(text)) == ()


def test_short_stops_need_no_remedy() -> None:
    statements = (statement(1, "DELETE FROM t", 0, 40, changes=(Changes("t", deleted=1),)),)
    assert find_remedies(replace(REPORT, statements=statements, stops=tuple(find_stops(statements, 0, {})))) == ()
