"""The program `pgratchet`: its help, its configuration files and the project that it works in."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pgratchet
from pgratchet.program import _project_folder, make_program


@pytest.mark.parametrize("mark", ["inventory/", "invoke.yaml", "invoke.yml"])
def test_the_project_is_found_from_a_folder_below_it(tmp_path: Path, mark: str) -> None:
    project, below = tmp_path / "shop", tmp_path / "shop" / "sql" / "repeatable"
    below.mkdir(parents=True)
    (project / mark).mkdir() if mark.endswith("/") else (project / mark).touch()
    assert _project_folder(project) == _project_folder(below) == project


def test_a_project_outside_the_repository_is_not_taken(tmp_path: Path) -> None:
    below = tmp_path / "shop" / "web"
    below.mkdir(parents=True)
    (tmp_path / "inventory").mkdir()
    (tmp_path / "shop" / ".git").mkdir()
    assert _project_folder(below) == below
    assert _project_folder(tmp_path / "shop") == tmp_path / "shop"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as ended:
        make_program().run(["pgratchet", *words])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_shows_the_tasks_and_then_the_few_flags_of_the_program(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    status, out, _ = run(capsys, *words)
    assert not status
    assert out.index("migrate") < out.index("--version")
    flags = re.findall(r"--[\w-]+(?=[\[=\s])", out.split("Flags of the program:")[1].split("`")[0])
    assert sorted(flags) == ["--config", "--help", "--list", "--print-completion-script", "--version"]
    assert all(word not in out for word in ("sudo", "pyc", "STRING", "core"))


@pytest.mark.parametrize(
    ("task", "usage", "flag"),
    [
        ("restore", "restore [FLAGS]", "--max-size=MB"),
        ("new", "new NAME [FLAGS]", "-s DIR, --sql=DIR"),
        ("init", "init [FLAGS]", "--folder=DIR"),
        ("adopt", "adopt [FLAGS]", "--exclude[=NAMES]"),
    ],
)
def test_help_of_a_task_names_what_its_flags_take(
    capsys: pytest.CaptureFixture[str], task: str, usage: str, flag: str
) -> None:
    status, out, _ = run(capsys, "--help", task)
    assert not status
    assert out.startswith(f"Usage: pgratchet {usage}\n\n")
    assert flag in out
    assert "Docstring" not in out
    assert "STRING" not in out


def test_the_list_has_the_tasks_alone(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--list")
    assert not status
    assert out.startswith("Tasks:\n\n  adopt ")
    assert "--" not in out


def test_a_shell_completes_the_flags_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "--complete", "--", "pgratchet", "--")[1]
    assert sorted(out.split()) == ["--config", "--help", "--list", "--print-completion-script", "--version"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("missing", None),
        ("missing.yaml", None),
        ("wrong.txt", "a: 1"),
        ("broken.yaml", "a: ["),
        ("broken.json", "{"),
        ("broken.py", "a = ("),
    ],
)
def test_a_configuration_file_that_cannot_be_read_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / name).write_text(text)
    status, out, err = run(capsys, "-f", name, "status", "--json")
    assert status == 2
    assert err.startswith(f"cannot read the configuration file {name}\nDETAIL: ")
    assert json.loads(out)["error"]["code"] == 2


def test_a_configuration_file_is_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.yaml").write_text("pgratchet: {sql: elsewhere}")
    (tmp_path / "inventory").mkdir()
    assert "no migrations folder elsewhere" in run(capsys, "--config=other.yaml", "status")[2]


def test_a_broken_configuration_of_the_project_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "invoke.yaml").write_text("a: [")
    status, _, err = run(capsys, "status")
    assert status == 2
    assert err.startswith(f"cannot read the configuration of the project {tmp_path}\nDETAIL: ")


@pytest.mark.parametrize(("folder", "step"), [("shop", "cd shop && "), ("the shop", "cd 'the shop' && "), (".", "")])
def test_init_says_what_to_run_next_and_where(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, step: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_program().run(["pgratchet", "init", folder], exit=False)
    assert f"\nnext: {step}pgratchet new 'create users', " in "\n" + capsys.readouterr().err


def test_output_that_nobody_reads_ends_the_program() -> None:
    """As in `pgratchet --help | head -1`."""
    code = "from pgratchet.program import main; main()"
    environ = os.environ | {"PYTHONPATH": str(Path(pgratchet.__file__).parents[1])}
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(
            [sys.executable, "-c", code, "--help"], stdout=writer, stderr=subprocess.PIPE, check=False, env=environ
        )
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")
