"""Mistakes in values name the environment variable, the env file or the URL that the value comes from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgratchet.config import env_file, inventory, settings
from pgratchet.config.inventory import InventoryTarget
from pgratchet.errors import ConfigurationError
from tests.unit.config.helpers import TEMPLATES, no_server, resolve

CANARY = "hunter2canary"


@contextmanager
def accepted_or_refused_without_the_value(variable: str) -> Iterator[None]:
    error: ConfigurationError | None = None
    try:
        yield
    except ConfigurationError as raised:
        error = raised
    assert CANARY not in str(error)
    assert error is None or variable in str(error)


@pytest.mark.parametrize(
    ("environ", "variables", "message"),
    [
        ({"P": "five"}, {"pg_port": "{{ env('P') }}"}, 'not "five". The value comes from P.'),
        (
            {"P": "5", "Q": "min"},
            {"pg_port": "{{ env('P') }}{{ env('Q') }}"},
            'not "5min". The value comes from P and Q.',
        ),
        ({"T": "30s"}, {"lock_timeout": "{{ env('T') }}"}, '"30s": write milliseconds, 30000. The value comes from T.'),
        ({}, {"pg_port": "{{ env('P', 'five') }}"}, 'not "five".'),
        (
            {"H": "localhost:5433"},
            {"pg_host": "{{ env('H') }}"},
            "write it as pg_port. The value comes from H.",
        ),
        ({"T": "x1y2z3"}, {"lock_timeout": "{{ env('T') }}"}, "to 2147483647. The value comes from T."),
        ({"U": "postgresql://user:secret"}, {"pg_url": "{{ env('U') }}"}, "by commas. The value comes from U."),
        ({"U": "postgresql://h:0/d"}, {"pg_url": "{{ env('U') }}"}, 'not "0". The value comes from U.'),
        ({}, {"pg_url": "postgresql://h/d?sslmode=verify_full"}, "The value comes from the URL in pg_url."),
    ],
)
def test_a_wrong_value_names_its_origin(environ: dict[str, str], variables: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve(environ, **variables)
    assert caught.value.detail.endswith(message)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", f"postgresql://u:{CANARY}@h/d"),
        ("POSTGRES_PASSWORD", CANARY),
        ("API_KEY", CANARY),
        ("OTHER", "c4n4ryhunter2canary"),
        ("OTHER", f"{CANARY}:5432"),
        ("OTHER", f"[{CANARY}]"),
        ("OTHER", f"postgresql://u:{CANARY}@h/d"),
        ("OTHER", f"host=h password={CANARY}"),
    ],
)
def test_a_value_that_may_be_a_secret_is_not_shown(name: str, value: str) -> None:
    template = f"{{{{ env('{name}') }}}}"
    for variable in ("pg_port", "lock_timeout", "pg_sslmode", "pg_host", "confirm", "ssh_host"):
        with accepted_or_refused_without_the_value(variable):
            resolve({name: value}, **{variable: template})


def test_a_wrong_part_of_a_url_has_the_position_of_the_url(tmp_path: Path) -> None:
    (tmp_path / "x.yml").write_text(
        "all:\n  hosts:\n    a:\n      pg_dbname: d\n      pg_url: \"{{ env('U') }}\"\n      pg_port: 1\n"
    )
    (target,) = inventory.load(tmp_path, "x")
    with pytest.raises(ConfigurationError, match=r"x\.yml:5: target a: pg_port: .*The value comes from U\."):
        settings.render_target(target, TEMPLATES, {"U": "postgresql://u@h:99999/d"}, no_server)


def test_a_mistake_in_a_template_of_the_inventory_has_a_position(tmp_path: Path) -> None:
    (tmp_path / "x.yml").write_text(
        "all:\n  hosts:\n    a:\n      pg_dbname: d\n      pg_user: \"{{ env('NOWHERE') }}\"\n"
        "      pg_host: '{% iff x %}'\n      pg_sslmode: '{{ PG_MODE }}'\n      pg_port: '{{ envv(1) }}'\n"
    )
    (target,) = inventory.load(tmp_path, "x")
    with pytest.raises(ConfigurationError) as caught:
        settings.render_target(target, TEMPLATES, {"NOWHER": "1"}, no_server)
    user, host, mode, port = caught.value.detail.splitlines()
    place = f"{tmp_path}/x.yml"
    missing = "the environment variable NOWHERE is not set. NOWHER is set."
    assert user == f"{place}:5: target a: pg_user: {missing}"
    assert host == f"{place}:6: target a: pg_host: its template cannot be read: Encountered unknown tag 'iff'."
    assert mode.startswith(f"{place}:7: target a: pg_sslmode: 'PG_MODE' is undefined.")
    assert mode.endswith("{{ env('PG_MODE') }}.")
    assert port.startswith(f"{place}:8: target a: pg_port: 'envv' is undefined.")


def test_a_missing_user_names_a_template_that_exists(tmp_path: Path) -> None:
    target = InventoryTarget("prod", "shop", (), {"pg_dbname": "d"})
    for folder, shown in (
        (TEMPLATES, f"{TEMPLATES}/pg_service.conf.j2:"),
        (tmp_path, "pg_service.conf.j2 of the package"),
    ):
        with pytest.raises(ConfigurationError, match="pg_user is missing") as caught:
            settings.render_target(target, folder, {}, no_server)
        assert f"The template {shown}" in caught.value.detail
        assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "message", "detail"),
    [
        ("[{{ target }}]\nhost={{ pg_hots }}\n", ":2: the template cannot be rendered", "Did you mean pg_host?"),
        ("\n\n{{ env('NOWHERE') }}\n", ":3: the template cannot be rendered", "NOWHERE is not set."),
        ("[{{ target }}]\n{% iff %}\n", ":2: not a template", "Encountered unknown tag 'iff'."),
        ("a\nb\n{{ 1 / 0 }}\n", ":3: the template cannot be rendered", "division by zero."),
        ("a\n{% include 'nix.j2' %}\n", "no template ", "pg_service.conf.j2:2 refers to it. Did you mean nyx.j2?"),
        ("a\n{% include 'nyx.j2' %}\n", "nyx.j2:2: the template cannot be rendered", "'nothing' is undefined."),
    ],
)
def test_a_mistake_in_a_template_has_a_line(tmp_path: Path, template: str, message: str, detail: str) -> None:
    (tmp_path / "pg_service.conf.j2").write_text(template)
    (tmp_path / "nyx.j2").write_text("\n{{ nothing }}\n")
    with pytest.raises(ConfigurationError) as caught:
        settings.render_target(InventoryTarget("env", "t", (), {"pg_dbname": "d"}), tmp_path, {}, no_server)
    assert message in caught.value.message
    assert detail in caught.value.detail
    assert ".." not in str(caught.value)
    if "NOWHERE" in template:
        assert caught.value.hint.startswith("Set NOWHERE, or give a default in the template")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("githb", "ci/github.yml"),
        ("k8s", "k8s/migrate-job.yaml"),
        ("gitlab", "ci/gitlab.yml"),
        ("gitlab.yml", "ci/gitlab.yml"),
    ],
)
def test_a_template_is_suggested_by_a_part_of_its_name(name: str, near: str) -> None:
    target = InventoryTarget("env", "t", (), {"pg_dbname": "d"})
    with pytest.raises(ConfigurationError, match=f'there is no template "{name}"') as caught:
        settings.render_template(name, [target], TEMPLATES, {})
    assert caught.value.detail.endswith(f"Did you mean {near}?")


def test_lines_of_an_env_file_that_cannot_be_read_are_named_without_their_text(tmp_path: Path) -> None:
    target = InventoryTarget("dev", "shop", (), {"env_file": ".env"})
    (tmp_path / ".env").write_text(f"# comment\nA=1\n\nfoo {CANARY}\nB='{CANARY}\nC=2\nD='3' 4\n")
    lines = list(env_file.unread_lines(tmp_path, target))
    assert lines == [
        f"{tmp_path}/.env:4: not in the form NAME=VALUE, so this line is left out.",
        f"{tmp_path}/.env:5: a quote is not closed, so the lines 5 to 7 are left out.",
    ]
    assert env_file.with_file(tmp_path, target, {}) == {"A": "1"}
    (tmp_path / ".env").write_text("A=1\nexport B='x y'\n\n  # c\nC\n")
    assert list(env_file.unread_lines(tmp_path, target)) == []


def test_a_value_of_the_env_file_names_the_file(tmp_path: Path) -> None:
    variables = {"pg_dbname": "d", "pg_user": "u", "pg_port": "{{ env('ONLY_IN_FILE') }}", "env_file": "my.env"}
    with pytest.raises(ConfigurationError, match=r"The value comes from ONLY_IN_FILE in my\.env"):
        settings.render_target(
            InventoryTarget("dev", "shop", (), variables), TEMPLATES, {"ONLY_IN_FILE": "x"}, no_server
        )
