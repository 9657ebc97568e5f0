"""The manual as a site: MkDocs builds it in strict mode, which checks every link and anchor."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests import ROOT


def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", ".mkdocs.yml", "-d", str(tmp_path)],
        cwd=ROOT,
        env={"PATH": "", "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert "WARNING" not in process.stderr
    assert (tmp_path / "search" / "search_index.json").exists()


def test_each_page_has_one_title_and_is_in_the_navigation() -> None:
    navigation = (ROOT / ".mkdocs.yml").read_text("utf-8")
    for page in sorted((ROOT / "docs").rglob("*.md")):
        outside_code = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        assert len(re.findall(r"^# ", outside_code, re.MULTILINE)) == 1, page
        assert page.relative_to(ROOT / "docs").as_posix() in navigation, page


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text("utf-8")):
        assert (ROOT / target).exists(), target
