"""`invoke rehearse` for a database whose backups stay on its host: only names, numbers and SQL come back."""

from __future__ import annotations

import json

from tests.hosts.remote_target import RemoteTarget


def test_a_backup_that_is_kept_on_its_host_is_rehearsed_there(remote: RemoteTarget) -> None:
    remote.describe(rehearsal="required")
    remote.sql(
        m002_base="CREATE TABLE people (id int PRIMARY KEY, email text);\nINSERT INTO people VALUES (1, 'secret');\n"
    )
    remote("migrate", "--without-backup=new")
    backup = remote("backup", "--json").json["backup"]
    remote.sql(m003_change="ALTER TABLE people ADD COLUMN n int;\n\nSELECT pg_sleep(0.3);\n")
    connected = "SELECT count(*) FROM pg_stat_database WHERE datname LIKE '%rehearsal%'"
    report = remote("rehearse", "--json").json
    assert (report["backup"], report["verdict"]["ok"]) == (backup, True)
    assert report["scratch_version"] // 10000 == report["server_version"] // 10000 == 15
    (table,) = report["tables"]
    assert table["relation"] == "public.people"
    assert table["blocks_reads_ms"] >= 300
    assert (table["locked_at"]["line"], table["spent_at"]["line"]) == (1, 3)
    assert "secret" not in json.dumps(report)
    assert remote.rows(connected) == ["0"]
    assert (
        remote.host.run("ls /home/deploy/.local/state/pgratchet 2>/dev/null | grep -c scratch || true").strip() == "0"
    )
    assert "rehearsed 003_change" in remote("rehearse").stderr
    assert "1 migration applied" in remote("migrate").stdout
    remote.sql(m004_bad="ALTER TABLE people ALTER COLUMN n SET NOT NULL;\n")
    remote("backup")
    failed = remote("rehearse", "--json", status=5).json["failure"]
    assert (failed["rows"], failed["keys"]) == (1, ["1"])
