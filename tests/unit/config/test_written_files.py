"""The files of `render`: those that pgratchet wrote are replaced, and all others are refused."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from pgratchet.config import written_files
from pgratchet.config.written_files import MARK
from pgratchet.errors import ConfigurationError
from tests.unit.config.helpers import TEMPLATES

TEXTS = {
    "database.env": "# dev: shop\nDATABASE_URL='postgresql://me@h:1/d'\nPOSTGRES_HOST='h'\n",
    "pg_service.conf": "# dev\n[shop]\nhost=h\n",
    "pgpass": "h:1:*:me:secret\n",
    "yaml": "stages: [check]\n",
}
"""The new text of each format."""


def write(path: Path, kind: str) -> None:
    written_files.write(path, TEXTS[kind], TEMPLATES, kind)


@pytest.mark.parametrize("kind", TEXTS)
def test_a_written_file_names_pgratchet_and_is_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "new" / "file"
    write(path, kind)
    path.write_text(path.read_text() + "#\n")
    write(path, kind)
    assert path.read_text() == f"{MARK}\n{TEXTS[kind]}"
    assert (stat.S_IMODE(path.stat().st_mode) == 0o600) is (kind != "yaml")


@pytest.mark.parametrize(
    ("kind", "old"),
    [
        ("database.env", "# prod: shop_prod\nDATABASE_URL='x'\nPOSTGRES_PASSWORD='y'\n"),
        ("pg_service.conf", "# dev\n[shop]\nhost=other\n"),
        ("pgpass", "h:1:*:me:rotated\n"),
        ("yaml", "# A Job for each target of prod: `invoke migrate`, once\nkind: Job\n"),
        ("yaml", "# Rendered by `pgratchet render --env=... --write=.gitlab-ci.yml`.\nstages: []\n"),
        ("yaml", TEXTS["yaml"]),
        ("database.env", ""),
    ],
)
def test_a_file_of_an_earlier_version_is_replaced(tmp_path: Path, kind: str, old: str) -> None:
    path = tmp_path / "file"
    path.write_text(old)
    write(path, kind)
    assert TEXTS[kind] in path.read_text()


@pytest.mark.parametrize(
    ("kind", "old", "lost"),
    [
        ("database.env", "API_KEY=1\nexport OTHER = 2\n", "2 variables would be lost: API_KEY, OTHER."),
        ("database.env", "DATABASE_URL=postgresql://mine\n", "Its 1 line would be lost."),
        ("database.env", "# dev: shop\nDATABASE_URL='x'\nAPI_KEY=1\n", "1 variable would be lost: API_KEY."),
        ("database.env", f"{MARK}\nDATABASE_URL='x'\nAPI_KEY=1\n", "1 variable would be lost: API_KEY."),
        ("pg_service.conf", "[reporting]\nhost=h\n[shop]\n", "1 service would be lost: reporting."),
        ("pgpass", "h:1:*:me:x\nother:1:*:me:hunter2\n", "1 login would be lost: other:1:*:me."),
        ("yaml", "name: my own workflow\non: push\n", "Its 2 lines would be lost."),
    ],
)
def test_a_file_of_the_user_is_left_as_it_is(tmp_path: Path, kind: str, old: str, lost: str) -> None:
    path = tmp_path / "file"
    path.write_text(old)
    with pytest.raises(ConfigurationError, match=r"exists, and pgratchet did not write it|has lines that") as caught:
        write(path, kind)
    assert path.read_text() == old
    assert lost in caught.value.detail
    assert "delete it first" in caught.value.hint
    assert "hunter2" not in str(caught.value)


def test_an_env_file_of_the_user_gets_another_name_in_the_hint(tmp_path: Path) -> None:
    for name, other in ((".env", "--write=database.env"), ("database.env", "--write=pgratchet.env")):
        (tmp_path / name).write_text("API_KEY=1\n")
        with pytest.raises(ConfigurationError) as caught:
            write(tmp_path / name, "database.env")
        assert other in caught.value.hint


@pytest.mark.parametrize("name", ["new/", "folder", ".env/", "folder/..", "."])
def test_the_name_of_a_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    with pytest.raises(ConfigurationError, match="is the name of a folder"):
        written_files.path_to_write(name)


@pytest.mark.parametrize("kind", ["database.env", "yaml"])
def test_an_unwritable_place_is_named_as_the_user_gave_it(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x.env", Path("/proc/x.env")):
        with pytest.raises(ConfigurationError, match=f"^cannot write {path}\n") as caught:
            write(path, kind)
        assert str(path.parent) in caught.value.hint
