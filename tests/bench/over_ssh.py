"""What SSH costs: ratios of pairs that are run one after the other, over the containers of tests.hosts.

`python -m tests.bench.over_ssh` needs Docker. It takes about three minutes and prints a line for each case: the median
of the ratios, or of the seconds that SSH adds, and in brackets the least and the greatest. The line of 20 ms is a proxy
on the loopback that holds back every byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from pgratchet.remote import host as remote
from pgratchet.remote.ssh import Route
from tests import ROOT
from tests.bench.delay import line as delayed
from tests.hosts.containers import Host, Hosts, running_hosts

ROUNDS = 7


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, running_hosts(Path(folder)) as hosts:
        checkout = Path(folder, "checkout")
        for part in ("ops", "inventory", "templates", "sql"):
            shutil.copytree(ROOT / part, checkout / part)
        shutil.copy(ROOT / "tasks.py", checkout)
        status(hosts, checkout)
        stream(hosts)
        many(hosts, checkout)
        tunnel(hosts, checkout)


def told(name: str, unit: str, values: list[float]) -> None:
    print(f"{name}: {statistics.median(values):.2f}{unit} ({min(values):.2f}..{max(values):.2f})", flush=True)


def took(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def environment(hosts: Hosts) -> dict[str, str]:
    return {**os.environ, "SECRET": hosts.password}


def invoke(hosts: Hosts, checkout: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "invoke", *arguments]
    subprocess.run(command, cwd=checkout, env=environment(hosts), check=True, capture_output=True)


def describe(checkout: Path, variables: Mapping[str, object]) -> None:
    (checkout / "inventory" / "far.yml").write_text(json.dumps({"all": {"hosts": {"app": dict(variables)}}}))


def ssh(hosts: Hosts, host: Host) -> list[str]:
    """OpenSSH by the same way."""
    options = f"Host *\nUser deploy\nIdentityFile {hosts.key}\nUserKnownHostsFile {hosts.known_hosts}\n"
    config = hosts.folder / "ssh_config"
    config.write_text(f"Host {host.name}\nProxyJump {hosts.bastion.address}\n{options}")
    return ["ssh", "-F", str(config), host.name]


def status(hosts: Hosts, checkout: Path) -> None:
    """Status of a target behind the bastion, to `ssh host psql -c 'select 1'` and the start of invoke together."""
    describe(checkout, hosts.variables(hosts.db1))
    passfile = "/home/deploy/.pgpass"
    hosts.db1.run(
        f"install -o deploy -m 600 /dev/null {passfile}; printf '%s' '*:*:*:*:{_escaped(hosts)}' > {passfile}"
    )
    invoke(hosts, checkout, "status", "--env=far")
    psql = [*ssh(hosts, hosts.db1), "psql -U owner -d app -c 'select 1'"]
    ratios = []
    for _ in range(ROUNDS):
        whole = took(lambda: invoke(hosts, checkout, "status", "--env=far"))
        bare = took(lambda: subprocess.run(psql, check=True, capture_output=True))
        start = took(lambda: invoke(hosts, checkout, "--list"))
        ratios.append(whole / (bare + start))
    told("status, to ssh psql and the start of invoke", "", ratios)


def _escaped(hosts: Hosts) -> str:
    return hosts.password.replace("\\", "\\\\").replace(":", "\\:").replace("'", "'\\''")


def way(hosts: Hosts) -> Route:
    variables = hosts.variables(hosts.db1)
    gateway, key, known = str(variables["ssh_gateway"]), str(hosts.key), hosts.known_hosts
    return Route("db1", 0, "deploy", gateway, key, Path("/nonexistent"), known, "python3", 10, 20)


def stream(hosts: Hosts) -> None:
    """100 MB that nothing can compress, read and hashed here: the throughput, to that of `ssh host cat`."""
    hosts.db1.run("head -c 100000000 /dev/urandom > /home/deploy/random; chown deploy /home/deploy/random")
    expected = hosts.db1.run("sha256sum /home/deploy/random").split()[0]
    line = remote.HostConnection(way(hosts))
    cat = [*ssh(hosts, hosts.db1), "cat random"]

    def ours() -> None:
        digest = hashlib.sha256()
        for chunk in line.read("/home/deploy/random"):
            digest.update(chunk)
        assert digest.hexdigest() == expected

    def theirs() -> None:
        done = subprocess.run(cat, check=True, capture_output=True)
        assert hashlib.sha256(done.stdout).hexdigest() == expected

    ours()
    ratios = []
    for _ in range(ROUNDS):
        here = took(ours)
        ratios.append(took(theirs) / here)
    line.close()
    told("100 MB streamed here, throughput to ssh host cat", "", ratios)


def many(hosts: Hosts, checkout: Path) -> None:
    """1,000 files over a line of 20 ms: what it takes beyond what the run itself takes on the host."""
    shutil.rmtree(checkout / "sql")
    (checkout / "sql").mkdir()
    for number in range(1, 1001):
        (checkout / "sql" / f"{number:04}_a.sql").write_text(
            f"create table t{number} (id int primary key, name text);\n"
        )
    added = []
    with delayed(hosts.bastion.address, 22) as port:
        known = hosts.known_hosts.read_text()
        hosts.known_hosts.write_text(f"{known}[127.0.0.1]:{port} {hosts.bastion.key()}\n")
        for number in range(3):
            hosts.db1.psql(f"CREATE DATABASE many{number} OWNER owner", "postgres")
            gateway = {"pg_dbname": f"many{number}", "ssh_gateway": f"deploy@127.0.0.1:{port}"}
            describe(checkout, hosts.variables(hosts.db1, backup_policy="never", **gateway))
            whole = took(lambda: invoke(hosts, checkout, "migrate", "--env=far"))
            folder = "$(ls -dt /home/deploy/.pgratchet/runs/* | head -1)"
            born, ended = hosts.db1.run(f"stat -c %.Y {folder}/about.json {folder}/exit").split()
            added.append(whole - (float(ended.replace(",", ".")) - float(born.replace(",", "."))))
    hosts.know()
    told("1,000 files over 20 ms, beyond the run on the host", " s", added)


def tunnel(hosts: Hosts, checkout: Path) -> None:
    """A file of 50 MB through the tunnel, to the same through an `ssh -L` that is there already: the throughput."""
    shutil.rmtree(checkout / "sql")
    (checkout / "sql").mkdir()
    rows = "".join(f"{number}\t{hashlib.sha256(str(number).encode()).hexdigest() * 8}\n" for number in range(96_000))
    (checkout / "sql" / "1_rows.sql").write_text(f"create table r (n int, t text);\ncopy r from stdin;\n{rows}\\.\n")
    bastion = replace(hosts.db1, name=hosts.bastion.address)
    variables = {"pg_host": "db1", "backup_policy": "never", "migration_timeout": 0}
    ratios = []
    for number in range(6):
        hosts.db1.psql(f"CREATE DATABASE tunnel{number} OWNER owner", "postgres")
    with subprocess.Popen(
        [*ssh(hosts, bastion)[:-1], "-o", "ProxyJump=none", "-N", "-L", "127.0.0.1:54399:db1:5432", bastion.name]
    ) as beside:
        time.sleep(2)
        for number in range(3):
            through = hosts.variables(bastion, **variables, pg_dbname=f"tunnel{number}")
            describe(checkout, through | {"reach": "tunnel", "ssh_gateway": ""})
            ours = took(lambda: invoke(hosts, checkout, "migrate", "--env=far"))
            plain = through | {
                "reach": "local",
                "pg_dbname": f"tunnel{number + 3}",
                "pg_host": "127.0.0.1",
                "pg_port": 54399,
            }
            describe(checkout, plain)
            ratios.append(took(lambda: invoke(hosts, checkout, "migrate", "--env=far")) / ours)
        beside.terminate()
    told("50 MB through the tunnel, throughput to ssh -L", "", ratios)


if __name__ == "__main__":
    main()
