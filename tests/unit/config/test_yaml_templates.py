"""Templates for Kubernetes, GitHub and GitLab are valid by the published schemas with any values."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgratchet.config import inventory, settings
from pgratchet.errors import ConfigurationError
from tests import ROOT
from tests.requirements import import_or_skip, require

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


def rendered(name: str, environ: dict[str, str] | None = None, **variables: object) -> str:
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
    return settings.render_template(name, targets, TEMPLATES, environ or {})


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
    assert "would take for an expression" in caught.value.detail


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
