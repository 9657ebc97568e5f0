"""One round trip: how it is put together, and whose error it is."""

from __future__ import annotations

import pytest

from ops import batch
from ops.errors import Place
from ops.migrations import Directives, Migration, Script
from ops.statements import Statement, scan


def script(name: str, text: str) -> Script:
    statements = tuple(piece for piece in scan(text) if isinstance(piece, Statement))
    return Script(Migration(name, 1, "c", f"{name}.sql"), text, statements, Directives())


def frame(_: Script) -> batch.Frame:
    return batch.Frame(("BEGIN", "INSERT"), ("UPDATE", "COMMIT"))


FIRST, EMPTY, LAST = script("1_a", "a;\n  b -- end"), script("2_b", "-- nothing"), script("3_c", "c;\nd")
SENT = batch.compose((FIRST, EMPTY, LAST), frame)


def test_every_script_has_its_own_transaction() -> None:
    frames = ["BEGIN;\nINSERT;\n" + s.text + "\n;\nUPDATE;\nCOMMIT;\n" for s in (FIRST, EMPTY, LAST)]
    assert SENT.text == "".join(frames)
    assert [SENT.text[at : at + 2] for at in SENT.offsets] == ["a;", "--", "c;"]
    assert SENT.results == (2, 8, 12)


@pytest.mark.parametrize(
    ("answered", "expected"),
    [
        (0, batch.Fault(0, Place("1_a"), framing=True)),
        (1, batch.Fault(0, Place("1_a"), framing=True)),
        (2, batch.Fault(0, Place("1_a", 1, 1), framing=False)),
        (3, batch.Fault(0, Place("1_a", 2, 3), framing=False)),
        (4, batch.Fault(0, Place("1_a"), framing=False)),
        (5, batch.Fault(0, Place("1_a"), framing=False)),
        (6, batch.Fault(1, Place("2_b"), framing=True)),
        (8, batch.Fault(1, Place("2_b"), framing=False)),
        (10, batch.Fault(2, Place("3_c"), framing=True)),
        (13, batch.Fault(2, Place("3_c", 2, 1), framing=False)),
        (15, batch.Fault(2, Place("3_c"), framing=False)),
    ],
)
def test_an_error_without_position_belongs_to_the_statement_that_did_not_answer(
    answered: int, expected: batch.Fault
) -> None:
    assert batch.locate(SENT, answered, None, None) == expected


@pytest.mark.parametrize(
    ("index", "within", "place"),
    [
        (0, 0, Place("1_a", 1, 1, "42601")),
        (0, 5, Place("1_a", 2, 3, "42601")),
        (0, len(FIRST.text) + 1, Place("1_a", 2, 11, "42601")),
        (2, 3, Place("3_c", 2, 1, "42601")),
    ],
)
def test_a_position_is_mapped_into_the_file(index: int, within: int, place: Place) -> None:
    """Also before anything ran: the server parses the whole string first."""
    position = SENT.offsets[index] + within + 1
    assert batch.locate(SENT, 0, position, "42601") == batch.Fault(index, place, framing=False)


def test_a_position_in_the_frame_falls_back_to_counting() -> None:
    assert batch.locate(SENT, 1, 3, None).framing


def test_batches_hold_at_most_so_many_and_a_large_one_goes_alone() -> None:
    large = script("9_x", "-" * (batch.SIZE_LIMIT + 1))
    scripts = [FIRST, EMPTY, LAST, large, FIRST, LAST]
    assert list(batch.batches(scripts, 2)) == [(FIRST, EMPTY), (LAST,), (large,), (FIRST, LAST)]
    assert list(batch.batches([], 2)) == []
