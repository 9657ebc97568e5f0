"""The values that a shell offers behind a flag, as Bash, zsh and fish ask for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgratchet.adopt.tools.registry import TOOLS
from pgratchet.tasks.completion import complete_value

INVENTORY = "all:\n  children:\n    web:\n      hosts:\n        {name}_a: {{pg_dbname: a}}\n"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPS_ENV", raising=False)
    for folder in ("inventory", "sql", "backups/prod/prod_a/20260101T000000-aaaa"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("dev", "prod"):
        (tmp_path / "inventory" / f"{name}.yml").write_text(INVENTORY.format(name=name))
    (tmp_path / "backups/prod/prod_a/20260101T000000-aaaa/manifest.json").write_text("{}")
    (tmp_path / "sql" / "001_users.sql").write_text("select 1;")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("pgratchet migrate --env", ["dev", "prod"]),
        ("pgratchet migrate --env =", ["dev", "prod"]),
        ("pgratchet migrate --env = pr", ["dev", "prod"]),
        ("pgratchet migrate --env pr", ["dev", "prod"]),
        ("pgratchet migrate -e pr", ["dev", "prod"]),
        ("pgratchet migrate --env=pr", ["--env=dev", "--env=prod"]),
        ("pgratchet ci --server=", ["--server=dev", "--server=prod"]),
        ("pgratchet status --limit", ["all", "dev_a", "web"]),
        ("pgratchet status --env = prod --limit = ", ["all", "prod_a", "web"]),
        ("pgratchet status --env=prod --limit=", ["--limit=all", "--limit=prod_a", "--limit=web"]),
        ("pgratchet restore --env prod --backup", ["20260101T000000-aaaa"]),
        ("pgratchet restore --backup", []),
        ("pgratchet migrate --to", ["001_users"]),
        ("pgratchet status --env=nothing --limit=", []),
        ("pgratchet adopt --from=fly", [f"--from={tool.name}" for tool in TOOLS]),
        ("pgratchet migrate", None),
        ("pgratchet migrate --lab", None),
        ("pgratchet migrate --env=prod --dry-run", None),
        ("pgratchet new 'open", None),
    ],
)
def test_values_of_flags_are_completed(line: str, expected: list[str] | None) -> None:
    assert complete_value(line, {}) == expected


def test_templates_of_the_package_are_completed() -> None:
    assert "k8s/migrate-job.yaml" in (complete_value("pgratchet render --template", {}) or [])
