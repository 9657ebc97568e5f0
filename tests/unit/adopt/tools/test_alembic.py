"""Alembic: revisions and heads."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgratchet.adopt.tools import (
    alembic,
)
from pgratchet.errors import ConfigurationError
from tests.unit.adopt.helpers import states, write


def revision(name: str, below: str, extra: str = "") -> str:
    return (
        f'"""{name}"""\nimport sqlalchemy\nrevision: str = "{name}"\ndown_revision = {below}\n{extra}raise SystemExit\n'
    )


def test_alembic_revisions_are_ordered_from_the_heads_without_running_them(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "zz_first.py": revision("zz", "None"),
            "aa_second.py": revision("aa", "'zz'"),
            "bb_branch.py": revision("bb", "'zz'", "depends_on = 'aa'\n"),
            "cc_merge.py": revision("cc", "('aa', 'bb')"),
            "__init__.py": "",
        },
    )
    files = alembic.files(tmp_path)
    assert [each.keys[0] for each in files] == ["zz", "aa", "bb", "cc"]
    assert [row.keys[0] for row in alembic.rows([{"version_num": "bb"}], files)] == ["zz", "aa", "bb"]
    result = states(files, alembic.rows([{"version_num": "cc"}], files))
    assert result[0] == ("0001_first", "claimed")
    assert [state for _, state in states(files, alembic.rows([{"version_num": "nn"}], files))][-1] == "no file"
    write(tmp_path, **{"dd.py": "this is not"})
    with pytest.raises(ConfigurationError, match="is not valid Python"):
        alembic.files(tmp_path)
