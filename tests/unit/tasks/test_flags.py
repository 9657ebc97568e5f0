"""Values of flags: empty ones, and numbers."""

from __future__ import annotations

import pytest

from pgratchet.errors import ConfigurationError
from pgratchet.tasks.flags import require_values, whole_number
from pgratchet.tasks.lost_rows import max_size_of


@pytest.mark.parametrize(
    ("name", "flag"), [("env", "--env"), ("from_", "--from"), ("without_backup", "--without-backup")]
)
@pytest.mark.parametrize("value", ["", " ", "\t\n"])
def test_an_empty_value_is_refused(name: str, flag: str, value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        require_values({"json": False, "limit": None, name: value})
    assert caught.value.message == f"{flag} needs a value"
    assert caught.value.hint.startswith(f"Write {flag}=")


def test_values_and_flags_that_were_not_given_are_accepted() -> None:
    require_values({"env": "prod", "json": False, "limit": None, "exclude": True, "name": ""})


@pytest.mark.parametrize("text", ["lots", "10MB", "1.5", "1e3", "١٠", "", "1_000", "9" * 5000, "0x10", "--1"])
def test_a_text_that_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        max_size_of(text)
    assert caught.value.parts == (
        "--max-size needs a whole number",
        f'"{text}" is none.',
        "Give megabytes, such as --max-size=1000.",
    )


@pytest.mark.parametrize("text", ["0", "-5", "-0"])
def test_a_size_must_be_positive(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--max-size must be at least 1"):
        max_size_of(text)


def test_whole_numbers_are_converted() -> None:
    assert max_size_of(None) == 1000
    assert [whole_number("max_size", text, hint="") for text in ("1", " 20 ", "+5", "007")] == [1, 20, 5, 7]
