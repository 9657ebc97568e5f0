"""The workflow that releases: valid by GitHub's schema, least permissions, pinned actions, and its check of the tag."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgratchet.version import __version__
from tests import ROOT
from tests.requirements import require

WORKFLOW = ROOT / ".github" / "workflows" / "release.yml"
PINNED_BY_TAG = {"pypa/gh-action-pypi-publish"}


def jobs() -> dict[str, Any]:
    shape: dict[str, Any] = yaml.safe_load(WORKFLOW.read_text("utf-8"))
    return dict(shape["jobs"])


def validate(path: Path) -> subprocess.CompletedProcess[str]:
    require("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_workflow_is_valid_by_the_schema_of_github() -> None:
    done = validate(WORKFLOW)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_finds_a_mistake(tmp_path: Path) -> None:
    wrong = tmp_path / "release.yml"
    wrong.write_text(WORKFLOW.read_text("utf-8").replace("attestations: write", "attestations: everything"), "utf-8")
    assert validate(wrong).returncode != 0


def test_each_job_has_only_the_permissions_that_it_needs() -> None:
    assert yaml.safe_load(WORKFLOW.read_text("utf-8"))["permissions"] == {}
    assert {name: job["permissions"] for name, job in jobs().items()} == {
        "build": {"contents": "read"},
        "attest": {"id-token": "write", "attestations": "write"},
        "publish": {"id-token": "write"},
    }
    assert "secrets." not in WORKFLOW.read_text("utf-8")


def test_actions_are_pinned_by_commit_with_their_version_behind() -> None:
    uses = re.findall(r"uses: (\S+)@(\S+)(.*)", WORKFLOW.read_text("utf-8"))
    assert len(uses) == sum("uses" in step for job in jobs().values() for step in job["steps"])
    for action, commit, comment in uses:
        if action in PINNED_BY_TAG:
            assert re.fullmatch(r"v\d+\.\d+\.\d+", commit)
        else:
            assert re.fullmatch(r"[0-9a-f]{40}", commit), action
            assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), action


def test_nothing_is_published_before_it_is_built_and_attested() -> None:
    assert {name: job.get("needs") for name, job in jobs().items()} == {
        "build": None,
        "attest": "build",
        "publish": "attest",
    }
    assert jobs()["publish"]["environment"]["name"] == "pypi"


@pytest.mark.parametrize(
    ("tag", "changelog", "status"),
    [
        (f"v{__version__}", f"## [{__version__}] - 2026-11-26", 0),
        ("v9.9.9", f"## [{__version__}] - 2026-11-26", 1),
        (__version__, f"## [{__version__}] - 2026-11-26", 1),
        (f"v{__version__}", "## [Unreleased]", 1),
        (f"v{__version__}", f"## [{__version__.replace('.', 'x')}]", 1),
    ],
)
def test_a_tag_other_than_the_version_is_refused(tag: str, changelog: str, status: int, tmp_path: Path) -> None:
    (script,) = [step["run"] for step in jobs()["build"]["steps"] if "TAG" in step.get("env", {})]
    (tmp_path / "ops/pgratchet").mkdir(parents=True)
    (tmp_path / "ops/pgratchet/version.py").write_bytes((ROOT / "ops/pgratchet/version.py").read_bytes())
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{changelog}\n", "utf-8")
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script], cwd=tmp_path, env={"TAG": tag, "PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == status
