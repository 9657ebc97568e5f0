"""What travels comes out as it went in, and nothing else does."""

from __future__ import annotations

import io
import json
from dataclasses import fields
from datetime import datetime, timezone
from typing import get_args

import pytest

from pgratchet import errors, events
from pgratchet.errors import Interrupted, Location, MigrationFailed, RatchetError, Terminated
from pgratchet.migrations.plan import HistoryRow
from pgratchet.operations import operations, protocol

ODD = 'it\'s: \\ \u00fc \U0001f418 \n \u2028 $(x) "q"'
EVENTS = [
    events.Planned(("a", ODD), 3, 2),
    events.LockAwaited(ODD),
    events.BackupProgress("copy", 1, 2, 3),
    events.BackupRetried(ODD),
    events.BackupsRemoved(("x",)),
    events.BackupTaken("id", ODD, None, 5),
    events.Restored(ODD, 1),
    events.Compared(1, 2, (ODD,)),
    events.Swapped("d", None),
    events.BatchSent(("a", "b")),
    events.StatementDone("a", 1, 2),
    events.Retrying("a", ODD, 10, ("x", "y")),
    events.SnapshotsAwaited("a", (ODD,)),
    events.MigrationApplied("a", 7),
    events.ServerNotice("NOTICE", ODD),
    events.Finished(1, 0),
]


def test_every_kind_of_event_is_tried() -> None:
    assert {type(each) for each in EVENTS} == set(get_args(events.Event))


@pytest.mark.parametrize("event", EVENTS, ids=lambda each: type(each).__name__)
def test_an_event_comes_out_as_it_went_in(event: events.Event) -> None:
    assert protocol.event_of(json.loads(json.dumps(protocol.event(event)))) == event


@pytest.mark.parametrize("kind", list(errors.FAMILY.values()), ids=lambda kind: str(kind.__name__))
def test_an_error_comes_out_as_it_was_raised(kind: type[RatchetError]) -> None:
    signal = Terminated()
    made = Interrupted(signal, detail=ODD, hint="h") if kind is Interrupted else kind(ODD, detail=ODD, hint="h")
    made.place = Location("a", 1, 2, "42P01")
    came = protocol.error_of(json.loads(json.dumps(protocol.error(made)))["error"])
    assert (type(came), came.status, str(came)) == (kind, made.status, str(made))
    if kind is not Interrupted:
        assert came.place == made.place


def test_the_family_has_every_error() -> None:
    assert len(errors.FAMILY) == len(RatchetError.__subclasses__()) - len(_inner(RatchetError))
    assert errors.FAMILY[5] is MigrationFailed


def _inner(kind: type) -> list[type]:
    found: list[type] = kind.__subclasses__()
    return [each for each in found if each.__module__ != "pgratchet.errors"]


def test_texts_follow_the_line_as_they_are() -> None:
    files = (
        operations.TransferredMigration("1_a", 1, "c", "sql/1_a.sql", b"\xff\n\0"),
        operations.TransferredMigration("2_b", 2, "d", "p"),
        operations.TransferredMigration("3_c", 3, "e", "q", b""),
    )
    line, behind = protocol.dumps(operations.Migrate("run", files, "3", None))
    assert "\n" not in line
    source = io.BytesIO(b"".join(behind))
    came = protocol.loads(operations.Migrate, json.loads(line), source.read)
    assert came == operations.Migrate("run", files, "3", None)
    assert came.files[0].text() == b"\xff\n\0"
    with pytest.raises(errors.HistoryDisagrees, match="the history lost 2_b"):
        came.files[1].text()


def test_a_result_comes_out_by_its_type() -> None:
    records = (HistoryRow("a", "c", datetime.now(timezone.utc), 3), HistoryRow("b", "d", None, None))
    assert protocol.loads(tuple[HistoryRow, ...], json.loads(protocol.dumps(records)[0])) == records
    listing = operations.BackupListing("w", {"id": operations.StoredFiles({"f": ("1", "2")}, None)}, ("n",))
    assert protocol.loads(operations.BackupListing, json.loads(protocol.dumps(listing)[0])) == listing


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (HistoryRow, {"name": 1}),
        (HistoryRow, []),
        (operations.Migrate, {"run_id": "x"}),
        (events.Finished, {"total": "1", "pending": 0}),
    ],
)
def test_what_is_not_of_its_type_is_refused(kind: type, shape: object) -> None:
    with pytest.raises(protocol.ProtocolError):
        protocol.loads(kind, shape)


def test_an_event_of_another_version_is_refused() -> None:
    with pytest.raises(protocol.ProtocolError):
        protocol.event_of({"event": "Exploded", "of": {}})


def test_every_job_can_travel() -> None:
    """None has a field that could not be read back."""
    for name, kind in operations.ALL.items():
        assert kind.__name__ == name
        assert fields(kind) is not None  # type: ignore[arg-type]
        protocol._hints(kind)
