"""What every task does: it asks for consent, and obeys or refuses the flags of Invoke."""

from __future__ import annotations

import json

import pytest
from invoke.config import Config
from invoke.context import Context
from invoke.exceptions import Exit

from pgratchet.console import output
from pgratchet.errors import ConfigurationError
from pgratchet.tasks import ns
from pgratchet.tasks.support import consent


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("y", 'you typed "y"'),
        ("Prod", 'you typed "Prod"'),
        ("", "you typed nothing"),
        (None, "there is no terminal to ask at"),
    ],
)
def test_only_the_name_of_the_environment_is_consent(
    monkeypatch: pytest.MonkeyPatch, typed: str | None, reason: str
) -> None:
    monkeypatch.setattr(output, "ask", lambda _: typed)
    with pytest.raises(ConfigurationError) as caught:
        consent("prod", yes=False)
    assert caught.value.message == f"prod was not confirmed: {reason}"


def test_the_name_and_yes_are_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "ask", lambda _: "prod")
    consent("prod", yes=False)
    monkeypatch.setattr(output, "ask", lambda _: pytest.fail("asked"))
    consent("prod", yes=True)


@pytest.mark.parametrize("name", ["migrate", "restore", "down"])
def test_the_flag_dry_of_invoke_runs_no_task(capsys: pytest.CaptureFixture[str], name: str) -> None:
    context = Context(Config(overrides={"run": {"dry": True}}))
    with pytest.raises(Exit) as ended:
        ns.tasks[name](context)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("--dry is a flag of Invoke")


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("restore", {"show_lost": True, "into": "x"}, "--show-lost and --into cannot be given together"),
        ("restore", {"export_lost": "x", "max_size": "10MB"}, "--max-size needs a whole number"),
        ("adopt", {"baseline": "001", "from_": "flyway"}, "--baseline and --from cannot be given together"),
        ("migrate", {"env": ""}, "--env needs a value"),
        ("ci", {"server": " "}, "--server needs a value"),
    ],
)
def test_wrong_flags_end_a_task_before_it_reads_anything(
    capsys: pytest.CaptureFixture[str], name: str, flags: dict[str, object], message: str
) -> None:
    """Also under `invoke`, which knows nothing of it."""
    with pytest.raises(Exit) as ended:
        ns.tasks[name](Context(), **flags, json=True)
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.err.startswith(f"{message}\nDETAIL: ")
    assert json.loads(printed.out)["error"]["message"] == message
