"""Requests, events, errors and results are decoded unchanged, and nothing else is accepted."""

from __future__ import annotations

import io
import json
from dataclasses import is_dataclass
from datetime import datetime, timezone
from typing import get_args, get_type_hints

import pytest

from pgratchet import errors, events
from pgratchet.database.identity import OtherNames
from pgratchet.database.target import Origins, ReceivedTarget, TargetStorage
from pgratchet.errors import Interrupted, Location, MigrationFailed, RatchetError, Terminated
from pgratchet.migrations.plan import HistoryRow
from pgratchet.operations import agent, protocol
from pgratchet.operations.backups import BackupListing, StoredFiles, TakeBackup
from pgratchet.operations.migrate import Migrate, TransferredMigration
from pgratchet.operations.protocol import Request, RunInfo
from pgratchet.variables import StorageVariables, Variables

ODD = 'it\'s: \\ \u00fc \U0001f418 \n \u2028 $(x) "q"'
EVENTS = [
    events.Planned(("a", ODD), 3, 2),
    events.LockAwaited(ODD),
    events.BackupProgress("copy", 1, 2, "t"),
    events.BackupRetried(ODD),
    events.BackupsRemoved(("x",)),
    events.LeftOut((ODD,)),
    events.RetentionSkipped(("x",), ODD),
    events.SpaceLow(ODD, 1, 2),
    events.BackupTaken("id", ODD, None, 5),
    events.Restored(ODD, 1),
    events.ItemNotRestored("INDEX i", ODD, ODD),
    events.Compared(1, 2, (ODD,)),
    events.RightsMissing((ODD,)),
    events.SessionsAwaited("d", (ODD,)),
    events.Swapped("d", None),
    events.MigrationBegun("a"),
    events.BatchSent(("a", "b")),
    events.StatementDone("a", 1, 2),
    events.Retrying("a", ODD, 10, ("x", "y")),
    events.SnapshotsAwaited("a", (ODD,)),
    events.MigrationApplied("a", 7),
    events.Rehearsed("a", 7),
    events.ServerNotice("NOTICE", ODD),
    events.Finished(1, 0),
]


def test_the_samples_cover_every_kind_of_event() -> None:
    assert {type(each) for each in EVENTS} == set(get_args(events.Event))


@pytest.mark.parametrize("event", EVENTS, ids=lambda each: type(each).__name__)
def test_an_event_is_decoded_unchanged(event: events.Event) -> None:
    assert protocol.event_of(json.loads(json.dumps(protocol.event(event)))) == event


@pytest.mark.parametrize("kind", list(errors.ERRORS_BY_EXIT_CODE.values()), ids=lambda kind: str(kind.__name__))
def test_an_error_is_decoded_unchanged(kind: type[RatchetError]) -> None:
    signal = Terminated()
    error = Interrupted(signal, detail=ODD, hint="h") if kind is Interrupted else kind(ODD, detail=ODD, hint="h")
    error.location = Location("a", 1, 2, "42P01")
    came = protocol.error_of(json.loads(json.dumps(protocol.error(error)))["error"])
    assert (type(came), came.status, str(came)) == (kind, error.status, str(error))
    if kind is not Interrupted:
        assert came.location == error.location


def test_every_error_can_be_decoded() -> None:
    assert len(errors.ERRORS_BY_EXIT_CODE) == len(RatchetError.__subclasses__()) - len(_inner(RatchetError))
    assert errors.ERRORS_BY_EXIT_CODE[5] is MigrationFailed


def _inner(kind: type) -> list[type]:
    classes: list[type] = kind.__subclasses__()
    return [each for each in classes if each.__module__ != "pgratchet.errors"]


def received(request: Request) -> Request:
    """The request as the other machine reads it. Nothing is left over."""
    source = io.BytesIO(protocol.encode_request(request))
    length = b"".join(iter(lambda: source.read(1), b" "))
    line = source.read(int(length))
    decoded = protocol.decode_request(line, source.read, agent.QUERIES | agent.TASKS)
    assert source.read() == b""
    return decoded


VARIABLES = Variables(pg_dbname=ODD, backup_recipients=(ODD,), backup_store_options={"a": ODD})
OTHERS = OtherNames((ODD,), (ODD,))
TARGET = ReceivedTarget("prod", "shop", VARIABLES, {"dbname": ODD}, ODD, OTHERS, "secret", ODD, Origins("PGPW", ODD))


def test_file_contents_follow_the_request_unencoded() -> None:
    files = (
        TransferredMigration("1_a", 1, "c", "sql/1_a.sql", b"\xff\n\0"),
        TransferredMigration("2_b", 2, "d", "p"),
        TransferredMigration("3_c", 3, "e", "q", b""),
    )
    migrate = Migrate("run", files, "3", None)
    request = Request(migrate, TARGET, 20, RunInfo("run", "migrate", ("1_a",)), hands_over=True)
    decoded = received(request)
    assert decoded == request
    assert isinstance(decoded.operation, Migrate)
    assert decoded.operation.files[0].text() == b"\xff\n\0"
    with pytest.raises(errors.HistoryDisagrees, match="the history no longer has 2_b"):
        decoded.operation.files[1].text()


def test_a_target_without_a_connection_arrives_without_one() -> None:
    request = Request(TakeBackup("label"), TargetStorage("prod", "shop", StorageVariables(ssh_host="db")), 20)
    decoded = received(request)
    assert decoded == request
    assert type(decoded.target) is TargetStorage


def test_the_variables_are_the_same_class_on_both_machines() -> None:
    decoded = received(Request(TakeBackup(), TARGET, 20))
    assert type(decoded.target.variables) is Variables
    assert decoded.target.variables == VARIABLES


def test_a_result_is_decoded_by_its_type() -> None:
    rows = (HistoryRow("a", "c", datetime.now(timezone.utc), 3), HistoryRow("b", "d", None, None))
    assert protocol.loads(tuple[HistoryRow, ...], _sent(rows)) == rows
    listing = BackupListing("w", {"id": StoredFiles({"f": ("1", "2")}, None)}, ("n",))
    assert protocol.loads(BackupListing, _sent(listing)) == listing


def _sent(result: object) -> object:
    return json.loads(json.dumps(protocol.result(result)))["result"]


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (HistoryRow, {"name": 1}),
        (HistoryRow, []),
        (Migrate, {"run_id": "x"}),
        (events.Finished, {"total": "1", "pending": 0}),
    ],
)
def test_a_value_of_another_type_is_refused(kind: type, shape: object) -> None:
    with pytest.raises(protocol.ProtocolError):
        protocol.loads(kind, shape)


def test_an_event_of_another_version_is_refused() -> None:
    with pytest.raises(protocol.ProtocolError):
        protocol.event_of({"event": "Exploded", "of": {}})


@pytest.mark.parametrize(("name", "kind"), [*agent.QUERIES.items(), *agent.TASKS.items()])
def test_every_operation_can_be_sent(name: str, kind: type) -> None:
    assert kind.__name__ == name
    assert is_dataclass(kind)
    assert protocol._hints(kind) is not None


@pytest.mark.parametrize("kind", agent.QUERIES.values(), ids=lambda kind: str(kind.__name__))
def test_every_query_says_what_type_its_answer_has(kind: type) -> None:
    """The client decodes the answer by this annotation."""
    assert "return" in get_type_hints(kind.run)  # type: ignore[attr-defined]
