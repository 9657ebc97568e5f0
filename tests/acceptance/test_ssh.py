"""`invoke` with real hosts behind a real bastion: the results equal local ones, and no secret is visible."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hosts.local_sshd import LocalSshd
from tests.hosts.remote_target import SLEEPING, RemoteTarget, RunningInvoke
from tests.servers.databases import Database
from tests.support.invoke import PARTS, InvokeOnDatabase
from tests.support.processes import command_lines, environments
from tests.support.waiting import until

BUNDLES = "/home/deploy/.pgratchet/bundles"


def test_a_run_through_a_bastion_equals_a_local_run(remote: RemoteTarget) -> None:
    done = remote("migrate")
    assert "applied 001_initial_schema" in done.stderr
    assert "1 migration applied" in done.stdout
    assert "backup: db1:/home/deploy/.pgratchet/backups/far/app/" in done.stdout
    assert remote.rows("SELECT name, source FROM ratchet.migrations") == ["001_initial_schema|run"]
    look = f"stat -c %Z {BUNDLES}/* {BUNDLES}; ls {BUNDLES}"
    before = remote.host.run(look)
    assert "nothing to apply: total 1, pending 0" in remote("migrate").stdout
    assert remote("status", "--json").json["applied"] == 1
    assert remote.host.run(look) == before, "nothing was sent again"
    assert remote.host.run("stat -c %a /home/deploy/.pgratchet /home/deploy/.pgratchet/runs").split() == ["700", "700"]


def test_output_and_history_equal_those_of_a_local_run(
    remote: RemoteTarget, invoke_on_database: InvokeOnDatabase, database: Database
) -> None:
    """Except for times, ids and the location of the backup."""
    remote.sql(m002_people="create table people (id int)", m003_wrong="create table a ();\nselect emial from people")
    here, on_host = invoke_on_database("migrate", "--json", status=5), remote("migrate", "--json", status=5)
    for done in (here, on_host):
        assert done.json["applied"] == ["001_initial_schema", "002_people"]
        assert (done.json["error"]["line"], done.json["error"]["column"]) == (2, 8)
    assert _steady(here.stderr) == _steady(on_host.stderr).replace(" --env=far", "")
    assert here.json["error"].keys() == on_host.json["error"].keys()
    columns = (
        "id, name, checksum, executed_at IS NULL, backup_id IS NULL, backup_waived, tool_version, source, md5(body)"
    )
    history = f"SELECT concat_ws(' ', {columns}, statements_done, statement_begun) FROM ratchet.migrations ORDER BY id"
    assert remote.rows(history) == [str(row) for (row,) in database.rows(history)]
    assert len(remote.rows(history)) == 2


def _steady(text: str) -> str:
    return re.sub(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{4}|[0-9.]+ (ms|s|kB|B)\b", "#", text)


@pytest.mark.parametrize("which", ["unknown", "changed", "changed on the gateway"])
def test_an_unknown_or_changed_host_key_is_refused(remote: RemoteTarget, which: str) -> None:
    """The connection ends before anything is sent, and nothing on the host changes."""
    known, other = remote.hosts.known_hosts, remote.hosts.db2.key()
    bastion, db1, db2 = known.read_text().splitlines()
    lines = {
        "unknown": [bastion, db2],
        "changed": [bastion, f"db1 {other}", db2],
        "changed on the gateway": [f"{bastion.split()[0]} {other}", db1, db2],
    }
    known.write_text("\n".join(lines[which]) + "\n")
    remote.host.run("rm -rf /home/deploy/.pgratchet")
    for task in ("status", "migrate"):
        done = remote(task, status=10)
        assert "is not known" in done.stderr if which == "unknown" else "is not the one that is known" in done.stderr
        assert PARTS.search(done.stderr)
    assert remote.host.run("ls -A /home/deploy") == remote.host.run("ls -A /home/deploy | grep -v pgratchet")
    assert remote.rows("SELECT count(*) FROM pg_namespace WHERE nspname = 'ratchet'") == ["0"]


def test_a_key_changed_on_the_host_is_refused(remote: RemoteTarget) -> None:
    assert remote("status").status == 0
    remote.host.change_key()
    assert "is not the one that is known" in remote("status", status=10).stderr
    remote.hosts.know()
    assert remote("status").status == 0


@pytest.mark.parametrize("where", ["host", "here"])
def test_no_secret_is_visible_while_a_run_goes_on(
    remote: RemoteTarget, start_invoke: Callable[..., RunningInvoke], where: str
) -> None:
    """Processes of both machines are sampled while pg_dump waits for a table, and while a statement runs.

    Afterwards every written file is searched.
    """
    remote.describe(backup_at=where)
    remote.host.psql("CREATE TABLE held (); ALTER TABLE held OWNER TO owner", remote.name)
    remote.sql(m002_slow="create table a (); select pg_sleep(3)", m003_wrong="select emial")
    marks = [remote.hosts.password, remote.hosts.password.replace("\\", "\\\\"), "c4n4ry"]
    holder = remote.host.container.client.api.exec_create(
        remote.host.container.id,
        ["su", "postgres", "-c", f"psql -d {remote.name} -c 'BEGIN; LOCK held; SELECT pg_sleep(60)'"],
    )
    remote.host.container.client.api.exec_start(holder["Id"], detach=True)
    until(lambda: remote.rows(SLEEPING) == ["1"], 10)
    running = start_invoke("migrate", "--not-empty")
    samples: list[str] = []
    while running.process.poll() is None:
        samples.append(remote.host.processes())
        if "pg_dump" in samples[-1]:
            remote.host.psql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'BEGIN; LOCK held%'"
            )
        samples += [*command_lines(), *environments()]
        samples.append(remote.host.run("grep -rl 'c4n4r[y]' /home/deploy /tmp /run /var/log 2>/dev/null; true"))
        time.sleep(0.1)
    done = running.ended()
    assert done.status == 5
    everything = "\n".join(samples).replace(f"SECRET={remote.hosts.password}", "")
    assert "pg_dump" in everything, "it was looked at while the dump ran"
    assert "host.py" in everything or ".pgratchet" in everything
    on_host = remote.host.run("cat $(find /home/deploy/.pgratchet/runs -type f) /var/log/postgresql/*")
    files = b"".join(path.read_bytes() for path in remote.clone.rglob("*") if path.is_file()).decode(errors="replace")
    for text in (everything, done.stdout + done.stderr, on_host, files):
        assert not [line for line in text.splitlines() for mark in marks if mark in line]
    assert "c4n4ry" not in "".join(remote.rows("SELECT row(m.*)::text FROM ratchet.migrations AS m"))


def test_backups_stay_on_the_host_or_are_downloaded(remote: RemoteTarget) -> None:
    on_host = remote("migrate", "--json").json["backup"]
    assert remote("backups", "--json").json["backups"][0]["id"] == on_host
    assert "read back whole" in remote("verify").stdout
    remote.describe(backup_at="here")
    here = remote("backup", "--json").json["backup"]
    assert (remote.clone / "backups" / "far" / "app" / here / "manifest.json").exists()
    assert remote.host.run(f"find /home/deploy/.pgratchet -name '*{here}*'") == "", "nothing of it stays"
    assert "read back whole" in remote("verify").stdout
    assert "restores" in remote("drill").stdout
    remote.host.psql("CREATE TABLE later ()", remote.name)
    remote("restore", f"--backup={here}", "--yes")
    assert remote.rows("SELECT to_regclass('later')") == []
    assert "1 database dropped" in remote("restore", "--drop-old", "--yes").stdout
    remote.describe()
    remote("restore", f"--backup={on_host}", "--yes", "--drop-old")
    assert remote.rows("SELECT to_regclass('users')") == []
    assert "restores" in remote("drill").stdout
    assert remote("backups", "--json").json["drills"][-1]["good"]


def test_the_doctor_examines_the_host(remote: RemoteTarget) -> None:
    """The server, programs and disk of the host; an unreachable host is a finding."""
    remote.host.psql("CREATE TABLE d (x int); CREATE INDEX odd ON d (x); UPDATE pg_index SET indisvalid = false "
                  "WHERE indexrelid = 'odd'::regclass", remote.name)  # fmt: skip
    shape = remote("doctor", "--json", status=None).json
    findings = {each["subject"]: each for each in shape["findings"]}
    assert "15" in findings["pg_dump"]["what"]
    assert "/usr/lib/postgresql/15/bin" in json.dumps(shape) or "/usr/bin" in findings["pg_dump"]["what"]
    assert "/home/deploy/.pgratchet" in json.dumps(shape)
    assert "odd" in json.dumps(shape)
    remote.hosts.known_hosts.write_text("")
    refused = remote("doctor", "--json", status=10).json["findings"]
    assert "is not known" in refused[-1]["what"]


def test_a_tunnel_verifies_the_name_of_the_server(remote: RemoteTarget) -> None:
    leads = {"pg_host": "db1", "pg_sslmode": "verify-full", "pg_sslrootcert": str(remote.hosts.authority)}
    through = {"reach": "tunnel", "ssh_host": remote.hosts.bastion.address, "ssh_gateway": ""}
    remote.describe(**leads, **through)
    assert (
        "applied 001_initial_schema" in remote("migrate", "--without-backup=no pg_dump with TLS is a must here").stderr
    )
    assert remote.rows("SELECT count(*) FROM ratchet.migrations") == ["1"]
    remote.describe(**(leads | {"pg_host": "db2", "pg_sslrootcert": "/nonexistent"}), **through)
    assert "root certificate" in remote("status", status=10).stderr
    _, *others = remote.hosts.known_hosts.read_text().splitlines()
    remote.hosts.known_hosts.write_text("\n".join(others) + "\n")
    remote.describe(**leads, **through)
    refused = remote("status", status=10)
    assert "a host key is not the known one" in refused.stderr
    assert PARTS.search(refused.stderr)
    assert not [line for line in command_lines() if " -f -N -M " in line]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ssh_host", "$(touch /tmp/executed)"),
        ("ssh_host", "-oProxyCommand=touch /tmp/executed"),
        ("ssh_user", "a; touch /tmp/executed"),
        ("ssh_user", "-l\nroot"),
        ("ssh_gateway", "bastion`touch /tmp/executed`"),
        ("ssh_key", '/tmp/x"\nProxyCommand touch /tmp/executed'),
        ("ssh_config", "/tmp/%h"),
        ("ssh_python", "python3; touch /tmp/executed"),
        ("ssh_python", "$(touch /tmp/executed)"),
        ("backup_dir", 'it\'s; touch /tmp/executed $(touch /tmp/executed) \u00fc "x"'),
        ("pg_user", "o'wner; \\ $(touch /tmp/executed)"),
        ("history_schema", 'rat"chet; $(touch /tmp/executed) \u00fc'),
        ("history_table", "m" * 63),
    ],
)
def test_hostile_values_are_passed_unchanged_or_refused(remote: RemoteTarget, variable: str, value: str) -> None:
    """In every field that reaches a shell, a file name or a statement."""
    if variable == "pg_user":
        remote.host.psql(
            f"""CREATE ROLE "{value}" SUPERUSER LOGIN PASSWORD '{remote.hosts.password.replace("'", "''")}'"""
        )
    remote.describe(**{variable: value})
    done = remote("migrate", status=None)
    goes_through = variable.startswith(("backup_", "pg_", "history_"))
    assert done.status == (0 if goes_through else 2), done.stderr
    assert not Path("/tmp/executed").exists()
    assert remote.host.run("ls /tmp") == remote.host.run("ls /tmp | grep -v executed || true")
    if variable == "backup_dir":
        assert remote("verify").status == 0
    if variable == "pg_user":
        remote.host.psql(f'DROP OWNED BY "{value}"', remote.name)
        remote.host.psql(f'DROP ROLE "{value}"')


