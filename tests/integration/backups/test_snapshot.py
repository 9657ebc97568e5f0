"""Sequences and materialized views: read with a backup, and compared with the restored database."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgratchet import events
from pgratchet.backups import manifest
from pgratchet.backups.manifest import MaterializedView, SequenceState
from pgratchet.backups.snapshot import Snapshot, open_snapshot
from pgratchet.database.history import History
from pgratchet.errors import BackupFailed
from tests.integration.backups.helpers import RestorableDatabase, temporary_roles
from tests.servers.databases import Database

SEQUENCES = {
    "public.up": SequenceState(7, True),
    "public.unused": SequenceState(100, False),
    "public.down": SequenceState(-3, True),
    "public.circle": SequenceState(1, True),
    'public."odd ""one"" x"': SequenceState(9223372036854775807, True),
    "public.rows_id_seq": SequenceState(3, True),
    "public.identities_id_seq": SequenceState(2, True),
}
MAKE_SEQUENCES = """
CREATE SEQUENCE up; SELECT setval('up', 7);
CREATE SEQUENCE unused START 100;
CREATE SEQUENCE down INCREMENT -1 MAXVALUE -1 MINVALUE -100; SELECT setval('down', -3);
CREATE SEQUENCE circle MAXVALUE 2 CYCLE; SELECT nextval('circle');
CREATE SEQUENCE "odd ""one"" x"; SELECT setval('"odd ""one"" x"', 9223372036854775807);
CREATE TABLE rows (id serial); INSERT INTO rows SELECT FROM generate_series(1, 3);
CREATE TABLE identities (id int GENERATED ALWAYS AS IDENTITY); INSERT INTO identities SELECT FROM generate_series(1, 2);
"""
MAKE_VIEWS = """
CREATE MATERIALIZED VIEW fresh AS SELECT * FROM rows;
CREATE MATERIALIZED VIEW "stale ""one"" x" AS SELECT * FROM rows WHERE id > 0; INSERT INTO rows VALUES (4), (5);
REFRESH MATERIALIZED VIEW fresh;
CREATE MATERIALIZED VIEW hollow AS SELECT 1 WITH NO DATA;
"""


def test_sequences_and_materialized_views_are_restored_and_compared(restorable: RestorableDatabase) -> None:
    live = restorable.database
    live.run(MAKE_SEQUENCES)
    live.run(MAKE_VIEWS)
    archive = restorable.back_up()
    contents = archive.manifest.contents
    assert contents.sequences is not None
    assert SEQUENCES.items() <= contents.sequences.items()
    assert contents.materialized_views == {
        "public.fresh": MaterializedView(True, 5),
        'public."stale ""one"" x"': MaterializedView(True, 3),
        "public.hollow": MaterializedView(False),
    }
    live.run("SELECT setval('up', 900); DROP SEQUENCE unused; REFRESH MATERIALIZED VIEW hollow")
    *_, compared, _ = restorable.restore(archive)
    assert isinstance(compared, events.Compared)
    assert (compared.sequences, compared.materialized_views) == (len(contents.sequences), 3)
    note = 'Materialized view public."stale ""one"" x": 5 rows, and 3 rows in the backup. A restore refreshes it.'
    assert compared.notes == (note,)
    with open_snapshot(live.connect) as snapshot:
        assert snapshot.read_sequences() == contents.sequences


def test_a_restored_sequence_with_another_value_is_a_difference(restorable: RestorableDatabase) -> None:
    restorable.database.run("CREATE SEQUENCE up; SELECT setval('up', 7); CREATE MATERIALIZED VIEW v AS SELECT 1")
    archive = restorable.back_up()
    contents = archive.manifest.contents
    other = replace(
        contents,
        sequences={**(contents.sequences or {}), "public.up": SequenceState(8, True)},
        materialized_views={"public.v": MaterializedView(False)},
    )
    oid = restorable.oid()
    with pytest.raises(BackupFailed, match="differs from the manifest") as caught:
        restorable.restore(replace(archive, manifest=replace(archive.manifest, contents=other)))
    assert "Sequence public.up: 7, and 8 in the backup." in caught.value.detail
    assert "Materialized view public.v: populated, and not populated in the backup." in caught.value.detail
    assert restorable.oid() == oid


@pytest.mark.parametrize(
    ("meanwhile", "name", "state"),
    [
        ("SELECT 1", "up", SequenceState(7, True)),
        ("SELECT nextval('up'), nextval('up')", "up", SequenceState(7, True, latest=9)),
        ("SELECT nextval('unused')", "unused", SequenceState(100, False, latest=100)),
        ("SELECT nextval('down')", "down", SequenceState(-3, True, latest=-4)),
        ("SELECT setval('up', 2)", "up", SequenceState(7, True, went_back=True)),
        ("SELECT setval('down', -1)", "down", SequenceState(-3, True, went_back=True)),
        ("SELECT nextval('circle'), nextval('circle')", "circle", SequenceState(1, True)),
        ("SELECT nextval('circle')", "circle", SequenceState(1, True, went_back=True)),
        ("DROP SEQUENCE up", "up", SequenceState(7, True, went_back=True)),
        ("ALTER SEQUENCE up RESTART", "up", SequenceState(7, True, went_back=True)),
    ],
)
def test_a_sequence_used_during_the_dump_has_a_range(
    database: Database, meanwhile: str, name: str, state: SequenceState
) -> None:
    database.run(MAKE_SEQUENCES)
    with open_snapshot(database.connect) as snapshot:
        before = snapshot.read_sequences()
        assert before == SEQUENCES
        database.run(meanwhile)
        latest = snapshot.read_latest_sequences(before)
        contents = replace(snapshot.read_contents(History(), latest))
        assert latest == {**before, f"public.{name}": state}
        assert manifest.differences(contents, replace(contents, sequences=before)) == []


def test_materialized_views_need_no_right_that_a_dump_does_not_need(database: Database) -> None:
    """pg_dump reads the definitions of materialized views only, and tables of which it has the rights."""
    owner = f"{database.name}_owner"
    with temporary_roles(database, owner):
        database.run(
            f"CREATE MATERIALIZED VIEW mine AS SELECT 1; CREATE MATERIALIZED VIEW later AS SELECT 1;"
            f"CREATE MATERIALIZED VIEW hidden AS SELECT 1; GRANT SELECT ON mine, later TO {owner}"
        )
        role = Database({**database.parameters, "user": owner, "password": "x"})
        with open_snapshot(role.connect) as snapshot:
            database.run("DROP MATERIALIZED VIEW later")
            assert views(snapshot) == {
                "public.mine": MaterializedView(True, 1),
                "public.later": MaterializedView(True),
                "public.hidden": MaterializedView(True),
            }


def views(snapshot: Snapshot) -> object:
    return snapshot.read_contents(History()).materialized_views
