"""The errors: exit codes, wording and formats."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgratchet import errors
from pgratchet.errors import Location, RatchetError, combine_mistakes

PACKAGE = Path(errors.__file__).parent
FAMILY = {
    "ConfigurationError": 2,
    "LockBusy": 4,
    "MigrationFailed": 5,
    "StoppedPartWay": 6,
    "OutcomeUnknown": 7,
    "HistoryDisagrees": 8,
    "BackupFailed": 9,
    "Unreachable": 10,
    "NotRehearsed": 11,
    "SchemaDiffers": 12,
    "Interrupted": 130,
}


def test_every_error_has_an_exit_code_and_is_in_the_docstring() -> None:
    members = {cls.__name__: cls.exit_code for cls in RatchetError.__subclasses__()}
    assert members == FAMILY
    for name, code in FAMILY.items():
        assert re.search(rf"── {name} +{code}  ", errors.__doc__ or ""), name


def test_message_detail_and_hint_are_printed_on_separate_lines() -> None:
    error = RatchetError("it failed", detail="One.\nTwo.", hint="Do this.\nOr that.")
    assert str(error) == "it failed\nDETAIL: One.\n        Two.\nHINT: Do this.\n      Or that."
    assert str(RatchetError("it failed")) == "it failed"


def test_json_has_every_key_even_if_unknown() -> None:
    place = Location("0009_y", 12, 8, "42703")
    assert errors.MigrationFailed("m", detail="d", hint="h", location=place).as_json() == {
        "code": 5,
        "message": "m",
        "detail": "d",
        "hint": "h",
        "migration": "0009_y",
        "path": None,
        "line": 12,
        "column": 8,
        "sqlstate": "42703",
    }
    assert set(RatchetError("m").as_json().values()) == {1, "m", "", None}


@pytest.mark.parametrize(
    ("place", "shown"),
    [(Location("a"), "a"), (Location("a", 2), "a:2"), (Location("a", 2, 3, path="sql/a.sql"), "sql/a.sql:2:3")],
)
def test_locations_are_formatted(place: Location, shown: str) -> None:
    assert str(place) == shown


def test_several_mistakes_are_counted() -> None:
    assert combine_mistakes("bad", ["a."], "h").message == "bad: 1 mistake"
    assert combine_mistakes("bad", ["a.", "b."], "h").detail == "a.\nb."


def raised() -> Iterator[tuple[str, ast.Call]]:
    """Every call that creates an error, in the source of the package."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in {*FAMILY, "RatchetError"} - {"Interrupted"}
            ):
                yield f"{path.name}:{node.lineno}", node


def wording(node: ast.expr) -> str:
    """The text of a literal, with x for each value."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else ""


def test_messages_are_lower_case_without_a_full_stop() -> None:
    for where, call in raised():
        message = wording(call.args[0])
        assert message, where
        assert not message.endswith("."), where
        assert "\n" not in message, where
        assert not message[0].isupper(), where


def test_every_error_has_a_hint_in_whole_sentences() -> None:
    for where, call in raised():
        arguments = {keyword.arg: wording(keyword.value) for keyword in call.keywords}
        assert "hint" in arguments, where
        for part in ("hint", "detail"):
            text = arguments.get(part, "")
            assert not text or text[0].isupper() or text[0] in 'x`-"', where
            assert not text or text.endswith((".", "x", "?")) or "\ninvoke " in text, where


def test_a_hint_names_the_task_that_ran_the_migrations() -> None:
    error = errors.MigrationFailed("m", hint="Fix sql/1_a.sql; then run `invoke migrate` again.")
    error.rerun_with("ci")
    assert error.hint == "Fix sql/1_a.sql; then run `invoke ci` again."
