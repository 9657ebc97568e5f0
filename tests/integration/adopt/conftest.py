"""Fixtures of the tests of adopt."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.adopt.helpers import ToolProject
from tests.servers.databases import Database


@pytest.fixture
def project(database: Database, tmp_path: Path) -> ToolProject:
    (tmp_path / "files").mkdir()
    return ToolProject(database, tmp_path / "files", tmp_path / "sql")
