"""One message of several scripts: its content, and the location of its errors."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgratchet.apply import batch
from pgratchet.apply.diagnosis import Diagnosis
from pgratchet.errors import Location
from pgratchet.migrations.directives import Directives
from pgratchet.migrations.files import Migration
from pgratchet.migrations.lexer import scan
from pgratchet.migrations.scripts import SIZE_LIMIT, Script, Window
from pgratchet.migrations.statement import Statement


def script(name: str, text: bytes) -> Script:
    count = sum(isinstance(piece, Statement) for piece in scan(text))
    return Script(Migration(name, 1, "c", f"{name}.sql"), Directives(), count, len(text))


def frame(_: Script, __: bytes) -> batch.Frame:
    return batch.Frame((b"BEGIN", b"INSERT"), (b"UPDATE", b"COMMIT"))


TEXTS = {"1_a": "a'ü';\n  b -- end".encode(), "2_b": b"-- nothing", "3_c": b"c;\nd"}
FIRST, EMPTY, LAST = SCRIPTS = [script(name, text) for name, text in TEXTS.items()]
SENT = batch.compose([(s, TEXTS[s.name]) for s in SCRIPTS], frame, [b"SELECT"])


def test_every_script_has_its_own_transaction() -> None:
    frames = [b"BEGIN;\nINSERT;\n" + text + b"\n;\nUPDATE;\nCOMMIT;\n" for text in TEXTS.values()]
    assert SENT.text == b"".join(frames) + b"SELECT;\n"
    assert [SENT.text[place] for place in SENT.slices] == list(TEXTS.values())
    assert SENT.results_before == (2, 8, 12)


@pytest.mark.parametrize(
    ("answered", "expected"),
    [
        (0, batch.Failure(Location("1_a"), framing=True)),
        (1, batch.Failure(Location("1_a"), framing=True)),
        (2, batch.Failure(Location("1_a", 1, 1))),
        (3, batch.Failure(Location("1_a", 2, 3))),
        (4, batch.Failure(Location("1_a"))),
        (5, batch.Failure(Location("1_a"))),
        (6, batch.Failure(Location("2_b"), framing=True)),
        (8, batch.Failure(Location("2_b"))),
        (10, batch.Failure(Location("3_c"), framing=True)),
        (13, batch.Failure(Location("3_c", 2, 1))),
        (15, batch.Failure(Location("3_c"))),
    ],
)
def test_an_error_without_a_position_belongs_to_the_unanswered_statement(
    answered: int, expected: batch.Failure
) -> None:
    assert batch.locate(SENT, answered, Diagnosis(None, None)) == expected


@pytest.mark.parametrize(
    ("index", "within", "place"),
    [
        (0, 0, Location("1_a", 1, 1, "42601")),
        (0, 8, Location("1_a", 2, 3, "42601")),
        (0, 16, Location("1_a", 2, 11, "42601")),
        (2, 3, Location("3_c", 2, 1, "42601")),
    ],
)
def test_a_position_is_mapped_into_the_file(index: int, within: int, place: Location) -> None:
    """Also before anything ran, because the server parses the whole string first. Positions count characters."""
    position = len(SENT.text[: SENT.slices[index].start].decode()) + within + 1
    assert batch.locate(SENT, 0, Diagnosis(position, "42601")) == batch.Failure(place)


def test_a_position_outside_the_scripts_falls_back_to_counting_answers() -> None:
    assert batch.locate(SENT, 1, Diagnosis(3, None)).framing


def test_batches_are_limited_and_a_large_script_is_sent_alone() -> None:
    half = script("9_x", b"-" * (SIZE_LIMIT // 2))
    scripts = [FIRST, EMPTY, LAST, half, half, FIRST, LAST]
    assert list(batch.split_into_batches(scripts, 2)) == [(FIRST, EMPTY), (LAST, half), (half, FIRST), (LAST,)]
    assert list(batch.split_into_batches([half, half, FIRST], 3)) == [(half, half), (FIRST,)]
    assert list(batch.split_into_batches([], 2)) == []


def test_a_script_with_rows_or_without_a_transaction_is_sent_alone() -> None:
    copies = replace(FIRST, windows=(Window(0, 1),))
    alone = replace(FIRST, directives=Directives(transactional=False))
    assert list(batch.split_into_batches([EMPTY, copies, alone, LAST], 10)) == [(EMPTY,), (copies,), (alone,), (LAST,)]
    assert [batch.is_sent_alone(s) for s in (EMPTY, copies, alone, LAST)] == [False, True, True, False]


TEXT = "select 'é';\n-- c\ncopy t from stdin;\n1\n2\n\\.\nselect 'ü'; select 3 ;".encode()


def test_an_error_in_a_window_is_located_in_the_whole_file() -> None:
    last = Window(TEXT.index(b"select '\xc3\xbc'"), len(TEXT) - 2)
    copy = Window(TEXT.index(b"copy"), TEXT.index(b"stdin") + 5)
    located = [
        batch.locate_in_window(FIRST, TEXT, last, 0, Diagnosis(8, "x")),
        batch.locate_in_window(FIRST, TEXT, last, 1, Diagnosis(None, "x")),
        batch.locate_in_window(FIRST, TEXT, last, 2, Diagnosis(None, "x")),
        batch.locate_in_window(FIRST, TEXT, copy, 0, Diagnosis(None, "x")),
    ]
    assert [fault.location for fault in located] == [
        Location("1_a", 7, 8, "x"),
        Location("1_a", 7, 13, "x"),
        Location("1_a", 7, 13, "x"),
        Location("1_a", 3, 1, "x"),
    ]
