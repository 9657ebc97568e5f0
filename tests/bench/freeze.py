"""`python -m tests.bench.freeze [MEGABYTES ...]`: the waits of an independent program beside those of the report.

For each statement and file, a database with tables of the sizes is traced, while another process reads and writes every
table again and again. Its longest waits are compared with the stops of the report.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence

import psycopg

from pgratchet import embedded
from pgratchet.adopt.conversion import converted_file
from pgratchet.database.connection import connect
from pgratchet.migrations.scripts import prepare_scripts
from pgratchet.rehearsal.report import LEAST_TOLERANCE_MS, TOLERANCE
from pgratchet.rehearsal.trace import Trace

_ROWS_PER_MEGABYTE = 9_000
_PROBE = """
import json, sys, threading, time
import psycopg
url, tables = sys.argv[1], sys.argv[2].split(",")
waits, stopped = {}, threading.Event()

def repeat(table, kind, text):
    with psycopg.connect(url, autocommit=True) as connection:
        while not stopped.is_set():
            started = time.monotonic()
            connection.execute(text)
            waits[f"{table} {kind}"] = max(waits.get(f"{table} {kind}", 0), (time.monotonic() - started) * 1000)
            time.sleep(0.004)

threads = []
for table in tables:
    for kind, verb in (("reads", "SELECT 1"), ("writes", "DELETE")):
        text = f"{verb} FROM {table} WHERE id = -1"
        threads.append(threading.Thread(target=repeat, args=(table, kind, text)))
for thread in threads:
    thread.start()
print("ready", flush=True)
sys.stdin.read()
stopped.set()
for thread in threads:
    thread.join()
