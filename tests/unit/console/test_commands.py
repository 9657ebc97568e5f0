"""Hints name commands as the user has to type them."""

from __future__ import annotations

import pytest

from pgratchet.console import commands

HINT = "Run `invoke migrate`, or `invoke restore --drop-old`. See `invoke status --env=dev` and `invoke new NAME`."


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (["invoke", "migrate"], None, HINT),
        (
            ["/bin/pgratchet", "migrate"],
            "prod",
            (
                "Run `pgratchet migrate --env=prod`, or `pgratchet restore --env=prod --drop-old`. See `pgratchet "
                "status --env=dev` and `pgratchet new NAME`."
            ),
        ),
        (
            ["inv", "db.migrate"],
            "a b",
            (
                "Run `inv db.migrate --env='a b'`, or `inv db.restore --env='a b' --drop-old`. See `inv db.status "
                "--env=dev` and `inv db.new NAME`."
            ),
        ),
    ],
)
def test_a_hint_repeats_the_program_the_collection_and_the_environment(
    arguments: list[str], environment: str | None, expected: str
) -> None:
    with commands.called_as("migrate", arguments, environment):
        assert commands.typed(HINT) == expected
    assert commands.typed(HINT) == HINT


def test_each_command_of_a_line_is_named() -> None:
    with commands.called_as("migrate", ["pgratchet"], "x"):
        assert commands.typed("invoke migrate, invoke up") == "pgratchet migrate --env=x, pgratchet up --env=x"
