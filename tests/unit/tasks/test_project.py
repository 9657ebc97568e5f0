"""Folders that are no project, and folders of migrations that do not exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgratchet.program import make_program
from tests.unit.tasks.helpers import run

NO_PROJECT = (
    "there is no project here\nDETAIL: There is no tasks.py and no folder inventory here or above.\n"
    "HINT: Change to the project's folder, or run `pgratchet init`."
)


@pytest.mark.parametrize(
    "words",
    [
        ["new", "create users"],
        ["new", "create users", "--sql=sql"],
        ["status"],
        ["migrate"],
        ["ci"],
        ["doctor"],
        ["backups"],
        ["up"],
    ],
)
def test_outside_a_project_nothing_is_written(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert err.startswith(NO_PROJECT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mark", ["tasks.py", "inventory/dev.yml", "sql/001_a.sql", "invoke.yaml"])
def test_new_works_in_every_form_of_a_project(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    (tmp_path / mark).parent.mkdir(exist_ok=True)
    (tmp_path / mark).touch()
    monkeypatch.chdir(tmp_path)
    make_program().run(["pgratchet", "new", "create users"], exit=False)
    assert (tmp_path / capsys.readouterr().out.strip()).is_file()


@pytest.mark.parametrize(
    ("words", "detail", "hint"),
    [
        (["--sql=sq"], "Did you mean sql?", "create it with `invoke new NAME --sql=sq`."),
        (["--sql=sql/more"], "The folder does not exist.\n", "`invoke new NAME --sql=sql/more`."),
        (["--sql=nowhere/sql"], "The folder does not exist.\n", "`invoke new NAME --sql=nowhere/sql`."),
    ],
)
@pytest.mark.parametrize("task", ["status", "migrate", "ci"])
def test_a_similar_folder_is_named(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    words: list[str],
    detail: str,
    hint: str,
) -> None:
    (tmp_path / "sql").mkdir()
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, task, *words)
    assert status == 2
    assert detail in err
    assert hint in err


def test_a_project_without_its_own_folder_is_told_how_to_make_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inventory").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "create it with `invoke new NAME`." in run(capsys, "status")[2]