print(json.dumps(waits))
"""
STATEMENTS = (
    "ALTER TABLE big ADD COLUMN x int",
    "ALTER TABLE big ADD COLUMN x int DEFAULT 5",
    "ALTER TABLE big ADD COLUMN x timestamptz DEFAULT clock_timestamp()",
    "ALTER TABLE big ADD COLUMN x int GENERATED ALWAYS AS (n * 2) STORED",
    "ALTER TABLE big ADD COLUMN x bigserial",
    "ALTER TABLE big DROP COLUMN label",
    "ALTER TABLE big RENAME COLUMN label TO title",
    "ALTER TABLE big ALTER COLUMN n TYPE bigint",
    "ALTER TABLE big ALTER COLUMN label TYPE varchar(200)",
    "ALTER TABLE big ALTER COLUMN n TYPE text",
    "ALTER TABLE big ALTER COLUMN n SET NOT NULL",
    "ALTER TABLE big ALTER COLUMN n SET DEFAULT 1",
    "ALTER TABLE big ADD CONSTRAINT c CHECK (n >= 0)",
    "ALTER TABLE big ADD CONSTRAINT c CHECK (n >= 0) NOT VALID",
    "ALTER TABLE big ADD CONSTRAINT f FOREIGN KEY (small_id) REFERENCES small",
    "ALTER TABLE big ADD CONSTRAINT f FOREIGN KEY (small_id) REFERENCES small NOT VALID",
    "ALTER TABLE small ADD CONSTRAINT f FOREIGN KEY (n) REFERENCES big",
    "ALTER TABLE big ADD UNIQUE (id, n)",
    "ALTER TABLE big ADD EXCLUDE USING btree (id WITH =)",
    "ALTER TABLE big DROP CONSTRAINT big_pkey",
    "CREATE INDEX ON big (n)",
    "CREATE INDEX ON big (label)",
    "CREATE INDEX ON big (lower(label)) WHERE n % 2 = 0",
    "CREATE UNIQUE INDEX ON big (label)",
    "CREATE INDEX ON big USING hash (label)",
    "UPDATE big SET n = n + 1 WHERE id % 10 = 0",
    "UPDATE small SET n = n + 1",
    "DELETE FROM big WHERE id % 10 = 0",
    "INSERT INTO small SELECT id + 20000, n, 1, label FROM big WHERE id % 50 = 0",
    "CREATE TABLE copy AS SELECT * FROM big",
    "CREATE TABLE third (id int REFERENCES small)",
    "ALTER TABLE big SET UNLOGGED",
    "ALTER TABLE big ENABLE ROW LEVEL SECURITY",
    "CREATE STATISTICS s ON n, small_id FROM big",
    "ANALYZE big",
    "CLUSTER big USING big_pkey",
    "LOCK TABLE big IN SHARE MODE",
    "TRUNCATE small CASCADE",
    "DROP TABLE big",
    "REINDEX TABLE small",
)
FILES = (
    "ALTER TABLE small ADD COLUMN x int; UPDATE big SET n = n + 1 WHERE id % 20 = 0;",
    "ALTER TABLE small ADD COLUMN x int; ALTER TABLE big ALTER COLUMN n TYPE bigint;",
    "CREATE INDEX ON small (label); CREATE INDEX ON big (label);",
    "ALTER TABLE big ADD COLUMN x int; UPDATE small SET n = n + 1; CREATE INDEX ON big (n);",
    "ALTER TABLE big ADD FOREIGN KEY (small_id) REFERENCES small NOT VALID; UPDATE big SET n = 1 WHERE id % 30 = 0;",
    "LOCK TABLE small IN SHARE ROW EXCLUSIVE MODE; SELECT pg_sleep(0.3);",
    "SELECT pg_sleep(0.2); ALTER TABLE small DROP COLUMN label; SELECT pg_sleep(0.2);",
    "SAVEPOINT a; ALTER TABLE small ADD COLUMN x int; SELECT pg_sleep(0.2); CREATE INDEX ON big (n);",
    "DO $$ BEGIN PERFORM pg_sleep(0.2); ALTER TABLE big ADD COLUMN x int; PERFORM pg_sleep(0.2); END $$;",
    "-- migrate: no-transaction\nCREATE INDEX CONCURRENTLY i ON big (n);\nVACUUM FULL small;",
)


def main(sizes: Sequence[int]) -> None:
    deviations, lines = [], []
    with embedded.scratch({"autovacuum": 0, "max_wal_size": 8192}) as server:
        parameters = {**server.parameters(), "dbname": "postgres"}
        for size in sizes:
            with connect(parameters) as admin:
                admin.execute("DROP DATABASE IF EXISTS template_of_sizes")
                admin.execute("CREATE DATABASE template_of_sizes")
            _fill({**parameters, "dbname": "template_of_sizes"}, size)
            for text in (*STATEMENTS, *FILES):
                for key, told, felt in _compare(parameters, text):
                    deviation = abs(felt - told)
                    within = deviation <= max(LEAST_TOLERANCE_MS, TOLERANCE * told)
                    deviations.append(within)
                    lines.append((deviation, f"{size} MB {key} {told:.0f} {felt:.0f} {'' if within else 'OFF '}{text}"))
    for _, line in sorted(lines)[-25:]:
        print(line)
    print(f"{sum(deviations)} of {len(deviations)} waits within 50 ms or 10 %")
    absolute = sorted(deviation for deviation, _ in lines)
    for share in (0.5, 0.9, 0.95, 0.99):
        print(f"{share:.0%} of the waits are within {absolute[int(share * (len(absolute) - 1))]:.0f} ms")


def _fill(parameters: dict[str, str], size: int) -> None:
    with connect(parameters) as connection:
        for name, rows in (("small", 10_000), ("big", size * _ROWS_PER_MEGABYTE)):
            connection.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, n int, small_id int, label text)".encode())
            connection.execute(
                f"INSERT INTO {name} SELECT g, g, g % 10000 + 1, md5(g::text) "
                f"FROM generate_series(1, {rows}) AS g".encode()
            )
        connection.execute("VACUUM ANALYZE")


def _compare(parameters: dict[str, str], text: str) -> list[tuple[str, float, float]]:
    """The stops of a file by table and kind: what the report tells, and what the program waited."""
    with connect(parameters) as admin:
        admin.execute("DROP DATABASE IF EXISTS sized WITH (FORCE)")
        admin.execute("CREATE DATABASE sized TEMPLATE template_of_sizes STRATEGY file_copy")
        admin.execute("CHECKPOINT")
    own = {**parameters, "dbname": "sized"}
    url = psycopg.conninfo.make_conninfo("", **own)
    probe = subprocess.Popen(
        [sys.executable, "-c", _PROBE, url, "small,big"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert probe.stdout
    assert probe.stdout.readline().strip() == "ready"
    time.sleep(0.3)
    trace = Trace(lambda: connect(own), prepare_scripts([converted_file("1_a", text.encode())]))
    for _ in trace.run():
        pass
    answer, _ = probe.communicate("", timeout=60)
    waits: dict[str, float] = json.loads(answer)
    told: dict[str, float] = {}
    for stop in trace.stops:
        table = stop.relation.removeprefix("public.")
        if stop.blocks == "reads":
            told[f"{table} reads"] = max(told.get(f"{table} reads", 0), stop.duration_ms)
        if stop.blocks != "rows":
            told[f"{table} writes"] = max(told.get(f"{table} writes", 0), stop.duration_ms)
    return [(key, told.get(key, 0), waits.get(key, 0)) for key in waits]


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [10, 50, 200])
