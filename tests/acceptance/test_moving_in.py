"""Moving in: a real tool's database and files, `invoke adopt`, and a migration of ours on top."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops import wiring
from tests.acceptance.conftest import Invoke, environment
from tests.conftest import Database, Server
from tests.movers import MOVERS, Mover
from tests.movers.sample import CONTENT, FURTHER, LABELS, SAMPLE

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)
every_mover = pytest.mark.parametrize("mover", MOVERS, ids=lambda mover: mover.label)


@pytest.fixture
def project(mover: Mover, database: Database, clone: Path, tmp_path: Path) -> Path:
    """A project of the tool's, whose database it has migrated; and a checkout of ours without a migration."""
    mover.lay_out(tmp_path / "project", SAMPLE)
    mover.migrate(tmp_path / "project", database)
    for path in (clone / "sql").iterdir():
        path.unlink()
    return tmp_path / "project"


@pytest.fixture
def other(server: Server) -> Iterator[Server]:
    """A server whose databases are dropped when the test ends."""
    kept = list(server.made)
    yield server
    for name in [name for name in server.made if name not in kept]:
        server.drop(Database({**server.parameters, "dbname": name}))


@every_mover
def test_what_a_tool_began_goes_on_as_if_the_tool_had_gone_on(
    mover: Mover, project: Path, database: Database, other: Server, invoke: Invoke, clone: Path
) -> None:
    alone = other.create(database.name)
    before = history(database, mover)
    env = {"DATABASE_URL": database.url}
    invoke("adopt", f"--from={mover.name}", f"--files={project / mover.files}", env=env)
    status = invoke("status", "--check", "--json", env=env).json
    assert (status["total"], status["pending"]) == (status["applied"], 0)

    (clone / invoke("new", FURTHER.name).stdout.strip()).write_text(FURTHER.text, encoding="utf-8")
    assert len(invoke("migrate", "--json", env=env).json["applied"]) == 1
    assert invoke("status", "--check", "--json", env=env).json["applied"] == status["applied"] + 1
    assert history(database, mover) == before

    mover.lay_out(project, [*SAMPLE, FURTHER])
    mover.migrate(project, alone)
    assert structure(database, mover) == structure(alone, mover)


@every_mover
def test_the_files_taken_over_make_the_same_from_nothing(
    mover: Mover, project: Path, database: Database, other: Server, invoke: Invoke, clone: Path
) -> None:
    if mover.name == "alembic":
        pytest.skip("what Alembic has applied is Python, of which no SQL is made")
    invoke("adopt", f"--from={mover.name}", f"--files={project / mover.files}", env={"DATABASE_URL": database.url})
    fresh = other.create()
    invoke("migrate", env={"DATABASE_URL": fresh.url})
    assert fresh.rows(CONTENT) == LABELS
    assert structure(fresh, mover) == structure(database, mover)


def history(database: Database, mover: Mover) -> list[tuple[object, ...]]:
    return [row for table in mover.history for row in database.rows(f"SELECT * FROM {table} ORDER BY 1")]


def structure(database: Database, mover: Mover) -> str:
    """The schema without anybody's history."""
    with database.connect() as session:
        programs = wiring.programs_for(session.info.server_version)
    left_out = [f"--exclude-table={table}" for table in mover.history]
    command = [programs.path("pg_dump"), "--schema-only", "--exclude-schema=ratchet", "--exclude-schema=drizzle"]
    done = subprocess.run(
        [*command, *left_out, "--dbname", database.url], env=environment({}), capture_output=True, text=True, check=True
    )
    # These two carry a word made up for each dump.
    return "\n".join(line for line in done.stdout.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))