def test_missing_programs_of_a_host_are_named(remote: RemoteTarget) -> None:
    remote.describe(ssh_python="python4")
    assert "db1 has no python4" in remote("status", status=2).stderr
    remote.describe()
    remote("status")
    remote.host.run("mkdir -p /root/away && mv /usr/lib/*/libpq.so.5* /root/away && ldconfig")
    try:
        with_bundle = remote("status", status=2)
        remote.host.run(f"rm -rf {BUNDLES}")
        done = remote("status", status=2)
    finally:
        remote.host.run("mv /root/away/* /usr/lib/$(uname -m)-linux-gnu/ && ldconfig")
    assert "db1 has no libpq" in with_bundle.stderr
    assert "db1 cannot run migrations" in done.stderr
    assert "It has no libpq" in done.stderr
    assert remote.host.run("ls /home/deploy/.pgratchet/bundles 2>/dev/null || true") == ""


def test_a_run_over_a_local_sshd_needs_no_docker(
    local_sshd: LocalSshd, invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database
) -> None:
    """The database is one that this machine reaches."""
    variables = local_sshd.variables(pg_password="{{ env('SECRET', '') }}")
    variables |= {f"pg_{key}": value for key, value in database.parameters.items() if key not in ("password", "port")}
    variables["pg_port"] = int(database.parameters["port"])
    (checkout / "inventory" / "near.yml").write_text(json.dumps({"all": {"hosts": {"app": variables}}}))
    secret = {"SECRET": database.parameters.get("password", "")}
    done = invoke_on_database("migrate", "--env=near", env=secret)
    assert "applied 001_initial_schema" in done.stderr
    assert (local_sshd.folder / ".pgratchet" / "backups" / "near" / "app").is_dir(), (
        "it was done at the line's other end"
    )
    assert invoke_on_database("status", "--env=near", "--check", env=secret).status == 0
    assert "read back whole" in invoke_on_database("verify", "--env=near", env=secret).stdout
