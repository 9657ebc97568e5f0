"""Rows and messages that a migration sends back are read and dropped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pgratchet import events
from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.database.history import History
from tests import ROOT
from tests.integration.apply.helpers import NO_TRANSACTION
from tests.servers.databases import Database
from tests.support.migrations import WriteMigrations, history, migrate

ROWS = "select n, repeat('x', 50) from generate_series(1, 1000000) as n;\n"
MESSAGES = "do $$ begin for n in 1..200000 loop raise notice 'message % %', n, repeat('x', 100); end loop; end $$;\n"
PROGRAM = """
import resource, sys
from pathlib import Path
from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.database import connection
from pgratchet.database.history import History
from pgratchet.migrations import files
parameters = connection.parse_url(sys.argv[1])
def run():
    scripts = files.read(Path(sys.argv[2]))
    for _ in applier.migrate(lambda: connection.connect(parameters), History(), scripts, None, MigrateOptions("run")):
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
small = run()
for path in Path(sys.argv[2]).parent.glob("later/*.sql"):
    path.rename(Path(sys.argv[2]) / path.name)
print((run() - small) // 1024)
"""


@pytest.mark.parametrize("head", ["", NO_TRANSACTION, "create table t (x int);\ncopy t from stdin;\n1\n\\.\n"])
@pytest.mark.parametrize("text", [ROWS, MESSAGES, "values " + ", ".join(f"({n})" for n in range(9)) + ";\n" + ROWS])
def test_memory_does_not_grow_with_rows_and_messages(
    database: Database, write: WriteMigrations, sql_folder: Path, head: str, text: str
) -> None:
    write(m1_a="select 1")
    later = sql_folder.parent / "later"
    later.mkdir()
    (later / "2_b.sql").write_text(head + text)
    command = [sys.executable, "-c", PROGRAM, database.url, str(sql_folder)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "ops")}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20, "megabytes more than for a small file"
    assert history(database) == [("1_a", True), ("2_b", True)]


def test_messages_above_a_limit_are_counted(database: Database, write: WriteMigrations) -> None:
    ran = migrate(database, write(m1_a=MESSAGES, m2_b="do $$ begin raise notice 'last'; end $$"), batch_size=1)
    messages = [event.message for event in ran.of(events.ServerNotice) if isinstance(event, events.ServerNotice)]
    assert messages[0].startswith("message 1 x")
    assert messages[-2:] == ["199000 more messages of the server", "last"]
    assert len(messages) == 1002


@pytest.mark.parametrize("batch_size", [1, 10])
def test_rows_that_look_like_the_history_do_not_disturb_a_run(
    database: Database, write: WriteMigrations, batch_size: int
) -> None:
    lookalike = "select 'x' as name, 'y' as checksum, 1, 2 as duration_ms, 'z' as source from generate_series(1, 2500)"
    files = write(m1_a=lookalike, m2_b=f"{lookalike};\nselect 1 where false", m3_c="create table c ()")
    assert migrate(database, files, batch_size=batch_size).applied == ["1_a", "2_b", "3_c"]


def test_a_long_history_is_read_whole(database: Database, write: WriteMigrations) -> None:
    """It comes back in more than one chunk."""
    files = write(**{f"m{n}_x": "select 1" for n in range(1, 2101)})
    assert len(migrate(database, files, batch_size=1000).applied) == 2100
    ran = list(applier.migrate(database.connect, History(), write(m3000_last="select 1"), None, MigrateOptions("run")))
    assert ran[-1] == events.Finished(total=2101, pending=0)


def test_an_error_behind_many_rows_is_located(database: Database, write: WriteMigrations) -> None:
    with pytest.raises(Exception, match=r"1_a\.sql:2:10: division by zero"):
        migrate(
            database,
            write(m1_a="select generate_series(1, 5000);\nselect 1 / (5000 - n) from generate_series(1, 9999) n"),
        )
