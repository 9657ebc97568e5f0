"""Templates for Kubernetes, GitHub and GitLab are valid by the published schemas with any values."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgratchet.config import inventory, settings
from pgratchet.config.repository import (
    Repository,
    backup_warnings,
    is_runner,
    keeps_backups_here,
    locate,
    runner_warnings,
)
from pgratchet.errors import ConfigurationError
from tests import ROOT
from tests.requirements import import_or_skip, require
from tests.support.git import git

TEMPLATES = ROOT / "templates"
NAMES = ("k8s/migrate-job.yaml", "ci/github.yml", "ci/gitlab.yml")
HOSTILE = (
    "a: b # c",
    "'\"\\ \\n",
    "$(HOME) $HOME $$ ${X}",
    "line\nend: x",
    "\x7f\x85\u2028\ufeff😀",
    "- yes",
    "{{ 7 * 7 }}",
    "*x &y !z",
    "",
)
SECRET = "the-secret"


def rendered(
    name: str, environ: dict[str, str] | None = None, repository: Repository | None = None, **variables: object
) -> str:
    own = {
        "pg_host": "{{ env('PGHOST_', 'db') }}",
        "pg_dbname": "{{ env('NAME', 'x') }}",
        "pg_user": "u",
        "pg_password": "{{ env('SECRET') }}",
        **variables,
    }
    targets = [
        inventory.InventoryTarget("prod", "tar_get", (), own),
        inventory.InventoryTarget("prod", "other", (), own),
    ]
    return settings.render_template(name, targets, TEMPLATES, environ or {}, repository)


def documents(text: str) -> list[Any]:
    return [each for each in yaml.safe_load_all(text) if each]


def values(shape: object) -> Iterator[object]:
    if isinstance(shape, dict):
        for key, each in shape.items():
            yield key
            yield from values(each)
    elif isinstance(shape, list):
        for each in shape:
            yield from values(each)
    else:
        yield shape


def accepted(name: str, text: str, folder: Path) -> None:
    """Validate with check-jsonschema's copies of the schemas of GitHub and GitLab, and with those of Kubernetes."""
    if name.startswith("k8s"):
        validate = import_or_skip("kubernetes_validate").validate
        for each in documents(text):
            validate(each, "1.33", strict=True)
        return
    require("check_jsonschema")
    path = folder / "rendered.yml"
    path.write_text(text, encoding="utf-8")
    schema = ["vendor.github-workflows"] if "github" in name else ["vendor.gitlab-ci", "--data-transform", "gitlab-ci"]
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", *schema, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_rendered_files_are_valid_by_their_schemas(name: str, tmp_path: Path) -> None:
    accepted(name, rendered(name, {"PGHOST_": "".join(HOSTILE), "NAME": "null"}), tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_the_schemas_find_mistakes(name: str, tmp_path: Path) -> None:
    text = rendered(name)
    wrong = text.replace("backoffLimit: 0", "backofLimit: 0").replace("timeout-minutes: 15", "timeout-minutes: [a]")
    wrong = wrong.replace("interruptible: false", "interruptible: [a]")
    assert wrong != text
    with pytest.raises(Exception, match=r"(?i)backofLimit|valid"):
        accepted(name, wrong, tmp_path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_is_read_back_unchanged(name: str, value: str) -> None:
    text = rendered(name, {"NAME": value, "SECRET": SECRET})
    actual = {str(each).replace("$$", "$") if "github" not in name else each for each in values(documents(text))}
    assert not value or value.replace("$$", "$") in actual or value in actual


@pytest.mark.parametrize("name", NAMES)
def test_a_secret_is_referred_to_and_not_read(name: str) -> None:
    options = {"access_key_id": "{{ env('KEY') }}"}
    text = rendered(name, {"SECRET": SECRET, "KEY": SECRET}, backup_store="s3://b", backup_store_options=options)
    assert SECRET not in text
    assert "SECRET" in text
    assert "KEY" in text


def test_a_value_cannot_add_an_expression_to_a_workflow() -> None:
    with pytest.raises(ConfigurationError) as caught:
        rendered("ci/github.yml", {"NAME": "${{ github.token }}"})
    assert "would evaluate as an expression" in caught.value.detail


def test_the_kubernetes_job_is_confined_and_keeps_its_backups() -> None:
    job, _ = documents(rendered("k8s/migrate-job.yaml", pg_sslrootcert="certs/ca.pem"))
    spec = job["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert job["spec"]["backoffLimit"] == 0
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["args"] == ["migrate", "--env=prod", "--limit=tar_get", "--yes", "--json"]
    (secret,) = [each for each in container["env"] if "valueFrom" in each]
    assert secret["valueFrom"]["secretKeyRef"] == {"name": "postgres-prod", "key": "SECRET", "optional": False}
    mounts = {each["name"]: each for each in container["volumeMounts"]}
    assert mounts["backups"]["mountPath"] == "/app/backups"
    assert (mounts["ca"]["mountPath"], mounts["ca"]["subPath"]) == ("/app/certs/ca.pem", "ca.pem")
    assert {"name": "backups", "persistentVolumeClaim": {"claimName": "backups-prod"}} in spec["volumes"]
    assert "persistentVolumeClaim" not in rendered("k8s/migrate-job.yaml", backup_store="s3://b")


def test_an_unknown_template_is_refused_with_the_known_templates() -> None:
    for name in ("../tasks.py", "k8s/none.yaml", "pgpass"):
        with pytest.raises(ConfigurationError) as caught:
            rendered(name)
        assert "k8s/migrate-job.yaml" in caught.value.detail


@pytest.mark.parametrize("folder", ["", "db", "services/the $shop's db"])
@pytest.mark.parametrize("name", ["ci/github.yml", "ci/gitlab.yml"])
def test_a_workflow_knows_where_the_project_is(name: str, folder: str, tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    root = tmp_path / folder
    root.mkdir(parents=True, exist_ok=True)
    place = locate(root, "migrations", "pgratchet ")
    assert (place.folder, place.sql) == (folder, f"{folder}/migrations" if folder else "migrations")
    text = rendered(name, repository=place)
    accepted(name, text, tmp_path)
    (shape,) = documents(text)
    if name == "ci/github.yml":
        assert shape[True]["pull_request"]["paths"] == [f"{place.sql}/**"]
        assert shape.get("defaults", {}).get("run", {}).get("working-directory", "") == folder
    else:
        assert shape["check migrations"]["rules"][0]["changes"] == [f"{place.sql}/**/*"]
        assert any(str(line).startswith("cd ") for line in shape["check migrations"]["before_script"]) is bool(folder)
    assert "pgratchet migrate --env=prod --yes" in str(shape)
    assert "constraints.txt" not in str(shape), "the project has none"


LISTS = [
    ({}, "python -m pip install 'pgratchet[embedded]=="),
    ({"constraints.txt": "django==5"}, "python -m pip install 'pgratchet[embedded]=="),
    ({"requirements.txt": "pgratchet[embedded]==1\n"}, "python -m pip install -r requirements.txt"),
    (
        {"constraints.txt": "pgratchet==1 \\\n    --hash=sha256:a", "../requirements.txt": "pgratchet"},
        "python -m pip install --require-hashes -r constraints.txt",
    ),
    ({"../requirements.txt": "pgratchet\n"}, "python -m pip install -r ../requirements.txt"),
    ({"constraints.txt": "invoke==3", "ops/pgratchet/x": ""}, "python -m pip install -r constraints.txt"),
]


@pytest.mark.parametrize(("files", "expected"), LISTS)
def test_a_workflow_installs_what_the_project_has(files: dict[str, str], expected: str, tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "db").mkdir()
    for name, text in files.items():
        path = tmp_path / "db" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert locate(tmp_path / "db", "sql", "pgratchet ").install.startswith(expected)


def test_actions_are_pinned_by_commit_and_permissions_are_minimal() -> None:
    (plain,) = documents(rendered("ci/github.yml"))
    assert plain["permissions"] == {}
    assert [job["permissions"] for job in plain["jobs"].values()] == [{"contents": "read"}] * 2
    text = rendered("ci/github.yml", password_command=["aws", "x"], backup_store="gs://b")
    (shape,) = documents(text)
    assert shape["jobs"]["deploy"]["permissions"] == {"contents": "read", "id-token": "write"}
    assert shape["jobs"]["check"]["permissions"] == {"contents": "read"}
    used = [step["uses"] for job in shape["jobs"].values() for step in job["steps"] if "uses" in step]
    assert [use for use in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", use)] == []
    logins = {"aws-actions/configure-aws-credentials", "google-github-actions/auth"}
    assert {use.partition("@")[0] for use in used} >= logins
    assert "role-to-assume: ${{ vars.AWS_ROLE }}" in text


def test_a_password_command_that_a_runner_cannot_run_is_pointed_out() -> None:
    def warnings(*command: str) -> list[str]:
        target = inventory.InventoryTarget("prod", "shop", (), {"password_command": list(command)} if command else {})
        return list(runner_warnings([target]))

    for program in ("pass", "/usr/bin/secret-tool", "security"):
        (warning,) = warnings(program, "show", "x")
        assert "which a runner does not have." in warning
        assert "prod: shop" in warning
    (note,) = warnings("vault", "kv", "get")
    assert "the runner needs this program" in note
    assert warnings() == []


@pytest.mark.parametrize(
    ("variables", "is_lost"),
    [
        ({}, True),
        ({"backup_dir": "elsewhere", "reach": "tunnel"}, True),
        ({"reach": "ssh", "backup_at": "here"}, True),
        ({"reach": "ssh"}, False),
        ({"backup_store": "s3://b"}, False),
        ({"backup_store": "{{ env('STORE') }}"}, False),
        ({"backup_command": ["pgbackrest", "backup"]}, False),
        ({"backup_policy": "never"}, False),
    ],
)
def test_backups_that_a_runner_would_lose_are_pointed_out(variables: dict[str, Any], is_lost: bool) -> None:
    target = inventory.InventoryTarget("prod", "shop", (), variables)
    assert keeps_backups_here(target) == is_lost
    assert [warning[:11] for warning in backup_warnings([target])] == (["prod: shop:"] if is_lost else [])


def test_a_runner_is_known_by_its_variables() -> None:
    assert all(is_runner(environ) for environ in ({"CI": "true"}, {"GITHUB_ACTIONS": "1"}))
    assert not any(is_runner(environ) for environ in ({"CI": "false"}, {"CI": ""}, {"CIRCLE": "1"}, {}))


def test_the_workflow_checks_on_another_server_where_one_is_named() -> None:
    plain, other = rendered("ci/github.yml"), rendered("ci/github.yml", {"CI_SERVER": "docker:postgres:15"})
    assert "--server" not in plain
    assert "testcontainers" not in plain
    (shape,) = documents(other)
    install, check = [step["run"] for step in shape["jobs"]["check"]["steps"] if "run" in step]
    assert install.endswith("pip install squawk-cli testcontainers")
    assert check.endswith("ci --against=origin/main --server=docker:postgres:15")


def test_the_check_of_a_pull_request_has_one_comment_where_sizes_are_named() -> None:
    plain, other = rendered("ci/github.yml"), rendered("ci/github.yml", {"CI_SIZES": "sizes.json"})
    assert "pull-requests" not in plain
    (shape,) = documents(other)
    job = shape["jobs"]["check"]
    _, check, comment = [step["run"] for step in job["steps"] if "run" in step]
    assert check.endswith(" --sizes=sizes.json --markdown=impact.md")
    assert comment == 'gh pr comment "$NUMBER" --edit-last --create-if-none --body-file impact.md'
    assert job["permissions"] == {"contents": "read", "pull-requests": "write"}
    assert "--sizes" not in rendered("ci/gitlab.yml")
    (shape,) = documents(rendered("ci/gitlab.yml", {"CI_SIZES": "backup"}))
    job = shape["check migrations"]
    assert job["script"][-1].endswith(" --sizes=backup --code-quality=impact.json")
    assert job["artifacts"] == {"when": "always", "reports": {"codequality": "impact.json"}}
