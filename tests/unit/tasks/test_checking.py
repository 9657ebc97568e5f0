"""Where a scratch server, or another environment, is named wrongly."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgratchet.errors import ConfigurationError
from pgratchet.tasks.project import DEFAULTS, Project
from pgratchet.tasks.scratch import scratch_server


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "inventory").mkdir()
    (tmp_path / "inventory" / "dev.yml").write_text("all: {hosts: {a: {pg_dbname: a}}}")
    return Project(tmp_path, DEFAULTS)


@pytest.mark.parametrize("name", ["mysql", "docker", "postgres:18"])
def test_an_unknown_scratch_server_names_the_flag_of_ci_and_images(project: Project, name: str) -> None:
    with pytest.raises(ConfigurationError, match="unknown environment") as caught, scratch_server(project, name):
        pass
    assert "--server=NAME" in caught.value.hint
    assert "docker:IMAGE, such as --server=docker:postgres:18" in caught.value.hint
    assert "--env" not in caught.value.hint


def test_an_image_needs_a_name(project: Project) -> None:
    with (
        pytest.raises(ConfigurationError, match="--server=docker: names no image"),
        scratch_server(project, "docker:"),
    ):
        pass


@pytest.mark.parametrize("variable", ["drill_environment", "restore_environment"])
def test_an_unknown_environment_in_the_inventory_names_its_variable(project: Project, variable: str) -> None:
    with pytest.raises(ConfigurationError, match="unknown environment") as caught:
        project.other_target(variable, "scratch")
    assert caught.value.hint.startswith(f"Choose one with `{variable}: NAME`, or ")
