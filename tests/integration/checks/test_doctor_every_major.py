"""`invoke doctor` on servers of every major, and on clusters of the test's own."""

from __future__ import annotations

from contextlib import closing

import pytest

from tests.integration.checks.helpers import examine, finding_about, problems_in
from tests.servers.clusters import Clusters
from tests.servers.databases import Database

EVERY = {"server", "login", "identity", "writable", "privileges"}


@pytest.mark.every_major
def test_a_healthy_server_has_no_problems(migrated: Database) -> None:
    findings = examine(migrated)
    assert problems_in(findings) == []
    assert {each.subject for each in findings} == EVERY


def test_a_prepared_transaction_is_named_and_its_remedy_ends_it(clusters: Clusters) -> None:
    database = clusters.make("prepared", max_prepared_transactions="2").database
    database.run("CREATE TABLE t (x int)")
    with closing(database.connect()) as other:
        other.execute("BEGIN")
        other.execute("INSERT INTO t VALUES (1)")
        other.execute("PREPARE TRANSACTION 'it''s'")
    finding = finding_about(examine(database), "prepared")
    assert '"it\'s" of postgres' in finding.what
    database.run(finding.remedy.partition("; or ")[2])
    assert problems_in(examine(database)) == []


def test_a_standby_is_named(clusters: Clusters) -> None:
    primary = clusters.make("primary")
    standby = clusters.standby(primary, "standby")
    findings = examine(standby.database)
    assert "standby" in finding_about(findings, "writable").what
    assert [each.subject for each in problems_in(findings)] == ["writable"], "and all else is asked there too"
