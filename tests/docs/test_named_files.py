"""Names in the manual: files and folders of the repository that a page names exist."""

from __future__ import annotations

import re

from tests import ROOT
from tests.docs.pages import all_pages, page_name

_FILE = re.compile(r"`((?:tests|ops|docs|templates|\.ci|\.github)/[\w./-]+)`")


def test_files_that_the_manual_names_exist() -> None:
    missing = [
        f"{page_name(page)}: {name}"
        for page in all_pages()
        for name in _FILE.findall(page.read_text("utf-8"))
        if not (ROOT / name).exists()
    ]
    assert not missing
